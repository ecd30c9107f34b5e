"""Losses, gradients and weights that stay not finite: reliability.md row 18."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from srtrain.files import read_json
from srtrain.training.run_folder import RunFolder
from srtrain.training.supervised import SupervisedSR
from tests.faults.breaking import (
    ADVERSARY,
    BROKEN,
    break_gradient,
    break_judge,
    break_term,
    equal,
    state,
)
from tests.forks import forked_ranks
from tests.training import cut_back, draw_sets, train, words

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.breaking import Break

ROLLING = (
    "trainer.max_steps=24",
    "trainer.val_every_n_steps=24",
    "checkpoint.every_n_steps=3",
    "trainer.log_every_n_steps=4",
    "callbacks.pictures.max_images=0",
    "trainer.progress=false",
    "scheduler=constant",
)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srtrain.cli.train.plot_curves", lambda _: None)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


def until_slower(module: SupervisedSR) -> bool:
    """From step 8 on, until the learning rate is lower."""
    return module.lr_factor == 1.0 and module.global_step >= BROKEN - 1


@pytest.fixture(scope="module")
def rolled_back(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    with pytest.MonkeyPatch.context() as patch:
        break_term(patch, until_slower)
        return train(images, tmp_path_factory.mktemp("rolled") / "back", *ROLLING)


def test_many_roll_the_run_back(rolled_back: RunFolder) -> None:
    configured = {"optimizer.lr": 2e-3}
    entry = {"step": 20, "to": 6, "term": "pixel", "lr_factor": 0.5, "rates": configured}
    assert read_json(rolled_back.path / "divergence.json") == [entry]
    assert "lr: 0.002" in rolled_back.config.read_text()
    rates = {s: v for s, name, v in rolled_back.read_metrics() if name == "train/learning_rate"}
    assert rates == {4: 2e-3, 8: 1e-3, 12: 1e-3, 16: 1e-3, 20: 1e-3, 24: 1e-3}
    assert read_json(rolled_back.summary)["skipped"] == 0
    aside = sorted(path.name for path in rolled_back.checkpoints.glob("*.diverged"))
    assert aside == [f"step-{step:06d}.diverged" for step in (9, 12, 15, 18)]


@pytest.mark.parametrize("step", [15, 18], ids=["later", "in the streak"])
def test_a_kill_leaves_no_trace(
    step: int,
    rolled_back: RunFolder,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Killed at 15, after the rollback, and at 18, when nobody had given up yet."""
    folder = cut_back(rolled_back, tmp_path / "cut", step)
    if step == 18:
        (folder.path / "divergence.json").unlink()
        for path in folder.checkpoints.glob("*.diverged"):
            path.replace(path.with_suffix(".ckpt"))
    break_term(monkeypatch, until_slower)
    train(images, folder.path, *ROLLING)
    said = (
        "diverged: `pixel` is not finite, from step 8 to 20 · back to step 6, learning rates × 0.5"
    )
    out = capsys.readouterr().out
    assert (said in out) == (step == 18)
    noted = "learning rates × 0.5 after 1 rollback (divergence.json)"
    assert (noted in out) == (step == 15)
    assert equal(state(folder, 24), state(rolled_back, 24))
    for name in ("metrics.csv", "divergence.json"):
        assert (folder.path / name).read_bytes() == (rolled_back.path / name).read_bytes()


@pytest.mark.parametrize(
    ("how", "extra", "to", "term"),
    [
        (break_term, (), [6, 3], "pixel"),
        pytest.param(
            break_gradient,
            ("checkpoint.every_n_steps=100",),
            [0, 0],
            "grad_norm",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["loss", "inf gradient, no checkpoint yet"],
)
def test_for_ever_is_given_up_after_two_rollbacks(
    how: Break,
    extra: tuple[str, ...],
    to: list[int],
    term: str,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The second goes further back: what the first went back to led to the same."""
    how(monkeypatch, lambda module: module.global_step >= BROKEN - 1)
    folder = train(images, tmp_path, *ROLLING, *extra, "resume=never", code=5)
    message = capsys.readouterr().err
    assert f"`{term}` is not finite, from step 8 to 20, after 2 rollbacks" in message
    assert f"resume={folder.path} optimizer.lr=0.00025\n" in message
    entries = read_json(folder.path / "divergence.json")
    assert [entry["to"] for entry in entries] == to
    assert [entry["lr_factor"] for entry in entries] == [0.5, 0.25]
    files = sorted(folder.checkpoints.glob("step-*.ckpt"))
    assert len(files) == (6 if to[0] else 0)
    assert all(equal(it, it) for it in (state(folder, int(path.stem[5:])) for path in files))
    if files:  # its rollbacks are spent, whoever continues it
        train(images, folder.path, *ROLLING, *extra, code=5)
        assert read_json(folder.path / "divergence.json") == entries
        noted = "learning rates × 0.25 after 2 rollbacks (divergence.json)"
        assert noted in capsys.readouterr().out


def test_the_advice_is_taken_at_its_word(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A rate that the user sets is used as it is, and has two rollbacks of its own."""
    seen: list[float] = []

    def broken(module: SupervisedSR) -> bool:
        seen.append(module.trainer.optimizers[0].param_groups[0]["lr"])
        return module.global_step >= BROKEN - 1

    break_term(monkeypatch, broken)
    folder = train(images, tmp_path, *ROLLING, code=5)
    assert list(dict.fromkeys(seen)) == [2e-3, 1e-3, 5e-4]
    capsys.readouterr()
    seen.clear()
    train(images, folder.path, *ROLLING, "optimizer.lr=0.00025", code=5)
    assert list(dict.fromkeys(seen)) == [2.5e-4, 1.25e-4, 6.25e-5]
    said = capsys.readouterr()
    assert "rollbacks (divergence.json)" not in said.out
    assert "after 2 rollbacks (divergence.json)" in said.err
    assert f"resume={folder.path} optimizer.lr=3.125e-05\n" in said.err
    entries = read_json(folder.path / "divergence.json")
    assert [entry["rates"]["optimizer.lr"] for entry in entries] == [2e-3] * 2 + [2.5e-4] * 2


@pytest.mark.slow
def test_a_discriminator_for_ever(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is named, and with its learning rate the generator's is halved twice."""
    break_judge(monkeypatch, lambda module: module.global_step >= BROKEN)
    folder = train(images, tmp_path, *ROLLING, *ADVERSARY, code=5)
    message = capsys.readouterr().err
    assert "`d_grad_norm` is not finite, from step 8 to 20, after 2 rollbacks" in message
    assert "optimizer.lr=0.0005 discriminator_optimizer.lr=1.25e-05" in message
    assert [e["term"] for e in read_json(folder.path / "divergence.json")] == ["d_grad_norm"] * 2
    rates = [made["param_groups"][0]["lr"] for made in state(folder, 6)["optimizer_states"]]
    assert rates == [2e-3 / 4, 1e-4 / 4]


@pytest.mark.slow
def test_a_discriminator_that_explodes(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten thousand times its learning rate from step 4 on; what was saved before stays."""
    extra = (*ROLLING, *ADVERSARY, "discriminator.norm=none")
    train(images, tmp_path, *extra, "trainer.max_steps=4")
    capsys.readouterr()
    folder = train(images, tmp_path, *extra, "discriminator_optimizer.lr=1", code=5)
    message = capsys.readouterr().err
    assert re.search(r"`d_loss` is \d+ on average, above 50, from step 5 to 8, after 2", message)
    assert "discriminator_optimizer.lr=0.125" in message
    assert [e["to"] for e in read_json(folder.path / "divergence.json")] == [4, 3]
    assert (folder.checkpoints / "step-000004.diverged").exists()
    assert equal(state(folder, 3), state(folder, 3))


@pytest.mark.slow
def test_what_breaks_on_one_rank_rolls_both_back(images: Path, tmp_path: Path) -> None:
    """Rank 1 alone has losses that are not finite: once, and from step 8 on."""

    def prepare() -> None:
        def on_rank_1(module: SupervisedSR) -> bool:
            early = module.lr_factor == 1.0 and module.global_step == 1
            return module.global_rank == 1 and (early or until_slower(module))

        break_term(pytest.MonkeyPatch(), on_rank_1)

    two = ("trainer=ddp", "trainer.devices=2")
    log, run_dir = tmp_path / "log", tmp_path / "run"
    asked = words(images, run_dir, *ROLLING, *two)
    assert forked_ranks(asked, log, ranks=2, prepare=prepare) == [0, 0], log.read_text()
    said = log.read_text()
    assert said.count("step 2 skipped: `pixel` is not finite · samples 4-7") == 1
    assert said.count("diverged: `pixel` is not finite, from step 8 to 20 · back to step 6") == 1
    (entry,) = read_json(run_dir / "divergence.json")
    assert (entry["step"], entry["to"], entry["term"]) == (20, 6, "pixel")
    assert equal(state(RunFolder(run_dir), 24), state(RunFolder(run_dir), 24))


def test_what_is_not_finite_is_neither_saved_nor_best(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that break in the step before a save, and images that break in a validation."""
    whole, raw = SupervisedSR.step_generator, SupervisedSR.validation_step

    def step_generator(self: SupervisedSR, loss: Tensor) -> dict[str, Tensor]:
        told = whole(self, loss)
        if self.lr_factor == 1.0 and self.global_step == 6:
            with torch.no_grad():
                next(self.generator.parameters())[0, 0, 0, 0] = math.inf
        return told

    def validation_step(self: SupervisedSR, batch: Any, *of: int) -> None:  # noqa: ANN401
        broken = self.lr_factor == 0.5 and self.global_step == 10
        with pytest.MonkeyPatch.context() as patch:
            if broken:
                patch.setattr(self.generator, "point", lambda maps: maps * math.nan)
            raw(self, batch, *of)

    monkeypatch.setattr(SupervisedSR, "step_generator", step_generator)
    monkeypatch.setattr(SupervisedSR, "validation_step", validation_step)
    extra = ("trainer.max_steps=12", "trainer.val_every_n_steps=5")
    folder = train(images, tmp_path, *ROLLING, *extra)
    entries = read_json(folder.path / "divergence.json")
    assert [(entry["step"], entry["to"], entry["term"]) for entry in entries] == [
        (6, 5, "weights"),
        (10, 9, "sr"),
    ]
    summary = read_json(folder.summary)
    assert summary["generator_steps"] == 12
    assert math.isfinite(summary["best"]["value"])
    assert equal(state(folder, 12), state(folder, 12))
