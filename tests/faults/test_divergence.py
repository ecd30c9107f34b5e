"""Losses, images and gradients that are not finite: reliability.md rows 17 and 18."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from srtrain.files import read_json
from srtrain.networks.storage import read_checkpoint
from srtrain.training import adversarial, supervised
from srtrain.training.adversarial import AdversarialSR
from srtrain.training.run_folder import RunFolder
from srtrain.training.supervised import SupervisedSR
from tests.forks import forked_ranks
from tests.training import cut_back, draw_sets, train, words

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    When = Callable[[SupervisedSR], bool]  # asked before the generator's step
    Break = Callable[[pytest.MonkeyPatch, When], None]

STEPS = 12
BROKEN = 8  # as metrics.csv counts them
SHORT = (
    f"trainer.max_steps={STEPS}",
    f"trainer.val_every_n_steps={STEPS}",
    f"checkpoint.every_n_steps={STEPS}",
    "trainer.log_every_n_steps=5",
    "callbacks.pictures.max_images=0",
    "trainer.progress=false",
)
ADVERSARY = (
    "discriminator=patchgan",
    "discriminator.n_layers=1",
    "discriminator.base_channels=8",
    "discriminator_optimizer.lr=1e-4",
    "loss.weights.adversarial=0.01",
)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srtrain.cli.train.plot_curves", lambda _: None)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


def _compare(patch: pytest.MonkeyPatch, change: Callable[[SupervisedSR, Tensor], Tensor]) -> None:
    whole = SupervisedSR.compare

    def changed(self: SupervisedSR, *images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        total, raw = whole(self, *images)
        total = change(self, total)
        return total, raw if total.isfinite() else raw | {"pixel": total.detach()}

    patch.setattr(SupervisedSR, "compare", changed)


def break_term(patch: pytest.MonkeyPatch, when: When) -> None:
    """The value alone: every gradient stays finite."""
    _compare(patch, lambda module, total: total + math.nan if when(module) else total)


def break_half(patch: pytest.MonkeyPatch, when: When) -> None:
    """The second micro-batch."""
    seen = []

    def change(module: SupervisedSR, total: Tensor) -> Tensor:
        seen.extend([None] if when(module) else [])
        return total * math.inf if when(module) and len(seen) == 2 else total

    _compare(patch, change)


def break_image(patch: pytest.MonkeyPatch, when: When) -> None:
    whole = SupervisedSR.parts

    def parts(self: SupervisedSR, batch: Any) -> list[Any]:  # noqa: ANN401
        made = whole(self, batch)
        for example in made if when(self) else []:
            example.lr[0, 0, 0, 0] = math.nan
        return made

    patch.setattr(SupervisedSR, "parts", parts)


def break_gradient(patch: pytest.MonkeyPatch, when: When) -> None:
    _step(patch, supervised, when, lambda gradient: gradient.fill_(math.inf))


def break_judge(patch: pytest.MonkeyPatch, when: When) -> None:
    """What regularises the discriminator; its loss and the generator's stay finite."""
    whole = AdversarialSR.penalty

    def penalty(self: AdversarialSR, **images: Tensor) -> Tensor | float:
        bad = when(self)
        made = whole(self, **images)
        return made + self.discriminator(images["hr"]).mean() * (math.nan if bad else 0.0)

    patch.setattr(AdversarialSR, "penalty", penalty)


def _step(
    patch: pytest.MonkeyPatch,
    place: ModuleType,
    when: When,
    change: Callable[[Tensor], Tensor | None],
) -> None:
    whole = place.step_network

    def step_network(
        module: SupervisedSR, network: nn.Module, **options: object
    ) -> dict[str, Tensor]:
        for parameter in network.parameters() if when(module) else ():
            if parameter.grad is not None:
                parameter.grad = change(parameter.grad)
        told: dict[str, Tensor] = whole(module, network, **options)
        return told

    patch.setattr(place, "step_network", step_network)


def skip(patch: pytest.MonkeyPatch, place: ModuleType, when: When) -> None:
    """Take no step there, for no reason that anybody could see."""
    _step(patch, place, when, lambda _: None)


def at(step: int, of: str = "generator") -> When:
    """Within the step that ``metrics.csv`` calls ``step``; the generator's counts it."""
    before = step - 1 if of == "generator" else step
    return lambda module: module.global_step == before


def state(folder: RunFolder, step: int = STEPS) -> dict[str, Any]:
    """Weights, average, moments, counters, schedules."""
    kept = read_checkpoint(folder.checkpoints / f"step-{step:06d}.ckpt")["train_state"]
    names = ("state_dict", "optimizer_states", "lr_schedulers")
    return {name: kept[name] for name in names} | {"ema": kept["callbacks"]["EMA"]}


def equal(one: Any, other: Any) -> bool:  # noqa: ANN401
    """Bit by bit; nothing in either is NaN."""
    if isinstance(one, Tensor):
        return torch.equal(one, other) and bool(one.isfinite().all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return all(equal(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


@dataclass(frozen=True)
class Fault:
    how: Break
    words: tuple[str, ...] = ()
    of: str = "generator"
    said: str = "`pixel` is not finite"


HALVES = ("trainer.accumulate=2", "model.clip_norm=0.5")
JUDGE = "discriminator"
ONCE = {
    "loss": Fault(break_term),
    "image": Fault(break_image),
    "inf gradient": Fault(break_gradient, said="`grad_norm` is not finite"),
    "half": Fault(break_half, HALVES),
    "discriminator": Fault(break_judge, ADVERSARY, of=JUDGE, said="`d_grad_norm` is not finite"),
}


@pytest.fixture(scope="module")
def expected(
    images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Fault], dict[str, Any]]:
    """The state of a run that skipped the broken step; one for all faults in the same one."""
    known: dict[tuple[str, ...], dict[str, Any]] = {}

    def of(fault: Fault) -> dict[str, Any]:
        if fault.words not in known:
            folder = tmp_path_factory.mktemp("expected")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("srtrain.cli.train.plot_curves", lambda _: None)
                skip(patch, adversarial if fault.of == JUDGE else supervised, at(BROKEN, fault.of))
                known[fault.words] = state(train(images, folder, *SHORT, *fault.words))
        return known[fault.words]

    return of


@pytest.mark.parametrize("fault", ONCE.values(), ids=ONCE.keys())
def test_one_is_skipped(
    fault: Fault,
    expected: Callable[[Fault], dict[str, Any]],
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Weights, moments, counters and schedules are those of a run that skipped that update."""
    wanted = expected(fault)
    capsys.readouterr()
    fault.how(monkeypatch, at(BROKEN, fault.of))
    folder = train(images, tmp_path, *SHORT, *fault.words)
    assert equal(state(folder), wanted)
    line = f"srtrain: step 8 skipped: {fault.said} · samples 28-31\n"
    assert capsys.readouterr().err.count(line) == 1
    counted = "train/skipped" if fault.of == "generator" else "train/d_skipped"
    rows = folder.read_metrics()
    assert [row for row in rows if row[1].endswith("skipped")] == [(10, counted, 1.0)]
    assert all(math.isfinite(value) for _, name, value in rows if name.startswith("train/"))
    assert read_json(folder.summary)["skipped"] == 1
    assert not (folder.path / "divergence.json").exists()


@pytest.mark.slow
def test_statistics_stay_as_they_were(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch norm averages what it sees, and it has seen NaN."""
    break_image(monkeypatch, at(BROKEN))
    folder = train(images, tmp_path, *SHORT, *ADVERSARY, "discriminator.norm=batch")
    kept = state(folder)
    means = [v for name, v in kept["state_dict"].items() if name.endswith("running_var")]
    assert means
    assert equal(kept, kept)  # all of it is finite
    counts = {int(v) for name, v in kept["state_dict"].items() if name.endswith("_tracked")}
    assert len(counts) == 1
    assert counts.pop() % (STEPS - 1) == 0  # looks a step, times the steps that were taken


ROLLING = (
    "trainer.max_steps=24",
    "trainer.val_every_n_steps=24",
    "checkpoint.every_n_steps=3",
    "trainer.log_every_n_steps=4",
    "callbacks.pictures.max_images=0",
    "trainer.progress=false",
    "scheduler=constant",
)


def until_slower(module: SupervisedSR) -> bool:
    """From step 8 on, until the learning rate is lower."""
    return module.lr_factor == 1.0 and module.global_step >= BROKEN - 1


@pytest.fixture(scope="module")
def rolled_back(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    with pytest.MonkeyPatch.context() as patch:
        break_term(patch, until_slower)
        return train(images, tmp_path_factory.mktemp("rolled") / "back", *ROLLING)


def test_many_roll_the_run_back(rolled_back: RunFolder) -> None:
    entry = {"step": 20, "to": 6, "term": "pixel", "lr_factor": 0.5}
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
    assert (said in capsys.readouterr().out) == (step == 18)
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
    assert f"resume={folder.path} optimizer.lr=0.001" in message
    entries = read_json(folder.path / "divergence.json")
    assert [entry["to"] for entry in entries] == to
    assert [entry["lr_factor"] for entry in entries] == [0.5, 0.25]
    files = sorted(folder.checkpoints.glob("step-*.ckpt"))
    assert len(files) == (6 if to[0] else 0)
    assert all(equal(it, it) for it in (state(folder, int(path.stem[5:])) for path in files))
    if files:  # its rollbacks are spent, whoever continues it
        train(images, folder.path, *ROLLING, *extra, code=5)
        assert read_json(folder.path / "divergence.json") == entries


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
    assert "discriminator_optimizer.lr=5e-05" in message
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
    assert "discriminator_optimizer.lr=0.5" in message
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
