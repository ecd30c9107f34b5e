"""The figures of every step since the last line: one small tensor a step, on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.functional import pad

from srtrain.process_group import world_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

NAN = float("nan")


class Rows:
    """Scalars are gathered step by step and fetched once; until then the device runs on.

    A figure that a step does not have, because its term begins later, is NaN there.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._rows: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._rows)

    def to(self, device: torch.device) -> None:
        """Move what a checkpoint brought to where the next steps are."""
        self._rows = [row.to(device) for row in self._rows]

    def add(self, values: Mapping[str, Tensor]) -> None:
        """One more step."""
        self.names += [name for name in values if name not in self.names]
        nowhere = [name for name in self.names if name not in values]
        missing = torch.full_like(next(iter(values.values())), NAN) if nowhere else None
        of = {**values, **{name: missing for name in nowhere if missing is not None}}
        self._rows.append(torch.stack([of[name].detach().float() for name in self.names]))

    def take(self, mean: Callable[[Tensor], Tensor]) -> dict[str, np.ndarray]:
        """One array over the steps per figure, after ``mean`` over the ranks; begins anew."""
        columns = mean(self._matrix()).cpu().double().numpy().T
        taken = dict(zip(self.names, columns, strict=True))
        self.names, self._rows = [], []
        return taken

    def state_dict(self) -> dict[str, Any]:
        """The rows of all ranks, (ranks, steps, figures); every rank must ask."""
        own = self._matrix()
        every = [torch.empty_like(own) for _ in range(world_size())]
        if len(every) > 1 and own.numel():
            dist.all_gather(every, own)
        else:
            every = [own] * len(every)
        return {"names": list(self.names), "rows": torch.stack(every)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """This rank's rows; of another number of ranks, what all of them had on average."""
        self.names, rows = list(state_dict["names"]), state_dict["rows"]
        same = len(rows) == world_size()
        rank = dist.get_rank() if world_size() > 1 else 0
        self._rows = list(rows[rank] if same else rows.mean(0))

    def _matrix(self) -> Tensor:
        if not self._rows:
            return torch.empty(0, 0)
        width = len(self.names)
        whole = [pad(row, (0, width - len(row)), value=NAN) for row in self._rows]
        return torch.stack(whole)
