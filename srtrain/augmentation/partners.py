"""Who is mixed with whom, and how the rows get there: partners may live on other ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist

from srtrain.process_group import world_size

if TYPE_CHECKING:
    from torch import Tensor


def circle(source: np.random.Generator, count: int) -> np.ndarray:
    """One random circle through all positions: ``partner[i]`` comes after i, never i itself."""
    order = source.permutation(count)
    partner = np.empty_like(order)
    partner[order] = np.roll(order, -1)
    return partner


def partner_rows(rows: Tensor, partner: np.ndarray, *, first: int) -> Tensor:
    """Row i is the row at position ``partner[first + i · ranks]`` of the global batch.

    Rank r holds the positions r, r + ranks, … As ``partner`` is a permutation, each rank sends and
    receives just as many rows as it has, whatever the number of ranks.

    Shapes: rows (B, N) -> (B, N).
    """
    ranks = world_size()
    own = partner[first::ranks]
    if ranks == 1:
        return rows[torch.from_numpy(own).to(rows.device)]
    of_rank = [partner[rank::ranks] for rank in range(ranks)]
    asked = [wanted[wanted % ranks == first] // ranks for wanted in of_rank]
    sent = rows[torch.from_numpy(np.concatenate(asked)).to(rows.device)]
    received = torch.empty_like(sent)
    dist.all_to_all_single(
        received,
        sent,
        output_split_sizes=np.bincount(own % ranks, minlength=ranks).tolist(),
        input_split_sizes=[len(wanted) for wanted in asked],
    )
    # What comes is sorted by the rank it comes from; its place among the own rows undoes that.
    place = np.argsort(np.argsort(own % ranks, kind="stable"))
    return received[torch.from_numpy(place).to(rows.device)]
