"""What every round of validation would make alike, kept while there is room for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

    from torch import Tensor


class Kept:
    """Tensors by key, of at most ``most`` bytes together: what is not among them is made anew."""

    def __init__(self, most: int) -> None:
        self.room = most
        self._tensors: dict[Hashable, Tensor] = {}

    def get(self, key: Hashable) -> Tensor | None:
        """What was offered under this key, if there was room."""
        return self._tensors.get(key)

    def offer(self, key: Hashable, tensor: Tensor) -> None:
        """Keep it, if there is room and none of this key; nobody may change it afterwards."""
        needed = tensor.untyped_storage().nbytes()
        if key not in self._tensors and needed <= self.room:
            self._tensors[key] = tensor
            self.room -= needed
