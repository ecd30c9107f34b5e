"""When the discriminator learns, and when the generator hears of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from srtrain.cli.quiet import quiet_libraries
from srtrain.losses.schedule import Ramp
from srtrain.training.schedules import constant
from srtrain.training.stepping import step_network
from tests.adversary import fit, make

pytestmark = pytest.mark.filterwarnings("ignore:.*no `val_dataloader`.*")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet_libraries()


def test_warmup_learns_from_pixels_alone_while_the_discriminator_trains() -> None:
    watch = fit(make(warmup_share=0.5), 6)
    assert ["adversarial" in values for values in watch.values] == [False] * 3 + [True] * 3
    assert watch.judged == [1, 2, 3, 4, 5, 6]


def test_warmup_needs_pixels() -> None:
    with pytest.raises(ValueError, match=r"needs a pixel\* term"):
        fit(make(weights={"adversarial": 1.0}, warmup_share=0.5), 2)


@pytest.mark.parametrize(("trained", "heard"), [(False, 2), (True, 0)])
def test_discriminator_start(trained: bool, heard: int) -> None:
    """Nobody follows a discriminator that has learnt nothing, unless it came from a file."""
    module = make(discriminator_start=2)
    module.discriminator.trained.fill_(trained)
    watch = fit(module, 4)
    assert watch.judged == [0, 0, 1, 2]
    assert ["d_grad_norm" in values for values in watch.values] == [True] * 4
    assert [values["d_grad_norm"] > 0 for values in watch.values] == [False, False, True, True]
    assert ["adversarial" in values for values in watch.values] == [n >= heard for n in range(4)]


def test_the_later_of_start_and_schedule_counts() -> None:
    module = make(discriminator_start=2)
    module.loss.schedules["adversarial"] = Ramp(start=3)
    watch = fit(module, 4)
    assert ["adversarial" in values for values in watch.values] == [False] * 3 + [True]


def test_a_start_needs_something_to_learn_from() -> None:
    with pytest.raises(ValueError, match="no other term counts at step 0, before adversarial"):
        fit(make(weights={"adversarial": 1.0}, discriminator_start=2), 3)


def test_the_norm_of_no_gradients_lies_where_the_network_does() -> None:
    """Records stacks a log line's figures: one of another device would end the run."""
    network = nn.Linear(2, 2, device="meta")
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    scheduler = constant(optimizer, max_steps=2, warmup_share=0.0)
    module: Any = SimpleNamespace(
        optimizers=lambda: optimizer,
        lr_schedulers=lambda: scheduler,
        guarded=True,
        trainer=SimpleNamespace(strategy=None),
    )
    loss = torch.zeros((), device="meta")
    told = step_network(module, network, number=0, clip_norm=None, loss=loss)
    assert {name: figure.device.type for name, figure in told.items()} == {
        "grad_norm": "meta",
        "skipped": "meta",
    }


def test_an_adaptive_discriminator_pauses_while_it_wins() -> None:
    """All its logits are 0, so none is right, and the average falls by a tenth a step.

    By hand: .99 · .9^4 = .650 is above .6, .99 · .9^5 = .585 is not: the sixth step is its first.
    """
    module = make(adaptive=True, adaptive_above=0.6, norm="none")
    with torch.no_grad():
        for parameter in module.discriminator.parameters():
            parameter.zero_()
    module.accuracy.fill_(0.99)
    watch = fit(module, 6)
    assert watch.judged == [0, 0, 0, 0, 0, 1]
    assert float(module.accuracy) == pytest.approx(0.99 * 0.9**6)
    kept = watch.weights[4]
    assert all(not value.any() for name, value in kept.items() if name.endswith("weight"))
    assert fit(make(adaptive=True, adaptive_above=1.0), 3).judged == [1, 2, 3]
