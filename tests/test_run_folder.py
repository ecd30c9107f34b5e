"""The run folder: proven writable before any work, locked, and readable after any end."""

from __future__ import annotations

import csv
import errno
import fcntl
import math
import os
import resource
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from matplotlib.figure import Figure
from PIL import Image

from srtrain.errors import ConfigError, Stopped, StorageError
from srtrain.training.curves import plot_curves
from srtrain.training.pictures import save_png
from srtrain.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "runs" / "one")
    made.create()
    return made


def test_create_leaves_empty_folders(folder: RunFolder) -> None:
    folder.create()  # again: a run that is continued
    assert sorted(path.name for path in folder.path.rglob("*")) == ["checkpoints", "samples"]


def _blocked(tmp_path: Path) -> Path:
    """A file where a folder should be: refused for root too, as permissions are not."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "run"


@pytest.mark.parametrize(
    "place", [_blocked, lambda tmp_path: _blocked(tmp_path).parent, lambda _: Path("/proc/srtrain")]
)
def test_unwritable_place_is_refused(place: Callable[[Path], Path], tmp_path: Path) -> None:
    path = place(tmp_path)
    with pytest.raises(StorageError, match="cannot write to the run folder") as caught:
        RunFolder(path).create()
    assert caught.value.where == str(path)
    assert caught.value.exit_code == 4


def test_command_refuses_it_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from srtrain.cli import build
    from srtrain.cli.main import main
    from tests.training import draw_sets, words

    monkeypatch.setattr(build, "make_generator", lambda _: pytest.fail("work was begun"))
    path = _blocked(tmp_path)
    assert main(words(draw_sets(tmp_path), path)) == 4
    message = capsys.readouterr().err
    assert message.startswith("srtrain: error: cannot write to the run folder: Not a directory")
    assert str(path) in message
    assert "Traceback" not in message


def test_lock_names_its_holder_and_goes_with_it(folder: RunFolder) -> None:
    with folder.locked():
        second = RunFolder(folder.path)
        held = pytest.raises(ConfigError, match=f"in use by process {os.getpid()} on")
        with held, second.locked():
            pytest.fail("two holders")
    with folder.locked():
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_where_there_are_no_locks_that_is_said(
    number: int,
    folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "not here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with folder.locked():
        assert f"process {os.getpid()} on" in (folder.path / ".lock").read_text()
    assert "no locks here" in caplog.text


def _fail(folder: RunFolder, error: BaseException) -> None:
    with pytest.raises(type(error)), folder.locked():
        raise error


@pytest.mark.parametrize("error", [StorageError("no weights"), ZeroDivisionError()])
def test_a_failed_start_takes_its_new_folder_along(error: Exception, tmp_path: Path) -> None:
    fresh = RunFolder(tmp_path / "runs" / "one")
    fresh.create()
    _fail(fresh, error)
    assert not fresh.path.exists()


def test_a_failed_start_leaves_what_was_there(folder: RunFolder, tmp_path: Path) -> None:
    again = RunFolder(folder.path)  # made by somebody else, empty as it is
    again.create()
    _fail(again, StorageError("no weights"))
    assert folder.checkpoints.is_dir()
    begun = RunFolder(tmp_path / "runs" / "two")
    begun.create()
    begun.append_metrics(0, {"val/loss": 1.0})
    _fail(begun, StorageError("no weights"))
    assert begun.metrics.is_file()
    stopped = RunFolder(tmp_path / "runs" / "three")
    stopped.create()
    _fail(stopped, Stopped(15))
    assert stopped.path.is_dir()  # the command that continues it names it


def test_lock_of_a_dead_process_is_free(folder: RunFolder) -> None:
    child = os.fork()
    if child == 0:
        with folder.locked():
            os._exit(1)
    os.waitpid(child, 0)
    with folder.locked():
        assert f"process {os.getpid()} " in (folder.path / ".lock").read_text()


def test_lock_does_not_stay_with_a_fork_that_outlives_its_process(folder: RunFolder) -> None:
    """As a worker that reads images outlives a killed run for some seconds."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with folder.locked():
            grandchild = os.fork()
            if grandchild:
                os.write(write, b"%d" % grandchild)
            time.sleep(60)
            os._exit(0)
    grandchild = int(os.read(read, 16))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        with folder.locked():
            pass
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_metrics_round_trip(folder: RunFolder) -> None:
    assert folder.read_metrics() == []
    folder.append_metrics(1, {"train/loss": 0.1, "train/pixel": 1e-30})
    folder.append_metrics(2, {"val/a, b/psnr_y": math.inf})
    assert folder.read_metrics() == [
        (1, "train/loss", 0.1),
        (1, "train/pixel", 1e-30),
        (2, "val/a, b/psnr_y", math.inf),
    ]
    with folder.metrics.open(newline="") as stream:
        assert next(csv.reader(stream)) == ["step", "name", "value"]


def test_any_torn_end_is_passed_over(folder: RunFolder) -> None:
    folder.append_metrics(1, {"train/loss": 0.5})
    whole = folder.metrics.stat().st_size
    folder.append_metrics(2, {"train/loss": 3.25e-07})
    content = folder.metrics.read_bytes()
    for size in range(whole, len(content)):
        folder.metrics.write_bytes(content[:size])
        assert folder.read_metrics() == [(1, "train/loss", 0.5)]


def test_cut_drops_what_lies_beyond(folder: RunFolder) -> None:
    for step in (1, 2, 3):
        folder.append_metrics(step, {"train/loss": float(step)})
    with folder.metrics.open("a") as stream:
        stream.write("4,train/lo")
    folder.cut_metrics(2)
    folder.append_metrics(3, {"train/loss": 9.0})
    assert [(step, value) for step, _, value in folder.read_metrics()] == [(1, 1), (2, 2), (3, 9)]
    folder.cut_metrics(-1)
    assert folder.read_metrics() == []


def test_nothing_to_cut(folder: RunFolder) -> None:
    folder.cut_metrics(-1)
    assert not folder.metrics.exists()


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: folder.write_config("x" * 4000),
        lambda folder: folder.write_summary({"x": "x" * 4000}),
        lambda folder: folder.append_metrics(2, {"x" * 4000: 1.0}),
        lambda folder: save_png(Image.effect_noise((99, 99), 99), folder, "noise"),
        plot_curves,
    ],
    ids=["config", "summary", "metrics", "picture", "curves"],
)
def test_full_disk_is_a_storage_error(
    write: Callable[[RunFolder], object], folder: RunFolder
) -> None:
    folder.append_metrics(1, {"train/loss": 0.5})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(StorageError, match="cannot write: File too large") as caught:
            write(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(folder.path) in caught.value.where
    assert folder.read_metrics() == [(1, "train/loss", 0.5)]


@pytest.mark.parametrize(
    ("rows", "drawn"),
    [
        ([], False),
        ([(0, "val/a/psnr_y", 30.0)], False),
        ([(1, "train/loss", 0.5)], True),
        ([(1, "train/loss", 0.0), (1, "train/grad_norm", 1.0)], True),
        ([(1, "train/d_loss", 0.5), (1, "train/lr_psnr", 40.0)], False),
        (
            [
                (0, "bicubic/a/psnr_y", 30.0),
                (1, "train/a", math.nan),
                (1, "train/share/a", math.nan),
                (2, "val/a/psnr_y", 3.0),
            ],
            True,
        ),
    ],
)
def test_curves(rows: list[tuple[int, str, float]], drawn: bool, folder: RunFolder) -> None:
    for step, name, value in rows:
        folder.append_metrics(step, {name: value})
    path = plot_curves(folder)
    assert (path is not None) == drawn
    if path is not None:
        with Image.open(path) as image:
            assert image.size == (1320, 504)  # 11 x 4.2 inches at 120 dpi


def test_curves_of_terms_below_zero(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a panel of their own; what an adversary is watched by is no term."""
    terms = {f"term_{index:02}": 1.0 + index for index in range(20)} | {"adversarial": -0.5}
    shares = {f"train/share/{name}": 0.1 for name in terms}
    watched = {"train/d_loss": 0.7, "train/colour_drift_r": -0.1, "train/lr_psnr": 40.0}
    folder.append_metrics(1, {f"train/{name}": value for name, value in terms.items()})
    folder.append_metrics(1, shares | watched | {"train/loss": 9.0})
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, _, **__: drawn.append(figure))
    plot_curves(folder)
    plain, signed, _ = drawn[0].axes
    lines = [*plain.get_lines(), *signed.get_lines()]
    assert [line.get_label() for line in signed.get_lines()] == ["adversarial"]
    assert {line.get_label() for line in lines} == {*terms, "loss"}
    assert len({line.get_color() for line in lines}) == len(lines)
    assert (plain.get_yscale(), signed.get_yscale()) == ("log", "linear")
