"""What torchrun's and SLURM's variables mean, as they were read from 22.05 and torchrun."""

from __future__ import annotations

import pytest

from srtrain.ranks import Granted, by_srun, granted, launched, rank

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "0"}
BATCH["SLURM_TASK_PID"] = "99"
STEP = {**BATCH, "SLURM_PROCID": "3", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2"}
ONE_TASK = {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}
FOUR = Granted("SLURM_NTASKS", 4, 2)


@pytest.mark.parametrize(
    ("environ", "expected", "is_rank", "number"),
    [
        ({}, None, False, 0),
        (TORCHRUN, Granted("WORLD_SIZE", 8, 2), True, 5),
        ({**STEP, **TORCHRUN}, Granted("WORLD_SIZE", 8, 2), True, 5),  # srun torchrun
        ({"WORLD_SIZE": "8"}, None, False, 0),
        (STEP, FOUR, True, 3),
        (BATCH, FOUR, False, 0),  # the batch script itself: srun is yet to come
        ({"SLURM_NTASKS": "4"}, None, False, 0),  # salloc
        (ONE_TASK, None, False, 0),  # may use all devices of its node
    ],
    ids=["alone", "torchrun", "torchrun in srun", "WORLD_SIZE", "srun", "sbatch", "salloc", "-n1"],
)
def test_environments(
    environ: dict[str, str], expected: Granted | None, is_rank: bool, number: int
) -> None:
    assert granted(environ) == expected
    assert launched(environ) == is_rank
    assert by_srun(environ) == (environ in (STEP,))
    assert rank(environ) == number


def test_ranks_per_node() -> None:
    assert Granted("WORLD_SIZE", 8, 2).per_node == 4
