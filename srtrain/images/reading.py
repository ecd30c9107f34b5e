"""Decoding image files that nobody vouches for, of any kind that Pillow knows."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

from srtrain.images import deep
from srtrain.images.opening import opened, orientation
from srtrain.images.picture import Picture, Pixels


class Header(NamedTuple):
    """(height, width) of the upright image, and what will be lost of the file, for people."""

    size: tuple[int, int]
    notes: tuple[str, ...]


def read_picture(path: Path) -> Picture:
    """The picture in a file, upright by its EXIF tag; of an animation, the first frame.

    Palette and CMYK become RGB (CMYK through its ICC profile), 16 bit stays 16 bit, alpha (also a
    transparent colour of PNG or GIF) is split off.

    Raises: DataError naming the file and the reason; nothing larger than ``SRTRAIN_MAX_PIXELS``
    (default 134 million) is allocated.
    """
    path = Path(path)
    with opened(path) as image:
        turn = orientation(image)
        notes = _frames_note(image)
        if deep.is_deep(image):
            return _upright(deep.read(path, image, notes), turn)
        picture = from_pillow(image)
        return replace(picture, notes=(*notes, *picture.notes))


def from_pillow(image: Image.Image) -> Picture:
    """The picture in an open Pillow image, upright by its EXIF tag, at most 8 bits a colour.

    Raises: ValueError for pixels of another kind; Pillow's errors if the data cannot be decoded.
    """
    turn = orientation(image)
    tiff = image.format == "TIFF"  # turned by Pillow itself while loading
    return _upright(_shallow(image), 1 if tiff else turn)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright image, from the header alone.

    Raises: DataError naming the file and the reason.
    """
    with opened(Path(path)) as image:
        return _upright_size(image)


def header(path: Path) -> Header:
    """What an image's header tells; opens the file once.

    Raises: DataError naming the file and the reason.
    """
    path = Path(path)
    with opened(path) as image:
        return Header(_upright_size(image), _frames_note(image))


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    # Pillow gives the size of a TIFF as it will be after turning.
    lies = image.format != "TIFF" and orientation(image) >= 5
    return (width, height) if lies else (height, width)


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
