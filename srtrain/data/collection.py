"""What the cache stores: named images which can be decoded again at any time, in any process."""

from __future__ import annotations

import functools
import hashlib
import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from srtrain.files import fingerprint_of
from srtrain.images import image_size, read_hashed, read_rgb8, shown, survey

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np


class Survey(NamedTuple):
    """What is known of an image before its pixels are read: (height, width) of each side.

    ``note``: what will be lost of it, for people; mostly empty.
    """

    shapes: tuple[tuple[int, int], ...]
    note: str = ""


class Source(ABC):
    """Images to draw from: collections, each with how many times one pass visits it."""

    @abstractmethod
    def collections(self) -> list[tuple[Collection, int]]:
        """Scans now. Raises DataError listing what is missing."""


class Collection(Source):
    """Named images with one side (HR) or two (HR, LR). Picklable."""

    sides: int = 1
    names: Sequence[str]

    def collections(self) -> list[tuple[Collection, int]]:
        """Itself, visited once."""
        return [(self, 1)]

    def where(self, index: int) -> str:
        """What to call an image when it is at fault: its path, if it has one."""
        return self.names[index]

    @abstractmethod
    def quick_key(self) -> str:
        """Changes whenever the content may have; reads no file."""

    @abstractmethod
    def shapes(self, index: int) -> tuple[tuple[int, int], ...]:
        """(height, width) of each side, without decoding. Raises DataError."""

    @abstractmethod
    def digest(self, index: int) -> str:
        """Hash of what the pixels are made from."""

    def survey(self, index: int) -> Survey:
        """Sizes of one image, and what will be lost of it. Raises DataError."""
        return Survey(self.shapes(index))

    @abstractmethod
    def decode(self, index: int) -> tuple[np.ndarray, ...]:
        """The pixels of each side, uint8 (H, W, 3). Raises DataError."""

    def decode_hashed(self, index: int) -> tuple[tuple[np.ndarray, ...], str]:
        """As ``decode``, and the hash of what these very pixels are made from."""
        return self.decode(index), self.digest(index)


class Files(Collection):
    """Image files: ``rows[i]`` holds the path of each side of image i."""

    def __init__(
        self, names: Sequence[str], rows: Sequence[tuple[Path, ...]], *, sides: int = 1
    ) -> None:
        self.names = names
        self.rows = rows
        self.sides = sides

    def where(self, index: int) -> str:
        """The path, or those of the pair."""
        return ", ".join(shown(path) for path in self.rows[index])

    @functools.cached_property
    def stamps(self) -> list[tuple[tuple[int, int], ...]]:
        """(bytes, modification time in ns) of each side of each image; asked for once."""
        stats = [[path.stat() for path in row] for row in self.rows]
        return [tuple((found.st_size, found.st_mtime_ns) for found in row) for row in stats]

    def quick_key(self) -> str:
        """Hash of the name, path, size and modification time of every file."""
        facts = [
            (str(path), *stamp)
            for row, stamps in zip(self.rows, self.stamps, strict=True)
            for path, stamp in zip(row, stamps, strict=True)
        ]
        return hashed(["files", self.sides, list(self.names), facts])

    def shapes(self, index: int) -> tuple[tuple[int, int], ...]:
        """From the headers, EXIF orientation counted."""
        return tuple(image_size(path) for path in self.rows[index])

    def survey(self, index: int) -> Survey:
        """From the headers; of animations, that only their first frame is used."""
        found = [survey(path) for path in self.rows[index]]
        notes = "; ".join(note for each in found for note in each.notes)
        return Survey(tuple(each.size for each in found), notes)

    def digest(self, index: int) -> str:
        """Of the files' XXH3: they are the user's own, and change by accident at most."""
        return hashed([fingerprint_of(path) for path in self.rows[index]])

    def decode(self, index: int) -> tuple[np.ndarray, ...]:
        """Upright 8-bit RGB."""
        return tuple(read_rgb8(path) for path in self.rows[index])

    def decode_hashed(self, index: int) -> tuple[tuple[np.ndarray, ...], str]:
        """The same; each file is read once for both."""
        found = [read_hashed(path) for path in self.rows[index]]
        return tuple(pixels for pixels, _ in found), hashed([digest for _, digest in found])


def hashed(content: object) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
