"""Opening image files that nobody vouches for: what they hold instead, and how large they are."""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from srtrain.errors import ConfigError, DataError, Stopped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DEFAULT_MAX_PIXELS = 2**27  # 134 million: 0.4 GB as RGB8
_ORIENTATION = 0x0112  # EXIF tag
# Of Pillow's decoders those of IMAGE_SUFFIXES, whatever a file is named: others start programs
# (EPS: Ghostscript) or are hardly used.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF")

# Said as a DataError below; catch_warnings would not be safe among threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def shown(path: Path) -> str:
    """A path on one line: newlines and other unprintable characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The file with its header read, no larger than allowed; failures within are DataErrors."""
    limit = _max_pixels()
    if Image.MAX_IMAGE_PIXELS is not None:  # one limit, not two; Pillow warns at 89 million
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limit)
    with decoding(path):
        refuse_special(path)
        with Image.open(path, formats=_FORMATS) as image:
            refuse_bomb(image.size, path)
            yield image


@contextlib.contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turns whatever a decoder throws at a bad file into a DataError with the reason."""
    try:
        yield
    except (DataError, ConfigError):  # the latter of a limit that is no number
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
        fix = "copy it again, or take it away"
        raise DataError(f"damaged image: {reason}", where=shown(path), fix=fix) from error


def refuse_special(path: Path) -> None:
    """A pipe or a terminal would be waited for, a device never ends."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError("not a regular file (a pipe, socket or device)", where=shown(path))


def refuse_bomb(size: tuple[int, int], path: Path) -> None:
    """Raises: DataError for (width, height) beyond ``SRTRAIN_MAX_PIXELS``."""
    if size[0] * size[1] > _max_pixels():
        raise _too_large(path, f"{size[0]}x{size[1]} pixels")


def _max_pixels() -> int:
    given = os.environ.get("SRTRAIN_MAX_PIXELS", str(_DEFAULT_MAX_PIXELS))
    try:
        return int(float(given))
    except (ValueError, OverflowError) as error:
        fix = "a number of pixels, as 1e9"
        raise ConfigError(f"{given!r} is no number", where="SRTRAIN_MAX_PIXELS", fix=fix) from error


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


def orientation(image: Image.Image) -> int:
    """1 … 8; of a PNG only if the tag precedes the pixels, so that headers are enough."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    turn = image.getexif().get(_ORIENTATION, 1)
    return turn if turn in range(1, 9) else 1
