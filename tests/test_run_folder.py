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
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from srtrain.errors import ConfigError, Stopped, StorageError
from srtrain.files import read_json
from srtrain.training.checkpointing import Checkpointing
from srtrain.training.curves import plot_curves
from srtrain.training.pictures import save_png
from srtrain.training.ranking import Ranking
from srtrain.training.run_folder import RunFolder
from srtrain.training.summary import Summary

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


def _summary(
    folder: RunFolder,
    *,
    psnr: float = 29.5,
    last_step: int | None = None,
    judged: int = 3,
    monitor: str = "psnr_y",
) -> Summary:
    validation = SimpleNamespace(
        names=["a"],
        mean={"psnr_y": psnr, "ssim_y": 0.9}.get,
        val={"a": {"psnr_y": psnr}},
        measured_at=6,
        bicubic={"a": {"psnr_y": 28.0}},
        metrics=SimpleNamespace(protocol={"border": 4}),
    )
    records = SimpleNamespace(
        shares={"loss": {"pixel": 1.0}}, alarms={}, samples_per_second=12.3456, skipped=2
    )
    ranking = Ranking(monitor=monitor, mode="max")
    checkpointing = Checkpointing(folder, validation, ranking, every_n_steps=1, keep_last=1)  # type: ignore[arg-type]
    checkpointing.last_step = last_step
    features = SimpleNamespace(features_name="first5/procedural (recipe: vgg54)")
    terms = {"pixel": SimpleNamespace(), "perceptual": features}
    loss = SimpleNamespace(weights={"pixel": 1.0}, terms=terms)
    module = SimpleNamespace(validation=validation, loss=loss, discriminator_steps=judged)
    return Summary(folder, module, records, checkpointing)  # type: ignore[arg-type]


def _trainer(*, rank: int = 0) -> Any:  # noqa: ANN401
    return SimpleNamespace(is_global_zero=rank == 0, global_step=7, state=SimpleNamespace(fn="fit"))


def test_summary(folder: RunFolder) -> None:
    _summary(folder).write(7)
    written = read_json(folder.summary)
    assert written.pop("seconds") >= 0
    assert written == {
        "generator_steps": 7,
        "discriminator_steps": 3,
        "checkpoint": None,
        "best": None,
        "val": {"a": {"psnr_y": 29.5}},
        "val_step": 6,
        "bicubic": {"a": {"psnr_y": 28.0}},
        "protocol": {"border": 4},
        "loss": {
            "weights": {"pixel": 1.0},
            "features": {"perceptual": "first5/procedural (recipe: vgg54)"},
            "loss": {"pixel": 1.0},
        },
        "alarms": {},
        "skipped": 2,
        "samples_per_second": 12.35,
    }


def test_summary_is_json(folder: RunFolder) -> None:
    _summary(folder, psnr=math.inf, last_step=7).write(7)
    written = read_json(folder.summary)
    assert written["checkpoint"] == "checkpoints/step-000007.ckpt"
    assert written["val"]["a"]["psnr_y"] is None  # infinity is no JSON number


def _best(folder: RunFolder) -> dict[str, Any]:
    (folder.checkpoints / "step-000006.ckpt").touch()
    return {"metric": "psnr_y", "step": 6, "value": 31.0, "file": "step-000006.ckpt"}


def test_restored_is_what_was_saved(folder: RunFolder) -> None:
    reached = _summary(folder, psnr=31.0, last_step=7).content(7)
    reached |= {"best": _best(folder), "seconds": 1000.0}
    continued = _summary(folder, judged=0)
    continued.restore(reached, same_sets=["a"])
    content = continued.content(7)
    assert 1000.0 <= content.pop("seconds") < 1100.0
    assert content == {key: value for key, value in reached.items() if key != "seconds"}


def test_several_best_are_restored_if_they_are_still_there(folder: RunFolder) -> None:
    earlier = _summary(folder, last_step=7)
    best = _best(folder)
    second = best | {"step": 4, "value": 30.0}
    earlier.checkpointing.kept = [best, second, best | {"step": 2, "file": "step-000002.ckpt"}]
    continued = _summary(folder)
    continued.restore(earlier.content(7), same_sets=["a"])
    content = continued.content(7)
    assert (content["best"], content["kept"]) == (best, [best, second])


@pytest.mark.parametrize(("same", "monitor"), [([], "psnr_y"), (["a"], "ssim_y")])
def test_restored_best_counts_for_its_own_sets_and_metric(
    same: list[str], monitor: str, folder: RunFolder
) -> None:
    earlier = _summary(folder, last_step=7)
    earlier.checkpointing.kept = [_best(folder)]
    continued = _summary(folder, monitor=monitor)
    continued.restore(earlier.content(7), same_sets=same)
    assert continued.content(7)["best"] is None
    assert list(continued.content(7)["bicubic"]) == same


def test_what_breaks_before_training_writes_no_summary(folder: RunFolder) -> None:
    summary, trainer = _summary(folder), _trainer()
    summary.on_exception(trainer, trainer, ValueError())
    assert not folder.summary.exists()
    summary.on_train_start(trainer, trainer)
    summary.on_exception(trainer, trainer, ValueError())
    assert folder.summary.exists()


def test_other_ranks_write_no_summary(folder: RunFolder) -> None:
    trainer = _trainer(rank=1)
    _summary(folder).on_train_end(trainer, trainer)
    assert not folder.summary.exists()
