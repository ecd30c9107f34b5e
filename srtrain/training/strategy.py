"""Many ranks: equal weights at the start, equal gradients at every step, and nothing else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import (
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy

from srtrain.ranks import by_srun, launched

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments import ClusterEnvironment
    from lightning.pytorch.strategies import Strategy
    from torch import nn


class Srun(SLURMEnvironment):
    """The ranks of one srun step.

    Unlike the stock one: `srun -n2` is as good as `--ntasks-per-node=2`, nobody but
    ``train.sbatch`` requeues, and two steps of one job meet at places of their own.
    """

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    @property
    def main_address(self) -> str:
        """The node of rank 0, unless ``MASTER_ADDR`` says another."""
        nodes = os.environ.get("SLURM_STEP_NODELIST", os.environ.get("SLURM_NODELIST", "127.0.0.1"))
        return os.environ.get("MASTER_ADDR") or self.resolve_root_node_address(nodes)

    @property
    def main_port(self) -> int:
        """10000…29999, from the job and step, unless ``MASTER_PORT`` says another."""
        job, step = (int(os.environ.get(f"SLURM_{part}_ID", "0")) for part in ("JOB", "STEP"))
        return int(os.environ.get("MASTER_PORT") or 10_000 + (101 * job + step) % 20_000)

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Nothing: the pre-flight has compared what was asked for with what srun started."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """Nothing: the stock check wants --ntasks-per-node and calls --ntasks a mistake."""


def cluster_environment() -> ClusterEnvironment:
    """Who started the ranks; never guessed by Lightning, which takes any allocation for srun."""
    if by_srun():
        return Srun()
    return TorchElasticEnvironment() if launched() else LightningEnvironment()


class FlatDDP(DDPStrategy):
    """Data parallel without a wrapper: rank 0's weights everywhere, then flat all-reduces.

    Wrapping a module that holds generator and discriminator makes stock DDP search for unused
    parameters; averaging each network's gradients once per step needs no search, and every rank
    sees the same gradient, so the same decision about non-finite ones.
    """

    def configure_ddp(self) -> None:
        """Broadcast the initial state; the module stays unwrapped."""
        module = self.lightning_module
        if module is None:
            raise RuntimeError("configure_ddp before the module was connected")
        with torch.no_grad():
            for tensor in [*module.parameters(), *module.buffers()]:
                dist.broadcast(tensor, src=0)


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
    dist.all_reduce(flat)
    flat /= strategy.world_size
    pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(pieces, gradients, strict=True)])
