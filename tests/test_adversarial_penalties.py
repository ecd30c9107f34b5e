"""R1 and the gradient penalty against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from srtrain.losses.adversarial import (
    Hinge,
    LeastSquares,
    Objective,
    RelativisticAverage,
    Vanilla,
    Wasserstein,
)


class Linear(nn.Module):
    """``D(x) = w · x`` at every pixel, w = (1, 2, 2) over the colours."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 2.0]))

    def forward(self, image: Tensor) -> Tensor:
        return (image * self.weight.view(1, 3, 1, 1)).sum(1, keepdim=True)


def _quadratic(image: Tensor) -> Tensor:
    """``½ ‖x‖²`` of each image, so its gradient is x."""
    return image.flatten(1).square().sum(1) / 2


def _images(side: int = 1) -> dict[str, Tensor]:
    return {"hr": torch.full((2, 3, side, side), 0.8), "sr": torch.full((2, 3, side, side), 0.4)}


@pytest.mark.parametrize(
    ("judge", "side", "expected"),
    [
        (Linear(), 1, 9.0),  # ‖w‖²
        (Linear(), 4, 9.0 / 16),  # the mean of 16 logits: w / 16 at 16 pixels
        (_quadratic, 2, 12 * 0.64),  # ‖hr‖²
    ],
)
def test_r1(judge: nn.Module, side: int, expected: float) -> None:
    objective = Vanilla(r1_gamma=4.0, r1_every=8)
    mix = torch.zeros(2, 1, 1, 1)
    found = objective.penalty(judge, **_images(side), step=16, mix=mix)
    assert found.item() == pytest.approx(4.0 / 2 * 8 * expected)
    for step in (1, 15, 17):
        assert objective.penalty(judge, **_images(side), step=step, mix=mix) is None
    assert Vanilla().penalty(judge, **_images(side), step=0, mix=mix) is None


@pytest.mark.parametrize(
    ("judge", "mix", "expected"),
    [
        (Linear(), 0.3, 10 * (3 - 1) ** 2),  # ‖w‖ = 3 wherever one looks
        (_quadratic, 0.0, 10 * (math.sqrt(3) * 0.4 - 1) ** 2),  # at sr
        (_quadratic, 1.0, 10 * (math.sqrt(3) * 0.8 - 1) ** 2),  # at hr
        (_quadratic, 0.25, 10 * (math.sqrt(3) * 0.5 - 1) ** 2),  # .25 · .8 + .75 · .4
    ],
)
def test_gradient_penalty(judge: nn.Module, mix: float, expected: float) -> None:
    objective = Wasserstein()
    found = objective.penalty(judge, **_images(), step=3, mix=torch.full((2, 1, 1, 1), mix))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_penalties_reach_the_discriminator_alone() -> None:
    """Of ``a/2 ‖w‖² + b (‖w‖ - 1)²`` the gradient is ``a w + 2 b (‖w‖ - 1) w / ‖w‖``."""
    judge = Linear()
    images = {name: image.requires_grad_() for name, image in _images().items()}
    objective = Wasserstein(gradient_penalty=10, r1_gamma=0.5, r1_every=1)
    penalty = objective.penalty(judge, **images, step=0, mix=torch.full((2, 1, 1, 1), 0.5))
    penalty.backward()
    expected = (0.5 + 2 * 10 * (3 - 1) / 3) * judge.weight.detach()
    torch.testing.assert_close(judge.weight.grad, expected)
    assert images["sr"].grad is None
    assert images["hr"].grad is None


@pytest.mark.parametrize("kind", [Vanilla, LeastSquares, Hinge, Wasserstein, RelativisticAverage])
def test_r1_of_every_objective(kind: type[Objective]) -> None:
    settings = {"gradient_penalty": 0.0} if kind is Wasserstein else {}
    objective = kind(r1_gamma=2.0, r1_every=1, **settings)
    mix = torch.zeros(2, 1, 1, 1)
    found = objective.penalty(Linear(), **_images(), step=5, mix=mix)
    assert found.item() == pytest.approx(9.0)
