"""An evaluation that a signal stops says once how far it came; images too small say for what."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from srtrain.cli.evaluate.journal import Journal
from srtrain.errors import Stopped
from srtrain.evaluation.results import Values
from tests.conftest import ROOT, ending
from tests.evaluating import QUIET, evaluate, make_run, make_sets, results


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sets(tmp_path_factory.mktemp("sets"))


@pytest.mark.parametrize(
    ("stop", "code", "what"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 75, "stopped by SIGTERM"),
        (signal.SIGHUP, 75, "stopped by SIGHUP"),
        (Stopped, 75, "stopped by SIGTERM"),  # raised where nobody passes it on
    ],
)
def test_a_signal_is_said_once_and_the_same_command_goes_on(
    val: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stop: signal.Signals | type[Stopped],
    code: int,
    what: str,
) -> None:
    words = ("nearest", "--data", val, "-o", tmp_path / "out", "--batch-pixels", 1)
    add = Journal.add

    def stopped(self: Journal, key: str, values: Values) -> None:
        add(self, key, values)
        if len(self.rows) == 4:
            try:
                os.kill(os.getpid(), signal.SIGTERM if stop is Stopped else stop)
            except Stopped:
                if stop is not Stopped:
                    raise

    monkeypatch.setattr(Journal, "add", stopped)
    evaluate(*words, code=code)
    said = capsys.readouterr().err
    assert said == f"srtrain: {what} · 4 of 12 images measured · the same command continues\n"
    monkeypatch.setattr(Journal, "add", add)
    evaluate(*words)
    assert "srtrain: note: 4 of 12 images measured before\n" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_several_processes_stopped_from_the_terminal(
    val: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """The whole group hears Ctrl-C, as in a terminal: one line, and nobody is left."""
    run = make_run(tmp_path / "mine")
    sets = [f"--data=s{index}={val}" for index in range(20)]
    words = [str(run), *sets, "-o", str(tmp_path / "out"), "--devices", "2", "--batch-pixels", "1"]
    command = [sys.executable, "-m", "srtrain", "evaluate", "--scale", "2", *QUIET, *words]
    started = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    journal = tmp_path / "out" / ".progress" / "rank-0.jsonl"
    with ending(started) as process:
        while process.poll() is None and not (journal.exists() and journal.stat().st_size):
            time.sleep(0.005)
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert said.count("srtrain: ") == 1
    assert "of 240 images measured · the same command continues" in said


def test_an_image_too_small_for_a_border_says_so(
    val: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("bicubic", "--data", val, "-o", tmp_path)
    evaluate(*words, "--border", 17, code=3)  # 11 + 2 · 17 = 45 of 40² and 48²
    said = capsys.readouterr().err
    assert "40x40 pixels, --border 17 takes 45 a side · " in said
    assert "image0.png · a smaller --border, or none\n" in said
    assert list(results(tmp_path).models[0].data["val"].images) == ["image3", "image4", "image5"]


def test_one_model_by_two_names_is_noted(
    val: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "mine")
    evaluate(run, f"A={run}", "--data", val, "-o", tmp_path / "out")
    assert "srtrain: note: the same model twice: mine, A\n" in capsys.readouterr().err
