"""Image files made by hand, good and bad, independent of the code under test."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image


def levels_of(*shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, shape, dtype=dtype, endpoint=True)


def png(width: int, height: int, depth: int, colour: int, levels: bytes) -> bytes:
    """A PNG made by hand (PNG specification, filter 0), independent of the code under test."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    step = len(levels) // height
    rows = b"".join(b"\0" + levels[i * step : (i + 1) * step] for i in range(height))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(levels_of(64, 64, 3)).save(stream, kind)
    return stream.getvalue()


def wrong_crc() -> bytes:
    data = bytearray(encoded("PNG"))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def text_bomb() -> bytes:
    text = b"zTXt" + b"k\0\0" + zlib.compress(bytes(64 * 2**20))
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    data = png(1, 1, 8, 0, b"\0")
    return data[:33] + chunk + data[33:]


BAD: list[tuple[str, Callable[[], bytes], str]] = [
    ("half.png", lambda: half(encoded("PNG")), "damaged"),
    ("half.jpg", lambda: half(encoded("JPEG")), "damaged.*truncated"),
    ("half.webp", lambda: half(encoded("WEBP")), "damaged|not a readable image"),
    ("half.tif", lambda: half(encoded("TIFF")), "damaged|not a readable image"),
    ("crc.png", wrong_crc, "damaged"),
    ("zero.png", lambda: b"", r"empty file \(0 bytes\)"),
    (
        "text.png",
        lambda: b"hello, world\n" * 9,
        "not a readable image: the file starts with b'hello",
    ),
    ("page.png", lambda: b"<!DOCTYPE html><html>", "not a readable image.*html"),
    ("lfs.png", lambda: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ("bomb50k.png", lambda: png(50_000, 50_000, 8, 2, b"\0" * 50_000), "too large"),
    (
        "bomb13k.png",
        lambda: png(13_000, 13_000, 8, 2, b"\0" * 13_000),
        "too large.*169000000|too large: 13000x13000",
    ),
    ("ztxt.png", text_bomb, "damaged.*too large"),
]
