"""How many processes torchrun or SLURM gives a run, and which of them this one is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Granted:
    """``total`` ranks on ``nodes`` machines, as the environment variable ``said`` says."""

    said: str
    total: int
    nodes: int

    @property
    def per_node(self) -> int:
        """Ranks on each machine; rounded down where they are spread unevenly."""
        return self.total // self.nodes


def granted(environ: Mapping[str, str] = os.environ) -> Granted | None:
    """What torchrun or SLURM gives; None where nobody spoke of several.

    torchrun goes first: it may have been started by srun. One SLURM task is no statement about
    devices, as a task may use all of its node's.
    """
    if _by_torchrun(environ):
        total = int(environ["WORLD_SIZE"])
        local = int(environ.get("LOCAL_WORLD_SIZE", total))
        return Granted("WORLD_SIZE", total, max(1, total // local))
    total = int(environ.get("SLURM_NTASKS", "1"))
    if total == 1 or "SLURM_PROCID" not in environ:  # without: an interactive allocation
        return None
    nodes = environ.get("SLURM_STEP_NUM_NODES", environ.get("SLURM_NNODES", "1"))
    return Granted("SLURM_NTASKS", total, int(nodes))


def by_srun(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether srun started this process as one of several; a batch script belongs to no step."""
    several = int(environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environ
    batch = "SLURM_TASK_PID" in environ and "SLURM_STEP_ID" not in environ
    return several and not batch and not _by_torchrun(environ)


def gpus(environ: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> int:
    """How many GPUs of this machine this process may use, told without importing torch.

    As CUDA reads CUDA_VISIBLE_DEVICES: what follows a negative number does not count.
    """
    named = environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return sum(node.name[len("nvidia") :].isdecimal() for node in devices.glob("nvidia*"))
    words = [word.strip() for word in named.split(",")]
    return sum(1 for _ in takewhile(lambda word: word and not word.startswith("-"), words))


def launched(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of the ranks already."""
    return _by_torchrun(environ) or by_srun(environ)


def rank(environ: Mapping[str, str] = os.environ) -> int:
    """This process's number among all ranks; 0 where nobody launched several."""
    if _by_torchrun(environ):
        return int(environ["RANK"])
    return int(environ["SLURM_PROCID"]) if by_srun(environ) else 0


def _by_torchrun(environ: Mapping[str, str]) -> bool:
    return "RANK" in environ and "WORLD_SIZE" in environ
