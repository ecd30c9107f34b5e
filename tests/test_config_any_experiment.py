"""A discriminator in any experiment: at every scale and small budget, with WGAN-GP, with R1."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from srtrain.cli.build import make_loss
from srtrain.config.location import conf_dir
from srtrain.config.preflight import prepare
from srtrain.config.problems import RefusedError
from srtrain.errors import ConfigError
from srtrain.networks.discriminator import Discriminator

if TYPE_CHECKING:
    from srtrain.networks.generator import Generator

FLOWS = {"pmrf", "posterior"}  # have no adversary: tests/test_flow.py
EXPERIMENTS = sorted({path.stem for path in (conf_dir() / "experiment").glob("*.yaml")} - FLOWS)
JUDGES = ("patchgan", "unet", "vgg")
PLACES = tuple(product((2, 3, 4), ("smoke", "demo")))
ALL = [
    (experiment, judge, *place) for experiment, judge, place in product(EXPERIMENTS, JUDGES, PLACES)
]
# Each experiment once with each discriminator; over all of them, each at every scale and budget.
SOME = {
    (experiment, judge, *PLACES[(row + 2 * column) % len(PLACES)])
    for row, experiment in enumerate(EXPERIMENTS)
    for column, judge in enumerate(JUDGES)
}


def _composes(experiment: str, judge: str, scale: int, budget: str) -> None:
    words = [f"experiment={experiment}", f"scale={scale}", f"budget={budget}"]
    run = prepare([*words, f"discriminator={judge}"])
    assert run.choices["discriminator"] == f"{judge}_lite"
    assert run.config.data.hr_patch_size == 24 * scale
    assert run.config.loss.weights.adversarial > 0


@pytest.mark.parametrize("experiment", EXPERIMENTS[::6])
def test_any_experiment(experiment: str) -> None:
    for case in sorted(case for case in SOME if case[0] == experiment):
        _composes(*case)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_any_experiment_at_any_scale_and_small_budget(experiment: str) -> None:
    for case in (case for case in ALL if case[0] == experiment):
        _composes(*case)


@pytest.mark.parametrize(
    ("words", "norm"),
    [
        (["discriminator=patchgan"], "instance"),  # the small form's own
        (["discriminator=vgg", "budget=paper"], "none"),  # not the default's
        (["discriminator=patchgan", "discriminator.norm=none"], "none"),
        (["discriminator=patchgan", "budget=paper", "discriminator.norm=instance"], "instance"),
    ],
)
def test_wgan_gp_takes_away_a_norm_that_nobody_chose(words: list[str], norm: str) -> None:
    run = prepare(["objective=wgan_gp", *words])
    assert run.config.discriminator.norm == norm
    assert prepare(run.argv).config == run.config


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["discriminator=patchgan", "discriminator.norm=spectral"], "discriminator.norm=instance"),
        (["discriminator=unet"], "choose discriminator=patchgan | vgg"),
    ],
)
def test_wgan_gp_refuses_spectral_norm_that_was_chosen(words: list[str], said: str) -> None:
    with pytest.raises(RefusedError) as caught:
        prepare(["objective=wgan_gp", *words])
    assert [said in str(problem) for problem in caught.value.problems] == [True]


@pytest.mark.parametrize(
    ("objective", "refused"),
    [
        ({"_target_": "srtrain.losses.adversarial.Wasserstein"}, True),
        ({"_target_": "srtrain.losses.adversarial.Wasserstein", "gradient_penalty": 0}, False),
        ({"_target_": "srtrain.losses.adversarial.Hinge", "r1_gamma": 1.0}, True),
        ({"_target_": "srtrain.losses.adversarial.Hinge"}, False),
    ],
)
def test_batch_norm_in_ones_own_discriminator(objective: dict[str, object], refused: bool) -> None:
    """Known by its modules: its configuration may call it anything."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 3))
    judge = Discriminator(net, spec={"_target_": "own.Judge", "kwargs": {}})
    loss = {"weights": {"adversarial": 1.0}, "terms": {}, "schedule": {}}
    config = OmegaConf.create({"loss": loss, "objective": objective})
    generator: Generator = nn.Module()  # type: ignore[assignment]
    generator.head = None
    if not refused:
        image = torch.zeros(1, 3, 8, 8)
        assert make_loss(config, generator, judge)(image, image)[0].ndim == 0
        return
    with pytest.raises(ConfigError, match="BatchNorm2d mixes them"):
        make_loss(config, generator, judge)
