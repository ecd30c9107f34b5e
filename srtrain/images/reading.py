"""Decoding image files that nobody vouches for.

Pillow decodes; only plain 8-bit RGB PNGs for training go through ``kornia_rs`` (3 to 4 times
faster, and safe Rust). Not torchvision.io, which dies of SIGSEGV on a PNG with a wrong CRC.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from srtrain.errors import DataError, Stopped
from srtrain.images import deep
from srtrain.images.picture import Picture, Pixels

if TYPE_CHECKING:
    from collections.abc import Iterator

_DEFAULT_MAX_PIXELS = 2**27  # 134 million: 0.4 GB as RGB8
_ORIENTATION = 0x0112  # EXIF tag
_SLACK = 16 * 2**20  # bytes beside the pixels: profiles, previews, text
_PROFILE = 16 * 2**10  # compressed: the fast decoder unpacks up to a thousand times as much
# Of Pillow's decoders those of IMAGE_SUFFIXES, whatever a file is named: others start programs
# (EPS: Ghostscript) or are hardly used.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF")

# Said as a DataError below; catch_warnings would not be safe among threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_picture(path: Path) -> Picture:
    """The picture in a file, upright by its EXIF tag; of an animation, the first frame.

    Palette and CMYK become RGB (CMYK through its ICC profile), 16 bit stays 16 bit, alpha (also a
    transparent colour of PNG or GIF) is split off.

    Raises: DataError naming the file and the reason; nothing larger than ``SRTRAIN_MAX_PIXELS``
    (default 134 million) is allocated.
    """
    path = Path(path)
    with _opened(path) as image:
        turn = _orientation(image)
        notes = _frames_note(image)
        if deep.is_deep(image):
            return _upright(deep.read(path, image, notes), turn)
        picture = from_pillow(image)
        return replace(picture, notes=(*notes, *picture.notes))


def from_pillow(image: Image.Image) -> Picture:
    """The picture in an open Pillow image, upright by its EXIF tag, at most 8 bits a colour.

    Raises: ValueError for pixels of another kind; Pillow's errors if the data cannot be decoded.
    """
    turn = _orientation(image)
    tiff = image.format == "TIFF"  # turned by Pillow itself while loading
    return _upright(_shallow(image), 1 if tiff else turn)


def read_rgb8(path: Path) -> Pixels:
    """uint8 (H, W, 3) of any image file, for training; alpha is laid over white.

    Raises: DataError naming the file and the reason. Corrupt files raise, they never crash.
    """
    path = Path(path)
    pixels = _plain_png(path)
    return read_picture(path).rgb8() if pixels is None else pixels


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright image, from the header alone.

    Raises: DataError naming the file and the reason.
    """
    path = Path(path)
    with _opened(path) as image:
        width, height = image.size
        # Pillow gives the size of a TIFF as it will be after turning.
        lies = image.format != "TIFF" and _orientation(image) >= 5
        return (width, height) if lies else (height, width)


def header_notes(path: Path) -> tuple[str, ...]:
    """What will be lost of the file's content, as far as its header tells, for people.

    Raises: DataError naming the file and the reason.
    """
    with _opened(Path(path)) as image:
        return _frames_note(image)


def shown(path: Path) -> str:
    """A path on one line: newlines and other unprintable characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file with its header read, no larger than allowed; failures within are DataErrors."""
    limit = _max_pixels()
    if Image.MAX_IMAGE_PIXELS is not None:  # one limit, not two; Pillow warns at 89 million
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limit)
    with _decoding(path):
        _refuse_special(path)
        with Image.open(path, formats=_FORMATS) as image:
            _refuse_bomb(image.size, path)
            yield image


@contextlib.contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turns whatever a decoder throws at a bad file into a DataError with the reason."""
    try:
        yield
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, str(error)) from error
    except FileNotFoundError as error:
        raise DataError("no such image", where=shown(path)) from error
    except (PermissionError, IsADirectoryError) as error:
        raise DataError(f"cannot be read: {error.strerror}", where=shown(path)) from error
    except UnidentifiedImageError as error:
        raise DataError(_what_it_is_instead(path), where=shown(path)) from error
    except (KeyboardInterrupt, SystemExit, GeneratorExit, Stopped):
        raise
    except BaseException as error:  # SyntaxError, struct.error, OSError …, a panic of Rust
        reason = str(error) or type(error).__name__
        raise DataError(f"damaged image: {reason}", where=shown(path)) from error


def _refuse_special(path: Path) -> None:
    """A pipe or a terminal would be waited for, a device never ends."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError("not a regular file (a pipe, socket or device)", where=shown(path))


def _refuse_bomb(size: tuple[int, int], path: Path) -> None:
    if size[0] * size[1] > _max_pixels():
        raise _too_large(path, f"{size[0]}x{size[1]} pixels")


def _max_pixels() -> int:
    return int(os.environ.get("SRTRAIN_MAX_PIXELS", _DEFAULT_MAX_PIXELS))


def _too_large(path: Path, size: str) -> DataError:
    return DataError(
        f"image too large: {size}, the limit is {_max_pixels()}",
        where=shown(path),
        fix="cut it into pieces, or set SRTRAIN_MAX_PIXELS if you trust it",
    )


def _what_it_is_instead(path: Path) -> str:
    with path.open("rb") as stream:
        head = stream.read(24)
    if not head:
        return "empty file (0 bytes)"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the image; run `git lfs pull`"
    return f"not a readable image: the file starts with {head!r}"


def _orientation(image: Image.Image) -> int:
    """1 … 8; of a PNG only if the tag precedes the pixels, so that headers are enough."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    turn = image.getexif().get(_ORIENTATION, 1)
    return turn if turn in range(1, 9) else 1


def _frames_note(image: Image.Image) -> tuple[str, ...]:
    frames = getattr(image, "n_frames", 1)
    return (f"{frames} frames: the first only",) if frames > 1 else ()


def _shallow(image: Image.Image) -> Picture:
    """A Picture of at most 8 bits a channel, or of 16-bit gray, as Pillow decodes it."""
    image.load()
    mode, icc = image.mode, image.info.get("icc_profile")
    if mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        notes = (f"{mode}: converted to RGB",)
        return Picture(np.array(_to_rgb(image, icc)), mode=mode, notes=notes)
    if mode.startswith("I"):
        return Picture(deep.gray16(np.array(image))[..., None], mode=mode, icc=icc)
    gray = mode in ("1", "L", "LA")
    if not gray and mode not in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX"):
        raise ValueError(f"pixels of type {mode!r} are not supported; save it as 16-bit PNG")
    transparent = mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info
    if transparent:
        levels = np.array(image.convert("RGBA"))
        pixels = levels[..., :1] if gray else levels[..., :3]
        return Picture(pixels.copy(), levels[..., 3].copy(), mode=mode, icc=icc)
    levels = np.array(image.convert("L" if gray else "RGB"))
    return Picture(levels.reshape(*levels.shape[:2], -1), mode=mode, icc=icc)


def _to_rgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Through the embedded profile to sRGB; without a usable one, by Pillow's plain formula."""
    if icc:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
            if converted is not None:
                return converted
    return image.convert("RGB")


def _upright(picture: Picture, turn: int) -> Picture:
    if turn == 1:
        return picture
    alpha = None if picture.alpha is None else _turned(picture.alpha, turn)
    return replace(picture, pixels=_turned(picture.pixels, turn), alpha=alpha)


def _turned(levels: Pixels, turn: int) -> Pixels:
    """What EXIF orientation ``turn`` asks for: transposed from 5 on, then mirrored."""
    if turn >= 5:
        levels = levels.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        levels = levels[::-1]
    if turn in (2, 3, 6, 7):
        levels = levels[:, ::-1]
    return np.ascontiguousarray(levels)


def _plain_png(path: Path) -> Pixels | None:
    """8-bit RGB without alpha or orientation, by the fast decoder; None if it is not that."""
    with _decoding(path):
        _refuse_special(path)
        with path.open("rb") as stream:
            head = stream.read(deep.PNG_HEADER)
            width, height, depth, colour = deep.png_header(head) or (0, 0, 0, 0)
            if (depth, colour) != (8, 2):
                return None
            _refuse_bomb((width, height), path)
            if path.stat().st_size > 3 * width * height + _SLACK:  # an animation? Pillow knows
                return None
            data = head + stream.read()
        if b"eXIf" in data or b"tRNS" in data or deep.png_profile(data) > _PROFILE:
            return None
        from kornia_rs import io as fast

        return np.asarray(fast.decode_image_png_u8(data, (height, width), "rgb"))
