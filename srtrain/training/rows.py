"""The figures of every step since the last line, on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from srtrain.process_group import world_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from torch import Tensor

NAN = float("nan")


class Rows:
    """Scalars are kept step by step and fetched once, by one copy; until then the device runs on.

    A figure that a step does not have, because its term begins later, is NaN there.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._rows: list[Mapping[str, Tensor]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def to(self, device: torch.device) -> None:
        """Move what a checkpoint brought to where the next steps are."""
        self._rows = [{name: value.to(device) for name, value in row.items()} for row in self._rows]

    def add(self, values: Mapping[str, Tensor]) -> None:
        """One more step; nothing is computed."""
        self.names += [name for name in values if name not in self.names]
        self._rows.append(values)

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
        own = rows[rank] if same else rows.mean(0)
        self._rows = [dict(zip(self.names, row.unbind(), strict=True)) for row in own]

    @torch.no_grad()
    def _matrix(self) -> Tensor:
        if not self._rows:
            return torch.empty(0, 0)
        missing = torch.full_like(next(iter(self._rows[0].values())), NAN, dtype=torch.float32)
        cells = [row.get(name, missing) for row in self._rows for name in self.names]
        flat = torch.stack([c if c.dtype is torch.float32 else c.float() for c in cells])
        return flat.view(len(self._rows), len(self.names))
