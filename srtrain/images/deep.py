"""16 bits a channel, which Pillow cuts to 8 in everything but gray."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from srtrain.images.picture import Picture, Pixels
from srtrain.images.png import GRAY_ALPHA, RGBA, SIGNATURE

if TYPE_CHECKING:
    from pathlib import Path

PNG_HEADER = 33
"""Bytes of a PNG up to the end of its header."""
_BITS_PER_SAMPLE = 258  # TIFF tag
_SLACK = 16 * 2**20  # bytes beside the pixels: profiles, previews, text


def png_header(data: bytes) -> tuple[int, int, int, int] | None:
    """(width, height, bit depth, colour type), or None if this is no PNG."""
    if len(data) < PNG_HEADER or not data.startswith(SIGNATURE) or data[12:16] != b"IHDR":
        return None
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    return width, height, depth, colour


def png_chunks(data: bytes) -> dict[bytes, int]:
    """The kinds of chunks in a PNG, each with the bytes of its largest; headers alone are read."""
    at, found = len(SIGNATURE), dict[bytes, int]()
    while len(header := data[at : at + 8]) == 8:
        length, kind = int.from_bytes(header[:4]), header[4:]
        found[kind] = max(length, found.get(kind, 0))
        at += 12 + length
    return found


def is_deep(image: Image.Image) -> bool:
    """Whether an opened file holds 16-bit colour, or 16-bit gray with alpha."""
    if image.format == "PNG":
        layouts = [str(tile[3]) for tile in getattr(image, "tile", ())]
        return image.mode in ("RGB", "RGBA") and any("16B" in layout for layout in layouts)
    if image.format == "TIFF" and image.mode in ("RGB", "RGBA"):
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))
        return bool(max(bits) == 16)
    return False


def read(path: Path, image: Image.Image, notes: tuple[str, ...]) -> Picture:
    """The Picture of a file for which ``is_deep``, not turned yet."""
    icc = image.info.get("icc_profile")
    pixels_at_most = 8 * image.width * image.height  # bytes, of four channels
    if image.format == "PNG":
        if path.stat().st_size > pixels_at_most + _SLACK:
            raise ValueError("the file is larger than its pixels can be")
        levels, mode = _read_png(path.read_bytes())
    else:
        levels, mode = _read_tiff(path, pixels_at_most), f"{image.mode};16"
    colours = levels.shape[2] - (levels.shape[2] in (2, 4))
    alpha = levels[..., -1].copy() if colours < levels.shape[2] else None
    pixels = np.ascontiguousarray(levels[..., :colours])
    return Picture(pixels, alpha, mode=mode, icc=icc, notes=notes)


def gray16(levels: Pixels) -> Pixels:
    """uint16 of Pillow's 16 or 32-bit gray; levels that do not fit are refused, not clipped."""
    if levels.dtype != np.uint16 and (levels.min() < 0 or levels.max() > 65535):
        raise ValueError("32-bit gray levels beyond 0 … 65535; save it as 16-bit PNG")
    return levels.astype(np.uint16)


def encode_tiff(pixels: Pixels, alpha: Pixels | None, icc: bytes | None) -> bytes:
    """A 16-bit deflated TIFF file of uint16 (H, W, 1 or 3), with alpha and profile if given.

    Gray with alpha becomes RGB with alpha: the former is what Pillow cannot open.
    """
    import tifffile

    if alpha is not None:
        pixels = np.broadcast_to(pixels, (*alpha.shape, 3))
    levels = pixels if alpha is None else np.dstack([pixels, alpha])
    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        levels.squeeze(2) if levels.shape[2] == 1 else levels,
        photometric="rgb" if pixels.shape[2] == 3 else "minisblack",
        planarconfig="contig" if levels.shape[2] > 1 else None,
        extrasamples=None if alpha is None else ["unassalpha"],
        compression="zlib",
        iccprofile=icc,
    )
    return stream.getvalue()


def _read_png(data: bytes) -> tuple[Pixels, str]:
    width, height, _, colour = png_header(data) or (0, 0, 0, 0)
    if colour == GRAY_ALPHA:
        return _read_gray_alpha(data), "LA;16"
    from kornia_rs import io as fast

    mode = "rgba" if colour == RGBA else "rgb"
    return np.asarray(fast.decode_image_png_u16(data, (height, width), mode)), f"{mode.upper()};16"


def _read_gray_alpha(data: bytes) -> Pixels:
    """16-bit gray with alpha has four bytes a pixel, as 8-bit RGBA has: read as such, then join."""
    header = data[12:24] + bytes([8, RGBA]) + data[26:29]
    patched = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    with Image.open(io.BytesIO(patched)) as image:
        return np.array(image).view(">u2").astype(np.uint16)


def _read_tiff(path: Path, largest: int) -> Pixels:
    """Raises: ValueError if the tags ask for more than ``largest`` bytes: depth, many samples."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        if page.nbytes > largest:
            raise ValueError(f"its tags ask for {page.nbytes} bytes, its pixels need {largest}")
        levels: Pixels = page.asarray()
        planes_first = int(getattr(page, "planarconfig", 1)) == 2
    return np.ascontiguousarray(levels.transpose(1, 2, 0) if planes_first else levels)
