"""How much memory there is, and how much a network takes."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from srtrain.memory import free_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_PROBE = 32  # LR pixels a side; the cost of a few hundred of them is known from this


def available(device: torch.device) -> int:
    """Bytes that can still be had on ``device`` (on a CPU, in this process's control group)."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + reserved
    return free_memory()


@torch.no_grad()
def bytes_per_pixel(forward: Callable[[Tensor], Tensor]) -> int:
    """The most that lives at a time while ``forward`` runs, per LR pixel."""
    windows = torch.zeros(1, 3, _PROBE, _PROBE)
    with _Live() as live:
        forward(windows)
    most: int = live.most
    return most // _PROBE**2


class _Live(TorchFunctionMode):
    """``most``: bytes of the tensors that were made here and lived at the same time.

    Not a dispatch mode, which sees more but imports SymPy first: 3 CPU-seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now: int = 0
        self.most: int = 0
        self._known: set[int] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function gives
        given = {_storage(value) for value in args if isinstance(value, Tensor)}
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor) and _storage(value) not in given | self._known:
                self._count(value)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = _storage(tensor), storage.nbytes()
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address
