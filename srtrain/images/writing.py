"""Encoding pictures, whole or not at all."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from srtrain.errors import DataError
from srtrain.files import write_atomic
from srtrain.images import deep
from srtrain.images.opening import shown
from srtrain.images.picture import Picture, Pixels
from srtrain.images.png import Sheet, strips_of, write_png

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from srtrain.files import Content

    Put = Callable[[Path, Content], object]

_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
WRITABLE_SUFFIXES = frozenset(_FORMATS)

_OPTIONS: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "TIFF": {"compression": "tiff_deflate"},
    "BMP": {},
}


def write_picture(path: Path, picture: Picture, *, put: Put = write_atomic) -> None:
    """Encode by the suffix of ``path`` and replace it atomically, in its folder; profiles are kept.

    16 bit stays so in PNG and TIFF and is rounded to 8 elsewhere; alpha is laid over white in
    JPEG and BMP. JPEG is written at quality 95 without chroma subsampling, WebP without loss.
    ``put`` writes the file, as `write_atomic` does or in two halves.

    Raises: DataError for another suffix, or if the format cannot hold the size; OSError of the
    file system.
    """
    path = Path(path)
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise DataError(
            f"images cannot be written as {path.suffix or 'a file without suffix'}",
            where=shown(path),
            fix=f"use one of {' '.join(sorted(WRITABLE_SUFFIXES))}",
        )
    if kind == "PNG":
        channels = picture.pixels.shape[2] + (picture.alpha is not None)
        sheet = Sheet(picture.size, channels, picture.bits, picture.icc)
        write_strips(path, sheet, strips_of(picture), put=put)
        return
    encoded = _encode(picture, kind, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    put(path, encoded)


def takes_strips(path: Path) -> bool:
    """Whether ``write_strips`` can write this file."""
    return _FORMATS.get(path.suffix.lower()) == "PNG"


def write_strips(
    path: Path, sheet: Sheet, strips: Iterable[Pixels], *, put: Put = write_atomic
) -> None:
    """As ``write_picture``, of strips from top to bottom, each encoded as it comes.

    What ``strips`` raises leaves no file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    put(path, lambda stream: write_png(stream, sheet, strips))


def _encode(picture: Picture, kind: str, path: Path) -> bytes:
    if picture.bits == 16 and kind == "TIFF":
        return deep.encode_tiff(picture.pixels, picture.alpha, picture.icc)
    image = to_pillow(picture if kind not in ("JPEG", "BMP") else _without_alpha(picture))
    extra = {} if picture.icc is None or kind == "BMP" else {"icc_profile": picture.icc}
    stream = io.BytesIO()
    try:
        image.save(stream, kind, **_OPTIONS[kind], **extra)
    except (OSError, ValueError) as error:  # 65,535 px a side in JPEG, 16,383 in WebP
        height, width = picture.size
        what = f"{width}x{height} pixels cannot be written as {kind}: {error}"
        raise DataError(what, where=shown(path), fix="use PNG") from error
    return stream.getvalue()


def to_pillow(picture: Picture) -> Image.Image:
    """L, LA, RGB or RGBA with the profile in ``info``; 16 bit stays only as gray without alpha."""
    gray = picture.pixels.shape[2] == 1
    opaque = Picture(picture.pixels)
    if picture.alpha is not None:
        alpha = Picture(picture.alpha[..., None]).rgb8()[..., :1]
        levels = opaque.rgb8()[..., : 1 if gray else 3]
        image = Image.fromarray(np.dstack([levels, alpha]))
    elif gray and picture.bits == 16:
        image = Image.fromarray(picture.pixels[..., 0])
    else:
        rgb = opaque.rgb8()
        image = Image.fromarray(np.ascontiguousarray(rgb[..., 0]) if gray else rgb)
    if picture.icc is not None:
        image.info["icc_profile"] = picture.icc
    return image


def _without_alpha(picture: Picture) -> Picture:
    if picture.alpha is None:
        return picture
    rgb = picture.rgb8()
    return replace(picture, pixels=rgb[..., : picture.pixels.shape[2]], alpha=None)
