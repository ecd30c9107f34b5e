"""Runs that are cut wherever it may hurt: they end as if nothing had happened, bit by bit.

Rows 1, 4, 5, 10, 11 and 12. Weights, EMA, both optimizers, schedules and ``metrics.csv`` are
compared by ``scripts/chaos.py``, which does the same to real processes at random moments.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest

from scripts.chaos import differences
from srtrain.training.adversarial import AdversarialSR
from srtrain.training.run_folder import RunFolder
from srtrain.training.supervised import SupervisedSR
from tests.forks import forked, forked_ranks
from tests.training import draw_sets, losses, words

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STEPS = 12
# Lines, validations and checkpoints seldom fall on one step.
INTERVALS = (
    f"trainer.max_steps={STEPS}",
    "trainer.log_every_n_steps=4",
    "trainer.val_every_n_steps=5",
    "checkpoint.every_n_steps=3",
    "callbacks.pictures.max_images=0",
    "trainer.accumulate=2",
    "trainer.progress=false",
)
SMALL_JUDGE = (
    "discriminator=patchgan_lite",
    "discriminator.n_layers=1",
    "discriminator.base_channels=8",
    "callbacks.adversary_watch.patience=4",
)


@dataclass(frozen=True)
class Cut:
    """``number`` at the ``nth`` call of a method in the step that follows ``step`` steps."""

    number: signal.Signals
    owner: type[SupervisedSR]
    method: str
    step: int
    nth: int = 1

    @property
    def code(self) -> int:
        return 75 if self.number == signal.SIGTERM else -self.number

    def arm(self) -> None:
        whole, calls = getattr(self.owner, self.method), []

        def cut(module: SupervisedSR, *args: Any, **options: Any) -> Any:  # noqa: ANN401
            if module.global_step == self.step:
                calls.append(None)
                if len(calls) == self.nth:
                    os.kill(os.getpid(), self.number)
            return whole(module, *args, **options)

        setattr(self.owner, self.method, cut)


# Each start goes on where the one before was cut.
CUTS = (
    Cut(signal.SIGKILL, SupervisedSR, "compare", 1, nth=2),  # mid-accumulation, nothing saved
    Cut(signal.SIGTERM, SupervisedSR, "step_generator", 1),  # saves 2, between two lines
    Cut(signal.SIGTERM, SupervisedSR, "compare", 4, nth=2),  # saves 5, where validation is due
    Cut(signal.SIGTERM, SupervisedSR, "validation_step", 5),  # in that validation: 5 again
    Cut(signal.SIGKILL, SupervisedSR, "validation_step", 5, nth=2),
    Cut(signal.SIGTERM, SupervisedSR, "train_generator", 11),  # saves 12, the last, unmeasured
)
BETWEEN_BOTH = (
    Cut(signal.SIGKILL, AdversarialSR, "train_discriminator", 4),
    Cut(signal.SIGTERM, AdversarialSR, "train_discriminator", 6),
    Cut(signal.SIGTERM, SupervisedSR, "validation_step", 10, nth=2),
)
SUPERVISED = (
    "degradation=blind_light",
    "model.augment.mixup=0.5",
    "model.augment.cutblur=0.5",
    "generator=swinir_light",  # drops paths
    "generator.depths=[2]",
    "generator.num_heads=[2]",
    "generator.embed_dim=8",
    "generator.window_size=4",
)
ADVERSARIAL = (
    "experiment=quantile",
    *SMALL_JUDGE,
    "objective=hinge",
    "model.adaptive=true",
    "model.adaptive_above=0.5",
    "model.warmup_share=0.2",
)
WGAN = (*SMALL_JUDGE, "discriminator.norm=none", "objective=wgan_gp", "model.discriminator_start=4")
PERCEPTUAL = (
    "experiment=mse_plus_perceptual",
    *SMALL_JUDGE,
    "discriminator.norm=spectral",
    "objective=ragan",
    "trainer.accumulate=1",
)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srtrain.cli.train.plot_curves", lambda _: None)


@pytest.fixture(autouse=True)
def _a_validation_of_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srtrain.data.datamodule.BATCH_PIXELS", {"cpu": 1})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize(
    ("extra", "cuts"),
    [
        pytest.param(SUPERVISED, CUTS, id="supervised"),
        pytest.param(ADVERSARIAL, BETWEEN_BOTH, id="adversarial"),
        pytest.param(WGAN, BETWEEN_BOTH, id="wgan", marks=pytest.mark.slow),
        pytest.param(PERCEPTUAL, BETWEEN_BOTH, id="perceptual", marks=pytest.mark.slow),
    ],
)
def test_cut_anywhere_it_ends_as_if_nothing_had_happened(
    extra: tuple[str, ...], cuts: tuple[Cut, ...], images: Path, tmp_path: Path
) -> None:
    log, straight, run = (tmp_path / name for name in ("log", "straight", "cut"))
    asked = (*INTERVALS, *extra)
    assert forked(words(images, straight, *asked), log) == 0, log.read_text()[-2000:]
    for number, cut in enumerate(cuts):
        own = (*asked, f"data.num_workers={(0, 2, 3)[number % 3]}")
        code = forked(words(images, run, *own), log, prepare=cut.arm)
        assert code == cut.code, f"{cut}\n{log.read_text()[-2000:]}"
    assert forked(words(images, run, *asked), log) == 0, log.read_text()[-2000:]
    assert differences(straight, run, step=STEPS) == []


JUDGED = (*SMALL_JUDGE, "discriminator.norm=spectral")


@pytest.mark.parametrize(
    "extra", [(), pytest.param(JUDGED, marks=pytest.mark.slow)], ids=["supervised", "adversarial"]
)
def test_other_ranks_see_the_same_samples_and_lose_the_same_to_1e_6(
    extra: tuple[str, ...], images: Path, tmp_path: Path
) -> None:
    """One rank until step 4 is done, two until step 8, one to the end."""
    log, seen = tmp_path / "log", tmp_path / "samples"
    straight, run = (RunFolder(tmp_path / name) for name in ("straight", "ranks"))
    asked = (*INTERVALS, "trainer.log_every_n_steps=3", *extra)  # a line holds steps of both
    assert forked(words(images, straight.path, *asked), log) == 0, log.read_text()[-2000:]

    def noting(cut: Cut | None = None) -> Callable[[], None]:
        return partial(_note_samples, seen, cut)

    step = "train_generator"
    first = noting(Cut(signal.SIGTERM, SupervisedSR, step, 3))
    assert forked(words(images, run.path, *asked), log, prepare=first) == 75
    # A rank that is told in one step is obeyed by all after the next.
    second = noting(Cut(signal.SIGTERM, SupervisedSR, step, 6))
    two = words(images, run.path, *asked, "trainer=ddp")
    assert forked_ranks(two, log, ranks=2, prepare=second) == [75, 75], log.read_text()[-2000:]
    assert forked(words(images, run.path, *asked), log, prepare=noting()) == 0, log.read_text()[
        -2000:
    ]

    lines = [tuple(map(int, line.split())) for line in seen.read_text().splitlines()]
    for number in range(STEPS):
        ranks = [samples for of, *samples in lines if of == number]
        assert len(ranks) == (2 if 4 <= number < 8 else 1)
        assert sorted(chain(*ranks)) == list(range(4 * number, 4 * number + 4))
    rows, expected = run.read_metrics(), straight.read_metrics()
    assert [row[:2] for row in rows] == [row[:2] for row in expected]
    assert [v for _, v in losses(run)] == pytest.approx([v for _, v in losses(straight)], rel=1e-6)
    for value, wanted in zip(rows, expected, strict=True):
        assert value[2] == pytest.approx(wanted[2], rel=1e-4, abs=1e-6), wanted


def _note_samples(seen: Path, cut: Cut | None) -> None:
    whole = SupervisedSR.parts

    def noted(module: SupervisedSR, batch: Any) -> Any:  # noqa: ANN401
        samples = " ".join(str(int(sample)) for sample in batch["sample"])
        with seen.open("a", encoding="utf-8") as stream:
            stream.write(f"{module.global_step} {samples}\n")
        return whole(module, batch)

    SupervisedSR.parts = noted  # type: ignore[method-assign]
    if cut is not None:
        cut.arm()
