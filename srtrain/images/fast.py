"""Decoding what is decoded by the thousand, by ``kornia_rs`` where it makes the same pixels.

That is for plain 8-bit RGB PNGs (3 to 4 times faster than Pillow, safe Rust) and undamaged RGB
JPEGs (1.4 times; both are libjpeg-turbo). Not torchvision.io, which dies of SIGSEGV on a PNG with
a wrong CRC.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash

from srtrain.errors import DataError
from srtrain.files import fingerprint_of
from srtrain.images import deep
from srtrain.images.heads import HEAD, JPEG, jpeg_size, plain_size
from srtrain.images.opening import decoding, opened, orientation, refuse_bomb, refuse_special
from srtrain.images.picture import Picture, Pixels
from srtrain.images.reading import Header, header, image_size, read_picture

if TYPE_CHECKING:
    from io import FileIO

_SLACK = 16 * 2**20  # bytes beside the pixels: profiles, previews, text
_MORE = frozenset({b"iCCP", b"acTL"})  # chunks of what a Picture tells beside its pixels
_PROFILE = 16 * 2**10  # compressed: the fast decoder unpacks up to a thousand times as much


class _Plain(NamedTuple):
    """``whole``: a Picture would hold nothing but the pixels."""

    pixels: Pixels
    content: bytes
    whole: bool


def read_quickly(path: Path) -> Picture:
    """As ``read_picture``, many times each second."""
    plain = None
    with contextlib.suppress(DataError):  # Pillow knows better what is wrong
        plain = _plain(Path(path))
    return Picture(plain.pixels) if plain is not None and plain.whole else read_picture(path)


def pixels_in(path: Path) -> int:
    """Height x width, by the header alone; of a PNG whatever else is wrong with it.

    Raises: DataError naming the file and the reason.
    """
    with decoding(path):
        refuse_special(path)
        with path.open("rb", buffering=0) as stream:
            found = deep.png_header(stream.read(deep.PNG_HEADER))
    height, width = image_size(path) if found is None else found[:2]
    return height * width


def survey(path: Path) -> Header:
    """As ``header``; of a plain file that is damaged further on its size all the same.

    Raises: DataError naming the file and the reason.
    """
    with decoding(path):
        refuse_special(path)
        with path.open("rb", buffering=0) as stream:
            size = plain_size(stream.read(HEAD))
        if size is None:
            return header(path)
        refuse_bomb((size[1], size[0]), path)
        return Header(size, ())


def read_rgb8(path: Path) -> Pixels:
    """uint8 (H, W, 3) of any image file, for training; alpha is laid over white.

    Raises: DataError naming the file and the reason. Corrupt files raise, they never crash.
    """
    plain = _plain(Path(path))
    return read_picture(path).rgb8() if plain is None else plain.pixels


def read_hashed(path: Path) -> tuple[Pixels, str]:
    """As ``read_rgb8``, and `fingerprint_of` the file: where it can be, of the decoded bytes."""
    plain = _plain(Path(path))
    if plain is None:
        return read_picture(path).rgb8(), fingerprint_of(path)
    return plain.pixels, xxhash.xxh3_128_hexdigest(plain.content)


def _plain(path: Path) -> _Plain | None:
    """What the fast decoders make of a file, and its content; None if it is not for them."""
    with decoding(path):
        refuse_special(path)
        with path.open("rb", buffering=0) as stream:  # buffers would be copied twice
            head = stream.read(deep.PNG_HEADER)
            stream.seek(0)
            return (_plain_jpeg if head.startswith(JPEG) else _plain_png)(path, head, stream)


def _plain_png(path: Path, head: bytes, stream: FileIO) -> _Plain | None:
    """8-bit RGB without alpha or orientation, by the fast decoder; None if it is not that."""
    width, height, depth, colour = deep.png_header(head) or (0, 0, 0, 0)
    if (depth, colour) != (8, 2):
        return None
    refuse_bomb((width, height), path)
    if path.stat().st_size > 3 * width * height + _SLACK:  # an animation? Pillow knows
        return None
    content = stream.read()
    chunks = deep.png_chunks(content)
    if not chunks.keys().isdisjoint({b"eXIf", b"tRNS"}) or chunks.get(b"iCCP", 0) > _PROFILE:
        return None
    from kornia_rs import io as fast

    pixels = np.asarray(fast.decode_image_png_u8(content, (height, width), "rgb"))
    return _Plain(pixels, content, whole=chunks.keys().isdisjoint(_MORE))


def _plain_jpeg(path: Path, _head: bytes, stream: FileIO) -> _Plain | None:
    """Upright RGB, by the fast decoder; None if it is not that, or damaged: Pillow may mend it."""
    size, whole = jpeg_size(stream.read(HEAD)), True
    if size is None:
        with opened(path) as image:
            if image.format != "JPEG" or image.mode != "RGB" or orientation(image) != 1:
                return None
            size, whole = (image.height, image.width), "icc_profile" not in image.info
    height, width = size
    refuse_bomb((width, height), path)
    if path.stat().st_size > 3 * width * height + _SLACK:
        return None
    from kornia_rs import io as fast

    stream.seek(0)
    content = stream.read()
    try:
        pixels = np.asarray(fast.decode_image_jpegturbo(content, "rgb"))
    except Exception:  # it knows no other
        return None
    return _Plain(pixels, content, whole) if pixels.shape == (height, width, 3) else None
