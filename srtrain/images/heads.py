"""The sizes of plain files by their first bytes: in a third of the time that Pillow takes.

Plain is what Pillow has nothing to say about: no tags, profiles, text, further pictures, nor any
segment or chunk that it might refuse.
"""

from __future__ import annotations

import zlib

from srtrain.images.deep import PNG_HEADER, png_header

HEAD = 2**14
"""So many bytes of a file are looked at."""
JPEG = b"\xff\xd8\xff"
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive: by Huffman's codes
_TABLES = frozenset({0xC4, 0xDB, 0xDD, 0xFE})  # and restarts, comments
_TOLD = {0xE0: (b"JFIF\0", 16), 0xEE: (b"Adobe", 14)}  # how they begin, and at least how long
_KNOWN = _TABLES | _TOLD.keys()
_SCAN = 0xDA
_RGB8 = (17, 8, 3)  # bytes of the segment, bits, components
_LENGTHS = {b"gAMA": 4, b"sRGB": 1, b"cHRM": 32, b"pHYs": 9, b"tIME": 7}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 4: (8, 16), 6: (8, 16)}  # by PNG's type of colour


def plain_size(head: bytes) -> tuple[int, int] | None:
    """(height, width) of a plain PNG, or JPEG of 8-bit RGB; None: ask Pillow."""
    return jpeg_size(head) if head.startswith(JPEG) else _png_size(head)


def jpeg_size(head: bytes) -> tuple[int, int] | None:
    """(height, width) of a plain JPEG of 8-bit RGB, whose segments up to the pixels are looked at.

    None for all else.
    """
    at, size = 2, (0, 0)
    while len(segment := head[at : at + 10]) == 10 and segment[0] == 0xFF:
        kind, length = segment[1], int.from_bytes(segment[2:4])
        begins, least = _TOLD.get(kind, (b"", 2))
        if kind == _SCAN:
            return size if min(size) > 0 else None
        if kind in _FRAMES and size == (0, 0) and (length, segment[4], segment[9]) == _RGB8:
            size = int.from_bytes(segment[5:7]), int.from_bytes(segment[7:9])
        elif kind not in _KNOWN or length < least or not segment[4:].startswith(begins):
            return None
        at += 2 + length
    return None


def _png_size(head: bytes) -> tuple[int, int] | None:
    width, height, depth, colour = png_header(head) or (0, 0, 0, 0)
    legal = head[8:12] == b"\0\0\0\r" and depth in _DEPTHS.get(colour, ()) and not any(head[26:28])
    if not (legal and width and height and _is_whole(head[12:PNG_HEADER])):
        return None
    at = PNG_HEADER
    while len(chunk := head[at : at + 8]) == 8 and chunk[4:] in _LENGTHS:
        end = at + 12 + _LENGTHS[chunk[4:]]
        if int.from_bytes(chunk[:4]) != _LENGTHS[chunk[4:]] or not _is_whole(head[at + 4 : end]):
            return None
        at = end
    return (height, width) if chunk[4:] == b"IDAT" else None


def _is_whole(chunk: bytes) -> bool:
    """Kind, content and checksum of a PNG's chunk."""
    return zlib.crc32(chunk[:-4]).to_bytes(4) == chunk[-4:]
