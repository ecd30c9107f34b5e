"""Who starts the ranks, and how they come to know one run folder."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from srtrain.cli.agent import Ended
from srtrain.cli.launch import agree_on, launch, meet, must_launch
from srtrain.cli.process import SIGNALS
from srtrain.errors import (
    ConfigError,
    DataError,
    DistributedError,
    PreemptedError,
    SrtrainError,
    Stopped,
)
from srtrain.training.board import Board, Verdict
from srtrain.training.loop import TrainerOptions
from srtrain.training.meeting import Srun, cluster_environment


def _options(**changes: object) -> TrainerOptions:
    return TrainerOptions(max_steps=1, **changes)  # type: ignore[arg-type]


def test_several_devices_are_launched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not must_launch(_options())
    assert not must_launch(_options(strategy="ddp"))
    assert must_launch(_options(strategy="ddp", devices=2))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not must_launch(_options(strategy="ddp", devices=2))


def test_several_nodes_cannot_be_launched_from_one() -> None:
    alone = _options(strategy="ddp", num_nodes=2)
    assert must_launch(alone)
    with pytest.raises(ConfigError, match="num_nodes=2, but this process was started alone"):
        launch(alone, [])


@pytest.fixture
def store() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def test_rank_0_names_the_folder(store: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.set("srtrain/0/start/0", "/runs/noon")
    monkeypatch.setattr("srtrain.cli.launch.rank", lambda: 1)
    later = Path("/runs/a second later")
    assert agree_on(store, later, total=2, timeout_s=5) == Path("/runs/noon")


def test_one_rank_does_not_come(store: TCPStore) -> None:
    with pytest.raises(DistributedError, match=r"rank 1 did not come within 0\.2 s"):
        agree_on(store, Path("/runs/noon"), total=2, timeout_s=0.2)


def test_what_ranks_wrote_before_a_restart_does_not_count(
    store: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    Board(store).accuse(Verdict(1, 6, "rank 1 was killed by SIGKILL"))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert Board(store).verdict() is None


@pytest.mark.parametrize(
    ("ended", "signalled", "error"),
    [
        (Ended(6, "rank 1 was killed by SIGKILL"), 0, DistributedError),
        (Ended(3, "rank 1 ended: no images", told=True), 0, DataError),
        (Ended(1, "rank 0 ended: ValueError"), 0, SrtrainError),
        (Ended(139, "rank 0 ended with code 139"), 0, DistributedError),
        (Ended(75, "rank 1 ended with code 75", told=True), 0, PreemptedError),
        (Ended(75, "rank 1 ended with code 75"), signal.SIGTERM, Stopped),
        (Ended(6, "rank 1 was stopped for 10 s"), signal.SIGTERM, DistributedError),
    ],
)
def test_the_launcher_ends_like_the_first_rank_that_failed(
    ended: Ended, signalled: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srtrain.cli.agent.run_ranks", lambda devices, words: ended)
    monkeypatch.setattr(SIGNALS, "_received", signalled)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(error) as caught:
        launch(_options(strategy="ddp", devices=2), [])
    assert type(caught.value) is error
    assert vars(caught.value)["told"] is ended.told
    if not isinstance(caught.value, Stopped):
        assert str(caught.value) == ended.what


def test_alone_the_folder_is_ones_own() -> None:
    assert meet(Path("/runs/noon"), timeout_s=1, words=[]) == Path("/runs/noon")


@pytest.mark.parametrize(
    ("changes", "address", "port"),
    [
        ({}, "n03", 10_000 + (101 * 17 + 2) % 20_000),
        ({"SLURM_STEP_ID": "3"}, "n03", 10_000 + (101 * 17 + 3) % 20_000),
        ({"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "9999"}, "10.0.0.1", 9999),
    ],
)
def test_srun_ranks(
    changes: dict[str, str], address: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = {
        "SLURM_JOB_ID": "17",
        "SLURM_STEP_ID": "2",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "1",
        "SLURM_NODELIST": "n[01-04]",
        "SLURM_STEP_NODELIST": "n[03-04]",
    }
    for name, value in {**step, **changes}.items():
        monkeypatch.setenv(name, value)
    ranks = cluster_environment()
    assert isinstance(ranks, Srun)
    assert not ranks.auto_requeue
    assert (ranks.main_address, ranks.main_port) == (address, port)
    assert (ranks.world_size(), ranks.global_rank(), ranks.local_rank(), ranks.node_rank()) == (
        4, 3, 1, 1,
    )  # fmt: skip
