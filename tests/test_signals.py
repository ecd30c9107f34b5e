"""Signals from a run's first line to its last: what is saved, what is said, which code is left."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from srtrain.cli import build
from srtrain.cli.agent import AGENTS_SIGNALS
from srtrain.cli.jobs import Jobs
from srtrain.cli.main import main
from srtrain.cli.process import LEAVE, SIGNALS, continue_command, lifetime
from srtrain.data.datamodule import SRData
from srtrain.data.workers import _leave_signals_to_the_parent
from srtrain.errors import (
    DataError,
    DistributedError,
    InterruptedRunError,
    PreemptedError,
    SrtrainError,
    Stopped,
)
from srtrain.files import read_json
from srtrain.networks.storage import newest_valid, read_checkpoint
from srtrain.training import checkpointing
from srtrain.training.interrupt import Interrupt
from srtrain.training.loop import SIGTERM_QUESTION
from srtrain.training.run_folder import RunFolder
from srtrain.training.supervised import SupervisedSR
from tests.conftest import ending
from tests.training import draw_sets, train, words

if TYPE_CHECKING:
    from collections.abc import Callable

NUMBERS = [
    (signal.SIGTERM, PreemptedError),
    (signal.SIGUSR1, PreemptedError),
    (signal.SIGHUP, PreemptedError),
    (signal.SIGINT, InterruptedRunError),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "error"), NUMBERS)
def test_a_signal_stops_at_once(number: signal.Signals, error: type[SrtrainError]) -> None:
    before = [signal.getsignal(number) for number in LEAVE]
    with pytest.raises(error) as caught, lifetime(["experiment=l1", "run_dir=a (1)"]):
        send(number)
    what, command = str(caught.value).split("\n")
    assert what == f"stopped by {number.name}, nothing to save yet · continue with:"
    assert command.endswith(" -m srtrain experiment=l1 'run_dir=a (1)'")
    assert [signal.getsignal(number) for number in LEAVE] == before


def test_no_library_can_swallow_it() -> None:
    with pytest.raises(PreemptedError), lifetime([]), suppress(Exception):
        send(signal.SIGTERM)


def test_whoever_is_patient_asks_and_the_first_signal_counts() -> None:
    with lifetime([]):
        assert SIGNALS.stop_requested() == 0
        SIGNALS.patient = True
        send(signal.SIGUSR1)
        send(signal.SIGINT)
        assert SIGNALS.stop_requested() == signal.SIGUSR1
    with lifetime([]):
        assert SIGNALS.stop_requested() == 0


def test_what_another_rank_received_counts() -> None:
    with pytest.raises(InterruptedRunError, match="stopped by SIGINT"), lifetime([]):
        raise Stopped(signal.SIGINT)
    assert SIGNALS.stop_requested() == signal.SIGINT


def test_what_breaks_after_a_signal_is_its_doing(tmp_path: Path) -> None:
    def broken(error: Exception) -> None:
        vars(error)["run_dir"] = tmp_path
        with lifetime([]):
            SIGNALS.patient = True
            send(signal.SIGTERM)
            raise error

    with pytest.raises(PreemptedError, match="stopped by SIGTERM"):
        broken(RuntimeError("Connection closed by peer"))
    assert "RuntimeError: Connection closed" in (tmp_path / "error.log").read_text()
    with pytest.raises(DataError, match="no images"):
        broken(DataError("no images"))


def test_the_end_of_a_process_is_deaf() -> None:
    before = {number: signal.getsignal(number) for number in LEAVE}
    try:
        with pytest.raises(PreemptedError), lifetime([], to_the_end=True):
            send(signal.SIGTERM)
        send(signal.SIGTERM)  # would end this process
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGUSR1, 0), (signal.SIGHUP, 0), (signal.SIGTERM, -15)]
)
def test_forks_go_with_their_parent(number: signal.Signals, code: int) -> None:
    with lifetime([]):
        child = os.fork()
        if not child:
            send(number)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code


def test_nohup_keeps_working(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with lifetime([]), Jobs(tmp_path).stoppable():
            send(signal.SIGHUP)
            assert SIGNALS.stop_requested() == 0
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_agent_hands_on_what_asks_for_a_stop() -> None:
    assert not {number.name for number, _ in NUMBERS} & set(AGENTS_SIGNALS.split(","))


def test_a_worker_outlives_what_asks_for_a_stop() -> None:
    child = os.fork()
    if not child:
        _leave_signals_to_the_parent(0)
        for number, _ in NUMBERS:
            send(number)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_thread_leaves_the_signals_alone() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def job() -> None:
        with lifetime([]):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert seen == [before]


def test_the_command_that_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "Läufe (1)"
    asked = ["experiment=l1", "run_dir=elsewhere", "data.train=a b"]
    assert shlex.split(continue_command(folder, asked))[3:] == [
        "experiment=l1",
        "data.train=a b",
        "run_dir=Läufe (1)",
    ]
    folder.mkdir()
    (folder / "config.yaml").touch()
    assert continue_command(folder, asked).endswith(" -m srtrain 'resume=Läufe (1)'")


def test_between_steps_it_saves_and_leaves() -> None:
    saved: list[int] = []
    files: Any = SimpleNamespace(last_step=None, saved_at=None)
    files.save = lambda trainer: saved.append(trainer.step)
    files.flush = lambda: setattr(files, "last_step", saved[-1])
    trainer: Any = SimpleNamespace(world_size=1, global_step=7, step=7)
    signals = SimpleNamespace(patient=False, saved="", stop_requested=lambda: signals.number)
    signals.number = 0
    interrupt = Interrupt(files, signals)
    interrupt.on_train_start(trainer, trainer)
    assert signals.patient
    interrupt.on_train_batch_end(trainer, trainer, None, None, 0)
    assert saved == []
    signals.number = signal.SIGTERM
    with pytest.raises(Stopped):
        interrupt.on_train_batch_end(trainer, trainer, None, None, 0)
    assert (saved, signals.saved) == ([7], "saved step 7")
    files.saved_at = 7
    with pytest.raises(Stopped):
        interrupt.on_train_end(trainer, trainer)
    assert saved == [7]
    signals.number = 0
    interrupt.on_train_end(trainer, trainer)
    assert not signals.patient  # what follows has nothing to save


def test_ranks_that_go_on_from_different_checkpoints_say_so() -> None:
    strategy = SimpleNamespace(broadcast=lambda _: 30)
    trainer: Any = SimpleNamespace(world_size=2, global_rank=1, global_step=20, strategy=strategy)
    interrupt = Interrupt(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    with pytest.raises(DistributedError, match="rank 0 goes on from step 30, rank 1 from 20: they"):
        interrupt.on_train_start(trainer, None)  # type: ignore[arg-type]


def test_lightning_still_asks_under_those_names() -> None:
    assert callable(getattr(_TrainingEpochLoop, SIGTERM_QUESTION))
    assert callable(_SignalConnector.register_signal_handlers)


PLACES = {
    "building": (build, "make_generator"),
    "cache": (SRData, "prepare_data"),
    "step 0": (SupervisedSR, "validation_step"),
}


@pytest.mark.parametrize("place", PLACES)
def test_before_the_first_step_nothing_is_saved_and_the_last_line_continues(
    place: str,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        _send_in(patch, *PLACES[place], signal.SIGTERM)
        folder = train(images, tmp_path / "a run (1)", code=75)
    *_, told, command = capsys.readouterr().err.splitlines()
    assert "stopped by SIGTERM, nothing to save yet" in told
    assert newest_valid(folder.path) is None
    assert main(shlex.split(command)[3:]) == 0
    assert read_json(folder.summary)["generator_steps"] == 6
    steps = [step for step, name, _ in folder.read_metrics() if name == "train/loss"]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_second_signal_does_not_disturb_the_save(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        _send_in(patch, SupervisedSR, "training_step", signal.SIGINT)
        _send_in(patch, checkpointing, "write_checkpoint", signal.SIGTERM)
        folder = train(images, tmp_path / "stopped", code=130)
    message = capsys.readouterr().err
    assert "stopped by SIGINT, saved step 1" in message
    assert message.endswith(f" -m srtrain resume={folder.path}\n")
    assert main([f"resume={folder.path}"]) == 0
    assert read_json(folder.summary)["generator_steps"] == 6


def _send_in(patch: pytest.MonkeyPatch, owner: Any, name: str, number: int) -> None:  # noqa: ANN401
    original = getattr(owner, name)

    def signalled(*args: Any, **options: Any) -> Any:  # noqa: ANN401
        send(number)
        return original(*args, **options)

    patch.setattr(owner, name, signalled)


DDP = ["trainer=ddp", "trainer.devices=2"]


@pytest.mark.parametrize(
    ("number", "code", "extra", "to"),
    [
        pytest.param(signal.SIGTERM, 75, [], "process", id="one"),
        pytest.param(signal.SIGHUP, 75, DDP, "process", id="ddp", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 75, DDP, "rank", id="rank", marks=pytest.mark.slow),
    ],
)
def test_signal_saves_and_the_same_command_continues(
    number: signal.Signals, code: int, extra: list[str], to: str, images: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "stopped")
    with ending(_started(folder, images, *extra)) as process:
        _wait_for(lambda: folder.metrics.exists() and len(folder.read_metrics()) > 60, process)
        ranks = _children(process)[:2] if extra else []
        os.kill(ranks[1] if to == "rank" else process.pid, number)
        message = process.communicate(timeout=120)[1]
    assert process.returncode == code, message
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    found = newest_valid(folder.path)
    assert found is not None
    step = read_checkpoint(found)["step"]
    assert f"saved step {step}" in message
    assert message.endswith(f" -m srtrain resume={folder.path}\n")
    train(images, folder.path, f"trainer.max_steps={step + 2}", "checkpoint.every_n_steps=50000")
    assert read_json(folder.summary)["generator_steps"] == step + 2


@pytest.mark.slow
def test_ranks_that_are_being_built_are_stopped_too(images: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "early")
    with ending(_started(folder, images, *DDP)) as process:
        _wait_for(lambda: len(_children(process)) >= 2, process)
        ranks = _children(process)[:2]
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        message = process.communicate(timeout=120)[1]
    assert process.returncode == 130, message
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    assert newest_valid(folder.path) is None
    assert "stopped by SIGINT" in message
    assert " -m srtrain " in message.splitlines()[-1]


def _started(folder: RunFolder, images: Path, *extra: str) -> subprocess.Popen[str]:
    asked = words(images, folder.path, "trainer.max_steps=100000", "trainer.val_every_n_steps=500")
    command = [sys.executable, "-m", "srtrain", *asked, "checkpoint.every_n_steps=50000", *extra]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _children(process: subprocess.Popen[str]) -> list[int]:
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    return sorted(int(child) for path in tasks for child in path.read_text().split())
