"""The ranks that talk to each other now: torch's process group, if there is one.

How many there are to be, before any is up, says ``srtrain.ranks``, without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist

if TYPE_CHECKING:
    from torch import Tensor


def world_size() -> int:
    """The number of ranks; 1 outside any process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def barrier() -> None:
    """Wait for all ranks; nothing outside any process group."""
    if world_size() > 1:
        dist.barrier()


def anywhere(flag: Tensor) -> bool:
    """Whether ``flag`` is set on any rank; every rank must ask."""
    if world_size() > 1:
        flag = flag.int()
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)
