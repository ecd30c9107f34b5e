"""Decoded images in memory-mapped files: reading one costs a page fault, not a PNG."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import mmap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from srtrain.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

POPULATE = getattr(mmap, "MAP_POPULATE", 0)
"""Linux: read the file and enter its pages now, in one go."""


@dataclass(frozen=True)
class Store:
    """One cached collection: a flat file of uint8 pixels, image after image, side after side.

    ``shapes`` (N, sides, 2) holds (height, width); ``offsets`` (N, sides) where each side starts.
    ``bad``: why a file is not among them; ``notes``: what was lost of one that is.
    """

    pixels: Path
    digest: str
    names: list[str]
    shapes: np.ndarray
    offsets: np.ndarray
    bad: dict[str, str]
    notes: dict[str, str] = field(default_factory=dict)


class ImageSet:
    """The images of a source, and the order of one pass over them.

    Side s of image i begins at byte ``offsets[i, s]`` of file ``file_of[i]``, see `Store`.

    Pickles and forks without its memory maps; each process opens its own at the first read.
    """

    def __init__(self, stores: Sequence[tuple[Store, int]]) -> None:
        if len({store.shapes.shape[1] for store, _ in stores}) > 1:
            raise ValueError("paired and unpaired images cannot be mixed in one set")
        counts = [len(store.names) for store, _ in stores]
        starts = np.cumsum([0, *counts])
        self.names = [name for store, _ in stores for name in store.names]
        self.shapes = np.concatenate([store.shapes for store, _ in stores])
        self.paired = self.shapes.shape[1] == 2
        self.digest = hashlib.sha256(
            "".join(f"{store.digest}*{repeat} " for store, repeat in stores).encode()
        ).hexdigest()
        self.offsets = np.concatenate([store.offsets for store, _ in stores])
        self._files = [store.pixels for store, _ in stores]
        self.file_of = np.repeat(np.arange(len(counts)), counts)
        self._visits = np.concatenate(
            [np.tile(np.arange(starts[i], starts[i + 1]), stores[i][1]) for i in range(len(stores))]
        )
        self._maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """How many visits one pass makes; more than there are images where folders repeat."""
        return len(self._visits)

    def visited(self, visit: int) -> int:
        """The image of a visit, 0 ≤ visit < len."""
        return int(self._visits[visit])

    def hr(self, image: int) -> np.ndarray:
        """The HR pixels, a read-only view (H, W, 3) into the map."""
        return self._side(image, 0)

    def lr(self, image: int) -> np.ndarray:
        """The LR pixels of a paired set, a read-only view (h, w, 3) into the map."""
        return self._side(image, 1)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the maps."""
        return {**self.__dict__, "_maps": {}}

    @functools.cached_property
    def sizes(self) -> list[int]:
        """Bytes of each file; asked for once."""
        return [_size(path) for path in self._files]

    def pixels(self, file: int) -> np.ndarray:
        """All bytes of a file, read-only: where `offsets` point."""
        if file not in self._maps:
            self._maps[file] = self._map(file, 0)
        return self._maps[file]

    def read_ahead(self) -> None:
        """Read all files into the system's memory, from where every process maps them."""
        for file in range(len(self._files)):
            self._maps[file] = self._map(file, POPULATE)

    def _map(self, file: int, flags: int) -> np.ndarray:
        with _cached(self._files[file]), self._files[file].open("rb") as stream:
            view = mmap.mmap(stream.fileno(), 0, mmap.MAP_SHARED | flags, mmap.PROT_READ)
        return np.frombuffer(view, np.uint8)

    def _side(self, image: int, side: int) -> np.ndarray:
        height, width = self.shapes[image, side].tolist()
        start = int(self.offsets[image, side])
        pixels = self.pixels(int(self.file_of[image]))
        return pixels[start : start + height * width * 3].reshape(height, width, 3)


def _size(path: Path) -> int:
    with _cached(path):
        return path.stat().st_size


@contextlib.contextmanager
def _cached(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: it is empty now
        raise StorageError(
            f"the cache of decoded images is gone: {error}",
            where=str(path),
            fix="start again: it is made anew",
        ) from error
