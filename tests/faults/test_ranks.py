"""A rank that dies, stops, fails or waits in vain: all end, one line says why, nothing is lost."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from srtrain.cli import build, train
from srtrain.data.sampler import EndlessBatches
from srtrain.errors import DataError
from srtrain.networks.storage import newest_valid, read_checkpoint
from srtrain.training import peers
from srtrain.training.supervised import SupervisedSR
from tests.faults.ranks import Group, adopting, at_step, children, launcher, runs, two_ranks
from tests.training import draw_sets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

assert train  # imported here once, not in every fork


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """No process, port file or shared memory of these ranks outlives a test by 30 s."""
    before, shared = set(children(os.getpid())), _of_the_dead()
    with adopting():
        yield
        deadline = time.monotonic() + 30
        while set(children(os.getpid())) - before and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not set(children(os.getpid())) - before
    ours = str(os.getpid())
    assert not _of_the_dead() - shared
    assert not [*Path(tempfile.gettempdir()).glob(f"srtrain-*-{ours}-*.port")]


def _of_the_dead() -> set[str]:
    """Shared memory that torch named by a process which has ended: torch_PID_…"""
    files = (path.name for path in Path("/dev/shm").glob("torch_*"))
    return {name for name in files if not runs(int(name.split("_")[1]))}


class Fault(NamedTuple):
    """What happens to which rank, how all end, and the one line that tells of it."""

    strike: Callable[[Group], None]
    codes: dict[int, int]
    line: str
    inject: Callable[[int], None] = lambda _rank: None
    extra: tuple[str, ...] = ()


def _send(rank: int, number: signal.Signals) -> Callable[[Group], None]:
    return lambda group: os.kill(group.pids[rank], number)


def _stop(rank: int) -> Callable[[Group], None]:
    """What is stopped cannot end by itself: whoever started it kills it, when the others have."""

    def strike(group: Group) -> None:
        os.kill(group.pids[rank], signal.SIGSTOP)
        start = time.monotonic()
        while group.running() and 1 - rank not in group.codes:
            assert time.monotonic() < start + 30, group.said()
            time.sleep(0.1)
        os.kill(group.pids[rank], signal.SIGKILL)

    return strike


def _in_step(do: Callable[[], None]) -> Callable[[int], None]:
    return lambda rank: at_step(4, do, SupervisedSR) if rank == 1 else None


def _skip_a_batch(rank: int) -> None:
    original = EndlessBatches.__iter__

    def batches(self: EndlessBatches) -> Iterator[list[int]]:
        for number, batch in enumerate(original(self)):
            if number != 4:
                yield batch

    if rank == 1:
        EndlessBatches.__iter__ = batches  # type: ignore[method-assign]


def _fail() -> None:
    raise DataError("image7.png cannot be read", where="/photos")


def _break() -> None:
    raise ValueError("nobody thought of this")


def _wait(_group: Group) -> None:
    """The fault comes by itself."""


FAULTS = {
    "kill 1": Fault(_send(1, signal.SIGKILL), {0: 6, 1: -9}, "rank 1 was silent for 4 s: killed"),
    "kill 0": Fault(_send(0, signal.SIGKILL), {0: -9, 1: 6}, "rank 0 is gone: killed"),
    "stop 1": Fault(_stop(1), {0: 6, 1: -9}, "rank 1 was silent for 4 s: killed or stopped"),
    "stop 0": Fault(_stop(0), {0: -9, 1: 6}, "rank 0 was silent for 4 s: killed or stopped"),
    "term 1": Fault(_send(1, signal.SIGTERM), {0: 75, 1: 75}, "stopped by SIGTERM, saved step"),
    "deadlock": Fault(
        _wait,
        {0: 6, 1: 6},
        "rank 1 did not end step 5 within 4 s",
        _in_step(lambda: time.sleep(3600)),
        ("trainer.timeout_s=4",),
    ),
    "skip": Fault(
        _wait,
        {0: 6, 1: 6},
        "ranks are at different batches: one begins at sample 16, one at 20",
        _skip_a_batch,
    ),
    "data": Fault(_wait, {0: 6, 1: 3}, "image7.png cannot be read · /photos", _in_step(_fail)),
    "bug": Fault(_wait, {0: 6, 1: 1}, "ValueError: nobody thought of this", _in_step(_break)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_all_ranks_end(
    name: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "SILENT_S", 4.0)
    fault = FAULTS[name]
    with two_ranks(images, tmp_path / "group", *fault.extra, inject=fault.inject) as group:
        group.trains()
        fault.strike(group)
        assert group.end(seconds=30) < 30
    assert group.codes == fault.codes, group.said()
    assert len(group.errors()) == 1, group.said()
    assert fault.line in group.errors()[0]
    found = newest_valid(group.folder.path)
    assert found is not None
    if 75 in fault.codes.values():
        assert f"saved step {read_checkpoint(found)['step']} " in group.said()


@pytest.mark.slow
def test_asked_to_stop_before_it_trains_one_rank_takes_the_others_along(
    images: Path, tmp_path: Path
) -> None:
    def inject(rank: int) -> None:
        original = build.make_data

        def asked(*args: object) -> object:
            if rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(*args)  # type: ignore[arg-type]

        build.make_data = asked  # type: ignore[assignment]

    with two_ranks(images, tmp_path / "group", inject=inject) as group:
        group.end(seconds=60)
    assert group.codes == {0: 75, 1: 75}, group.said()
    assert len(group.errors()) == 1
    assert "stopped by SIGTERM, nothing to save yet" in group.errors()[0]


@pytest.fixture
def busy() -> Iterator[str]:
    """A port that somebody else listens on, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield str(taken.getsockname()[1])


@pytest.mark.slow
def test_on_one_node_a_busy_port_is_left_alone(busy: str, images: Path, tmp_path: Path) -> None:
    environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": busy}
    short = ("trainer.max_steps=3", "trainer.val_every_n_steps=3")
    with two_ranks(images, tmp_path / "group", *short, environ=environ) as group:
        group.end(seconds=120)
    assert group.codes == {0: 0, 1: 0}, group.said()
    assert newest_valid(group.folder.path) is not None


def test_on_several_nodes_a_busy_port_ends_all(busy: str, images: Path, tmp_path: Path) -> None:
    environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": busy, "SLURM_STEP_NUM_NODES": "2"}
    nodes = ("trainer.devices=1", "trainer.num_nodes=2")
    with two_ranks(images, tmp_path / "group", *nodes, environ=environ) as group:
        while group.running() and not group.codes:  # the pre-flight takes what it takes
            time.sleep(0.1)
        assert group.end(seconds=15) < 15
    assert group.codes == {0: 6, 1: 6}, group.said()
    first, second = group.errors()
    assert f"rank 0 cannot listen on port {busy}: it is taken" in first
    assert "rank 1 met somebody else than rank 0" in second


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "line"),
    [
        (signal.SIGKILL, "srtrain: error: rank 1 was killed by SIGKILL · "),
        (signal.SIGSTOP, "srtrain: error: rank 1 was stopped for 10 s (SIGSTOP) · "),
    ],
)
def test_a_launched_rank_ends_all(
    number: signal.Signals, line: str, images: Path, tmp_path: Path
) -> None:
    with launcher(images, tmp_path / "group", "data.num_workers=1") as group:
        group.trains()
        os.kill(children(group.pids[0])[1], number)
        assert group.end(seconds=30) < 30
    assert group.codes == {0: 6}, group.said()
    told, command = group.said().splitlines()
    assert told.startswith(line)
    assert command.endswith(f" -m srtrain resume={group.folder.path}")
    assert newest_valid(group.folder.path) is not None


@pytest.mark.slow
def test_ranks_save_and_leave_when_their_launcher_is_killed(images: Path, tmp_path: Path) -> None:
    with launcher(images, tmp_path / "group", "data.num_workers=1") as group:
        group.trains()
        ranks = children(group.pids[0])
        os.kill(group.pids[0], signal.SIGKILL)
        deadline = time.monotonic() + 30
        while any(map(runs, ranks)):
            assert time.monotonic() < deadline, group.said()
            time.sleep(0.1)
    told, command = group.said().splitlines()
    found = newest_valid(group.folder.path)
    assert found is not None
    assert f"stopped by SIGTERM, saved step {read_checkpoint(found)['step']} " in told
    assert command.endswith(f" -m srtrain resume={group.folder.path}")
