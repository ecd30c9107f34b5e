"""Who reads a run's output goes away: the run goes on, and its exit code is its own."""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import pytest

from srtrain.cli.main import main
from srtrain.cli.unbroken import unbroken_output
from srtrain.networks.storage import newest_valid
from srtrain.training.supervised import SupervisedSR
from tests.training import draw_sets, losses, train

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


def _pipe() -> TextIO:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def _terminal() -> TextIO:
    mine, theirs = os.openpty()
    os.close(mine)
    return os.fdopen(theirs, "w", buffering=1)


class _Memory(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(text)


READERS = [_pipe, _terminal, _Memory]


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("broken", READERS)
def test_what_nobody_reads_is_no_fault(
    name: str, broken: Callable[[], TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = broken()
    monkeypatch.setattr(sys, name, stream)
    with unbroken_output():
        for _ in range(2):
            print("a" * 100_000, file=getattr(sys, name), flush=True)
        assert getattr(sys, name).encoding == stream.encoding
        assert getattr(sys, name).isatty() is False
    assert getattr(sys, name) is stream
    stream.close()


def test_other_faults_of_the_output_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with unbroken_output():
            sys.stdout.write("a")
            with pytest.raises(OSError, match="No space left"):
                sys.stdout.flush()
            os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_a_page_that_nobody_reads_is_no_failure(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = _pipe()
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(words) == 0
    stream.close()  # it would flush what is left


@pytest.mark.parametrize("broken", [_pipe, _terminal])
def test_a_run_goes_on_unread(
    broken: Callable[[], TextIO], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with broken() as out, broken() as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        folder = train(images, tmp_path / "run")
    assert [step for step, _ in losses(folder)] == [1, 2, 3, 4, 5, 6]


def test_a_closed_terminal_saves(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SupervisedSR.training_step

    def hung_up(*args: object) -> object:
        os.kill(os.getpid(), signal.SIGHUP)
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(SupervisedSR, "training_step", hung_up)
    with _terminal() as out, _terminal() as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        folder = train(images, tmp_path / "run", code=75)
    found = newest_valid(folder.path)
    assert found is not None
    assert found.name == "step-000001.ckpt"
