"""SR images in memory, up to a limit: what the pictures show need not be computed twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from srtrain.images.picture import Pixels

LIMIT = 256 * 2**20  # bytes


class Kept:
    """uint8 (H, W, 3) by key; what finds no room is forgotten, and must be made again."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.room = limit
        self._images: dict[str, Pixels] = {}

    def add(self, key: str, image: Pixels, *, beyond: bool = False) -> None:
        """Keep it if there is room, or ``beyond`` the limit."""
        if (beyond or image.nbytes <= self.room) and key not in self._images:
            self.room -= image.nbytes
            self._images[key] = image

    def get(self, key: str) -> Pixels | None:
        """The image, or None."""
        return self._images.get(key)
