"""Flows by other ways: of two ranks, in bf16, on blind degradation, from another flow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from srtrain.files import read_json
from srtrain.networks.loading import load_generator
from srtrain.training.run_folder import RunFolder
from tests.forks import forked_ranks
from tests.training import cut_back, draw_sets, losses, train, weights, words

SMALL = (
    "experiment=posterior",
    "generator=flow_lite",
    "generator.velocity.channels=8",
    "generator.steps=2",
    "callbacks.ema.decay=0.5",  # so that the average is neither its start nor the weights
    "optimizer.eps=1e-3",  # the first gradients are next to nothing, and Adam would enlarge it
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def alone(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(images, tmp_path_factory.mktemp("runs") / "alone", *SMALL)


def same(one: RunFolder, other: RunFolder, *, within: float) -> None:
    expected = weights(one, 6)
    found = weights(other, 6)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=within, rtol=0)


def test_two_ranks_are_one(images: Path, alone: RunFolder, tmp_path: Path) -> None:
    """Their moments and their noise belong to the place in the global batch."""
    ranks = ("trainer=ddp", "trainer.devices=2")
    asked = words(images, tmp_path / "run", *SMALL, *ranks)
    log = tmp_path / "log"
    assert forked_ranks(asked, log, ranks=2) == [0, 0], log.read_text()
    two = RunFolder(tmp_path / "run")
    same(alone, two, within=1e-6)
    expected = [value for _, value in losses(alone)]
    assert [value for _, value in losses(two)] == pytest.approx(expected, rel=1e-5)
    measured, sole = (read_json(run.summary)["val"]["tiny"] for run in (two, alone))
    assert measured == pytest.approx(sole, rel=1e-4)


@pytest.mark.slow
def test_bf16(images: Path, alone: RunFolder, tmp_path: Path) -> None:
    half = train(images, tmp_path / "half", *SMALL, "trainer.precision=bf16")
    exact, found = (dict(losses(run)) for run in (alone, half))
    assert found != exact
    assert found == pytest.approx(exact, rel=0.02)
    assert all(bool(value.isfinite().all()) for value in weights(half, 6).values())


def test_resumed_with_its_average(images: Path, alone: RunFolder, tmp_path: Path) -> None:
    cut = cut_back(alone, tmp_path / "cut", 4)
    train(images, cut.path, *SMALL)
    same(alone, cut, within=0)
    found = weights(cut, 6)
    last = "velocity.last.weight"
    assert not torch.equal(found[last], found[f"raw.generator.net.{last}"]), "EMA is no average"


def test_another_flow_is_a_start(images: Path, alone: RunFolder, tmp_path: Path) -> None:
    began = train(
        images, tmp_path, *SMALL, f"init_from={alone.path}", "trainer.max_steps=1", "seed=9"
    )
    measured = {name: value for step, name, value in began.read_metrics() if step == 0}
    for name, value in read_json(alone.summary)["val"]["tiny"].items():
        assert measured[f"val/tiny/{name}"] == pytest.approx(value, rel=1e-6)


@pytest.mark.slow
def test_blind_degradation(images: Path, tmp_path: Path) -> None:
    run = train(images, tmp_path, *SMALL, "degradation=real_esrgan", "data.hr_patch_size=32")
    assert len(losses(run)) == 6
    assert load_generator(run.path).scale == 2
