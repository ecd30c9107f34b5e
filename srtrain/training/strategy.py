"""Many ranks: equal weights at the start, equal gradients at every step, and nothing else."""

from __future__ import annotations

import atexit
import math
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy

from srtrain.training.board import place
from srtrain.training.meeting import gather
from srtrain.training.peers import joined, waiting

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy
    from torch import nn

    from srtrain.training.peers import Peers


class FlatDDP(DDPStrategy):
    """Data parallel without a wrapper: rank 0's weights everywhere, then flat all-reduces.

    Wrapping a module that holds generator and discriminator makes stock DDP search for unused
    parameters; averaging each network's gradients once per step needs no search, and every rank
    sees the same gradient, so the same decision about non-finite ones.
    """

    def setup_distributed(self) -> None:
        """The process group, in the store where this process's peers have met.

        nccl aborts the process when its time is up: the peers shall be sooner, and say why.
        """
        peers = joined()
        if peers is not None and not dist.is_initialized():
            self.set_world_ranks()
            _come(peers)
            backend, device = self._get_process_group_backend(), self.root_device
            limit = timedelta(seconds=peers.timeout_s + (30 if backend == "nccl" else 0))
            dist.init_process_group(
                backend,
                store=dist.PrefixStore(place("group"), peers.store),
                rank=self.global_rank,
                world_size=self.world_size,
                timeout=limit,
                device_id=device if device.type != "cpu" else None,
            )
            if backend == "nccl":  # torch wants it destroyed, Lightning destroys only its own
                atexit.register(_destroy)
        super().setup_distributed()

    def configure_ddp(self) -> None:
        """Broadcast the initial state; the module stays unwrapped."""
        module = self.lightning_module
        if module is None:
            raise RuntimeError("configure_ddp before the module was connected")
        with torch.no_grad():
            for tensor in [*module.parameters(), *module.buffers()]:
                dist.broadcast(tensor, src=0)


def _come(peers: Peers) -> None:
    """Wait until all ranks are built, where signals are heard: within torch none is.

    For as long as it takes: one node's cache may lack the images that another's holds. Who dies
    meanwhile, or falls silent, is told by the peers.
    """
    total = peers.world_size
    gather(peers.store, "built", "", rank=peers.rank, total=total, timeout_s=math.inf)


def _destroy() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def average_gradients(strategy: Strategy, network: nn.Module) -> None:
    """Replace every gradient of ``network`` by its mean over the ranks: one flat all-reduce.

    Does nothing under one process or a strategy that reduces by itself.
    """
    if not isinstance(strategy, FlatDDP) or strategy.world_size == 1:
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    if not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    with waiting():
        dist.all_reduce(flat)
    flat /= strategy.world_size
    pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(pieces, gradients, strict=True)])
