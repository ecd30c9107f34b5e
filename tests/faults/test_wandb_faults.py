"""No trouble of W&B's own process ends a run, costs more than seconds, or a figure on disk."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from srtrain.training import wandb
from srtrain.training.guards import Guard, RollBack
from srtrain.training.wandb_sent import Sent
from tests.training import cut_back, draw_images, train
from tests.wandb_file import read_wandb
from tests.wandb_server import files_of, logger_in, said


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    draw_images(folder / "train", count=2, size=40, first=10)
    draw_images(folder / "val", count=1, size=40)
    return folder


def _fail(*_: object, **__: object) -> None:
    raise BrokenPipeError("the service died")


def _stopped(folder: Path) -> list[str]:
    hint = f"Upload later with: wandb sync {folder}/wandb/*run-2*"
    return [f"W&B stopped logging (the service died). {hint}"]


@pytest.mark.parametrize("method", ["log_metrics", "log_image", "log_hyperparams"])
def test_failing_logger_costs_one_warning(
    method: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(WandbLogger, method, _fail)
    logger = logger_in(tmp_path)
    assert logger is not None
    for step in range(3):
        logger.log_hyperparams({"a": 1})
        logger.log_metrics({"a": 1.0}, step=step)
        logger.log_image("a", [Image.new("RGB", (8, 8))], step=step)
    logger.close()
    assert said(caplog) == _stopped(tmp_path)


def test_training_outlives_its_logger(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for method in ("log_metrics", "log_image", "log_hyperparams"):
        monkeypatch.setattr(WandbLogger, method, _fail)
    folder = train(images, tmp_path / "run", "logger=wandb", "trainer.max_steps=2")
    assert said(caplog) == _stopped(folder.path)
    assert folder.summary.exists()


def test_failing_start_leaves_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("wandb.init", _fail)
    assert logger_in(tmp_path) is None
    assert said(caplog) == ["W&B is left out: the service died"]


def _service() -> int:
    """Its process id."""
    import wandb

    return int(wandb.setup()._connection._proc._process.pid)  # type: ignore[union-attr]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_service_that_dies_or_hangs_costs_seconds(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("PATIENCE_S", "FINISH_S"):
        monkeypatch.setattr(wandb, name, 0.5)
    logger = logger_in(tmp_path)
    assert logger is not None
    logger.log_metrics({"a": 1.0}, step=1)
    os.kill(_service(), number)
    began = time.monotonic()
    for step in range(2, 2000):  # more than a socket holds
        logger.log_metrics({f"figure {index}": 1.0 for index in range(30)}, step=step)
    logger.close()
    assert time.monotonic() - began < 20
    (line,) = said(caplog)
    assert line.startswith("W&B stopped logging (")
    assert line.endswith(f"wandb sync {tmp_path}/wandb/*run-2*")
    again = logger_in(tmp_path / "next")  # a run after it has a service again
    assert again is not None
    again.close()


def test_a_service_that_dies_costs_the_run_no_figure(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    undisturbed = train(images, tmp_path / "undisturbed")
    new = Sent.new

    def killing(self: Sent, names: set[str], step: int) -> set[str]:
        if step == 3:
            os.kill(_service(), signal.SIGKILL)
        return new(self, names, step)

    monkeypatch.setattr(Sent, "new", killing)
    folder = train(images, tmp_path / "run", "logger=wandb")
    assert [line for line in said(caplog) if line.startswith("W&B stopped logging (")]
    assert _figures(folder.read_metrics()) == _figures(undisturbed.read_metrics())


def _figures(rows: list[tuple[int, str, float]]) -> list[tuple[int, str, float]]:
    return [row for row in rows if row[1] != "train/samples_per_second"]


@pytest.mark.parametrize(
    ("told", "asked", "fresh"),
    [
        ([], (["a"], 0), {"a"}),
        ([(["a"], 4)], (["a", "b"], 3), set()),
        ([(["a"], 4)], (["a", "b"], 4), {"b"}),
        ([(["a"], 4), (["b"], 4)], (["a", "b"], 4), set()),
        ([(["a"], 4)], (["a"], 5), {"a"}),
    ],
)
@pytest.mark.parametrize("restarted", [False, True])
def test_names_of_a_step_are_told_once(
    told: list[tuple[list[str], int]],
    asked: tuple[list[str], int],
    fresh: set[str],
    restarted: bool,
    tmp_path: Path,
) -> None:
    path = tmp_path / "highest-step"
    sent = Sent(path)
    for names, step in told:
        sent.new(names, step)
    assert (Sent(path) if restarted else sent).new(*asked) == fresh


@pytest.mark.parametrize("content", ["", "{", "[]", '{"step": "x", "names": 1}'])
def test_a_damaged_note_of_what_was_told_counts_as_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "highest-step").write_text(content)
    assert Sent(tmp_path / "highest-step").new(["a"], 1) == {"a"}


def test_a_killed_and_continued_run_tells_each_step_once_under_one_id(
    images: Path, tmp_path: Path
) -> None:
    """Killed after step 5, with a checkpoint of step 4: step 5 is trained again, not told again."""
    first = train(images, tmp_path / "first", "logger=wandb", "trainer.max_steps=5")
    assert all(read_wandb(file).finished for file in files_of(first.path))  # before it is copied
    killed = cut_back(first, tmp_path / "killed", 4)
    train(images, killed.path, "logger=wandb")
    runs = [read_wandb(file) for file in files_of(killed.path)]
    assert len({run.run_id for run in runs}) == 1
    assert all(run.step_metrics["*"] == "generator_step" for run in runs)
    told = [step for run in runs for step in run.series("train/loss")]
    assert sorted(told) == [1, 2, 3, 4, 5, 6]
    assert [step for step, name, _ in killed.read_metrics() if name == "train/loss"] == sorted(told)


def test_a_run_that_is_rolled_back_goes_on_telling(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Step 5 breaks before it is told; from step 4 on, a logger of its own tells the others."""
    original, closed = Guard.on_train_batch_end, []

    def broken(guard: Guard, trainer: Any, module: Any, *rest: Any) -> None:  # noqa: ANN401
        if module.lr_factor == 1.0 and trainer.global_step == 5:
            closed.append(trainer.loggers[0])
            raise RollBack("broken", term="pixel", step=5)
        original(guard, trainer, module, *rest)

    monkeypatch.setattr(Guard, "on_train_batch_end", broken)
    folder = train(images, tmp_path / "run", "logger=wandb")
    assert [logger.broken for logger in closed] == [True]
    runs = [read_wandb(file) for file in files_of(folder.path)]
    assert [run.finished for run in runs] == [True, True]
    assert sorted(step for run in runs for step in run.series("train/loss")) == [1, 2, 3, 4, 5, 6]
    assert "W&B" not in caplog.text
