"""A loss, image or gradient that is not finite, once: reliability.md row 17."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from srtrain.files import read_json
from srtrain.training import adversarial, supervised
from tests.faults.breaking import (
    ADVERSARY,
    BROKEN,
    STEPS,
    at,
    break_gradient,
    break_half,
    break_image,
    break_judge,
    break_term,
    equal,
    skip,
    state,
)
from tests.training import draw_sets, train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.faults.breaking import Break

SHORT = (
    f"trainer.max_steps={STEPS}",
    f"trainer.val_every_n_steps={STEPS}",
    f"checkpoint.every_n_steps={STEPS}",
    "trainer.log_every_n_steps=5",
    "callbacks.pictures.max_images=0",
    "trainer.progress=false",
)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srtrain.cli.train.plot_curves", lambda _: None)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


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
