"""Encoding pictures, whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from srtrain.errors import DataError
from srtrain.files import write_atomic
from srtrain.images import deep
from srtrain.images.picture import Picture
from srtrain.images.reading import shown

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
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "TIFF": {"compression": "tiff_deflate"},
    "BMP": {},
}


def write_picture(path: Path, picture: Picture) -> None:
    """Encode by the suffix of ``path`` and replace it atomically; the profile is kept.

    16 bit stays so in PNG and TIFF and is rounded to 8 elsewhere; alpha is laid over white in
    JPEG and BMP. JPEG is written at quality 95 without chroma subsampling, WebP without loss.

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
    write_atomic(path, _encode(picture, kind, path))


def _encode(picture: Picture, kind: str, path: Path) -> bytes:
    if picture.bits == 16 and kind in ("PNG", "TIFF"):
        encode = deep.encode_png if kind == "PNG" else deep.encode_tiff
        return encode(picture.pixels, picture.alpha, picture.icc)
    image = _pillow(picture, keep_alpha=kind not in ("JPEG", "BMP"))
    extra = {} if picture.icc is None or kind == "BMP" else {"icc_profile": picture.icc}
    stream = io.BytesIO()
    try:
        image.save(stream, kind, **_OPTIONS[kind], **extra)
    except (OSError, ValueError) as error:  # 65,535 px a side in JPEG, 16,383 in WebP
        height, width = picture.size
        what = f"{width}x{height} pixels cannot be written as {kind}: {error}"
        raise DataError(what, where=shown(path), fix="use PNG") from error
    return stream.getvalue()


def _pillow(picture: Picture, *, keep_alpha: bool) -> Image.Image:
    gray = picture.pixels.shape[2] == 1
    if picture.alpha is None or not keep_alpha:
        rgb = picture.rgb8()
        return Image.fromarray(rgb[..., 0] if gray else rgb)
    opaque = Picture(picture.pixels).rgb8()
    alpha = Picture(picture.alpha[..., None]).rgb8()[..., :1]
    return Image.fromarray(np.dstack([opaque[..., :1] if gray else opaque, alpha]))
