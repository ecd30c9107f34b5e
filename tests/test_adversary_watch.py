"""When alarms are told, what is drawn; one adversary that is really broken."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from srtrain.files import read_json
from srtrain.losses.adversarial import Vanilla
from srtrain.training.adversary_watch import LONGEST, AdversaryWatch
from srtrain.training.logit_picture import MOST, Moment, logit_picture, quantiles, thinned
from srtrain.training.records import Records
from srtrain.training.run_folder import RunFolder
from srtrain.training.wandb import Wandb
from tests.training import cut_back, draw_sets, train

if TYPE_CHECKING:
    from pathlib import Path
from tests.test_alarms import HEALTHY


class _Run:
    """A run whose records write a line every 10 steps, without networks."""

    def __init__(self, folder: RunFolder, *, patience: int = 20, first: int = 0) -> None:
        self.records = Records(folder, log_every_n_steps=10)
        self.watch = AdversaryWatch(folder, self.records, patience=patience)
        self.trainer: Any = SimpleNamespace(global_step=first, is_global_zero=True, loggers=[])
        source = torch.Generator().manual_seed(1)
        real, fake = (torch.randn(8, 1, 6, 6, generator=source) + shift for shift in (1, -1))
        self.module: Any = SimpleNamespace(
            objective=Vanilla(), discriminator_steps=1, last_logits=(real, fake)
        )
        self.watch.on_train_start(self.trainer, self.module)

    def lines(self, count: int, *, drop: str = "", **changed: float) -> None:
        figures = {**HEALTHY, "adversarial": 0.7, **changed}
        figures.pop(drop, None)
        for _ in range(10 * count):
            self.trainer.global_step += 1
            if self.trainer.global_step % 10 == 0:
                self.records.latest = {f"train/{name}": value for name, value in figures.items()}
            self.watch.on_train_batch_end(self.trainer, self.module, None, None, 0)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    return folder


WON = {"d_accuracy_real": 1.0, "d_accuracy_fake": 1.0}


def test_told_once_and_kept(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    run = _Run(folder)
    run.lines(4)
    assert capsys.readouterr().err == ""
    run.lines(1, **WON)
    assert not run.records.alarms, "a symptom must show over `patience` steps"
    run.lines(2, **WON)
    err = capsys.readouterr().err
    assert err.startswith("srtrain: alarm: discriminator won at step 60 · it is right about 100.0%")
    assert err.count("\n") == 1
    run.lines(4, **WON)
    assert capsys.readouterr().err == "", "not again before step 120"
    run.lines(2, **WON)
    assert "at step 120" in capsys.readouterr().err
    kept = run.records.alarms["discriminator won"]
    assert (kept["step"], kept["last_step"]) == (60, 130)
    assert set(kept) == {"step", "last_step", "says"}
    run.lines(5)
    assert run.records.alarms["discriminator won"]["last_step"] == 130


def test_a_moment_is_no_alarm(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    run = _Run(folder)
    for _ in range(5):
        run.lines(1)
        run.lines(1, d_accuracy_real=0.0, d_accuracy_fake=1.0)  # .5 here, .64 on average
    assert capsys.readouterr().err == ""
    assert not run.records.alarms


def test_collapse_is_a_fall(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    run = _Run(folder)
    run.lines(3, lr_psnr=22.0)  # an untrained generator contradicts its LR, and rises
    run.lines(3, lr_psnr=44.0)
    assert capsys.readouterr().err == ""
    run.lines(3, lr_psnr=20.0)
    assert "collapse" in capsys.readouterr().err
    assert "from 44.0 to" in run.records.alarms["collapse"]["says"]


def test_a_blind_run_falls_under_another_name(folder: RunFolder) -> None:
    run = _Run(folder)
    for consistent in (25.0, 18.0):
        run.lines(3, lr_psnr_bicubic=consistent, drop="lr_psnr")
    assert "from 25.0 to" in run.records.alarms["collapse"]["says"]


@pytest.mark.parametrize("waiting", ["warm-up", "the discriminator has not begun"])
def test_silent_before_the_game(
    waiting: str, folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _Run(folder)
    if waiting == "warm-up":
        keep = run.records
        run.lines(0)
        for _ in range(5):
            run.trainer.global_step += 10
            keep.latest = {f"train/{name}": v for name, v in {**HEALTHY, **WON}.items()}
            run.watch.on_train_batch_end(run.trainer, run.module, None, None, 0)
    else:
        run.module.discriminator_steps = 0
        run.lines(5, **WON)
    assert capsys.readouterr().err == ""
    run.module.discriminator_steps = 1
    run.lines(2, **WON)
    assert "discriminator won" in capsys.readouterr().err


@pytest.mark.parametrize("lost", ["d_accuracy_real", "colour_drift_r", "lr_psnr"])
def test_a_line_without_a_finite_step_is_passed_over(lost: str, folder: RunFolder) -> None:
    run = _Run(folder)
    run.lines(2)
    run.lines(1, drop=lost)
    run.lines(1)
    assert [moment.step for moment in run.watch.history] == [10, 20, 40]
    assert [steps for steps, _ in run.watch.state_dict()["window"]] == [20]


def test_logits_of_a_refused_step_are_not_drawn(folder: RunFolder) -> None:
    run = _Run(folder)
    run.lines(1)
    run.module.last_logits = tuple(logits * float("nan") for logits in run.module.last_logits)
    run.lines(1)
    run.watch.on_validation_end(run.trainer, run.module)
    assert [moment.step for moment in run.watch.history] == [10]
    assert (folder.samples / "logits.png").exists()


def test_other_ranks_are_silent(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    run = _Run(folder)
    run.trainer.is_global_zero = False
    run.lines(3, **WON)
    run.watch.on_validation_end(run.trainer, run.module)
    assert capsys.readouterr().err == ""
    assert not list(folder.samples.iterdir())


@pytest.mark.parametrize("cut", [40, 45])
def test_resumed(cut: int, folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """History and window go on, also between two lines; what was told is not told again."""
    first = _Run(folder)
    first.lines(4, **WON)
    assert "discriminator won" in capsys.readouterr().err
    second = _Run(folder, first=cut)
    second.records.alarms = {name: dict(kept) for name, kept in first.records.alarms.items()}
    second.watch.load_state_dict(first.watch.state_dict())
    second.watch.on_train_start(second.trainer, second.module)
    assert second.watch.history == first.watch.history
    second.lines(1, **WON)
    kept = second.records.alarms["discriminator won"]
    assert (kept["step"], kept["last_step"]) == (20, 50)
    assert [steps for steps, _ in second.watch.state_dict()["window"]] == [10, 10]
    assert second.watch.state_dict()["told"] == first.watch.state_dict()["told"]
    second.lines(2, **WON)
    assert "at step" not in capsys.readouterr().err, "told at 20 and 40, next at 80"
    assert second.watch.best_lr_psnr == first.watch.best_lr_psnr == 41.0


def test_history_stays_short(folder: RunFolder) -> None:
    run = _Run(folder, patience=10)
    run.lines(LONGEST + 1)
    steps = [moment.step for moment in run.watch.history]
    assert len(steps) == LONGEST // 2 + 1
    assert (steps[0], steps[1], steps[-1]) == (10, 30, 10 * (LONGEST + 1))


class _Histograms:
    def __init__(self) -> None:
        self.logged: dict[str, tuple[int, int]] = {}

    def log_histogram(self, key: str, values: torch.Tensor, step: int) -> None:
        self.logged[key] = (len(values), step)


def test_picture_and_histograms(folder: RunFolder) -> None:
    run = _Run(folder)
    logger = _Histograms()
    run.trainer.loggers = [logger, object()]
    run.watch.on_validation_end(run.trainer, run.module)
    assert not list(folder.samples.iterdir()), "nothing to draw yet"
    run.lines(3)
    run.watch.on_validation_end(run.trainer, run.module)
    with Image.open(folder.samples / "logits.png") as picture:
        assert picture.size == (1320, 418)
    assert logger.logged == {"train/logits_real": (288, 30), "train/logits_fake": (288, 30)}


def test_quantiles_and_thinning() -> None:
    real, made = torch.arange(101.0), -torch.arange(101.0)
    of_real, of_made = quantiles(real, made)
    assert of_real == pytest.approx((5.0, 50.0, 95.0), rel=1e-5)
    assert of_made == pytest.approx((-95.0, -50.0, -5.0), rel=1e-5)
    many = torch.zeros(1, 1, 3 * MOST, 1)
    assert len(thinned(many)) == MOST
    assert len(thinned(torch.zeros(5, 1))) == 5


@pytest.mark.parametrize("logits", [torch.zeros(4), torch.tensor([1e4, 1e4, -1e4, 0.0])])
def test_picture_of_extremes(logits: torch.Tensor) -> None:
    """A dead discriminator has one logit, a diverging one has huge ones."""
    moment = Moment(1, 0.0, 1.0, *quantiles(logits, logits))
    assert logit_picture([moment], real=logits, made=-logits).startswith(b"\x89PNG")


def test_wandb_histogram(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = []
    monkeypatch.setattr(WandbLogger, "__init__", lambda self, **_: None)
    monkeypatch.setattr(WandbLogger, "log_metrics", lambda self, row, step: rows.append(row))
    (tmp_path / "wandb").mkdir()
    run = SimpleNamespace(finish=lambda: None)
    monkeypatch.setattr(WandbLogger, "experiment", run)
    logger = Wandb(run, run_dir=tmp_path)  # type: ignore[arg-type]
    logger.log_histogram("a", torch.tensor([0.0, 1.0, 1.0]), 7)
    logger.close()  # its thread has written by then
    (row,) = rows
    assert row["generator_step"] == 7
    counts = row["a"].histogram
    assert (counts[0], counts[-1], sum(counts)) == (1, 2, 3)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


SMALL = (
    "discriminator=patchgan",
    "discriminator.n_layers=1",
    "discriminator.base_channels=8",
    "callbacks.adversary_watch.patience=4",
)


def test_a_broken_run(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A million times the usual weight, fifty times the usual rate: a colour is all there is."""
    words = (*SMALL, "loss.weights.adversarial=1000", "optimizer.lr=0.1", "trainer.max_steps=8")
    run = train(images, tmp_path / "run", *words, "trainer.val_every_n_steps=4")
    err = capfd.readouterr().err
    assert "srtrain: alarm: collapse at step " in err
    assert "srtrain: alarm: colour drift at step " in err
    alarms = read_json(run.summary)["alarms"]
    assert {"collapse", "colour drift"} <= set(alarms)
    assert alarms["colour drift"]["last_step"] == 8
    assert (run.samples / "logits.png").exists()
    resumed = cut_back(run, tmp_path / "resumed", 6)
    resumed.summary.unlink()
    train(images, resumed.path, *words, "trainer.val_every_n_steps=4")
    assert read_json(resumed.summary)["alarms"] == alarms
    told = [line for line in err.splitlines() if " at step 7 · " in line or " at step 8 · " in line]
    again = [line for line in capfd.readouterr().err.splitlines() if "alarm" in line]
    assert again == told, "what was told by step 6 is not told again; the rest is, as it was"


def test_supervised_runs_are_not_watched(images: Path, tmp_path: Path) -> None:
    run = train(images, tmp_path / "run", "trainer.max_steps=2", "trainer.val_every_n_steps=2")
    assert read_json(run.summary)["alarms"] == {}
    assert not (run.samples / "logits.png").exists()
