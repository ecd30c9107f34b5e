"""The closed form in FlowBands: what an untrained one knows is exact for Gaussian errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from srtrain.metrics.image_metrics import ImageMetrics
from srtrain.networks.flow import Flow
from srtrain.networks.flow_bands import FlowBands
from srtrain.training.alarms import BLURRED, fallen_back

SPREAD = 0.06
GRAY = 0.4  # 102 of 255: no rounding
BANDS = {"_target_": "srtrain.networks.flow_bands.FlowBands", "channels": 4, "blocks": 1}


class Gray(nn.Module):
    """The mean of noise around gray."""

    def forward(self, lr: Tensor) -> Tensor:
        return torch.full_like(lr, GRAY)


def flow(**words: object) -> Flow:
    """Told that the mean is gray; untrained."""
    return Flow(
        scale=1,
        velocity={**BANDS, "sigma": 0.03, "spread": SPREAD},
        source="condition",
        condition="mean",
        sigma=0.03,
        mean={"_target_": "tests.test_flow_bands.Gray"},
        trust=("tests",),
        **words,  # type: ignore[arg-type]
    ).eval()


def test_bands_are_orthonormal_and_begin_with_the_mean_of_luma() -> None:
    rows = FlowBands().bands.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(48), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows[0], torch.full((48,), 1 / 48**0.5))


@torch.no_grad()
@pytest.mark.parametrize(
    ("steps", "sampler", "share"),
    [(1, "euler", 0.0), (100, "euler", 1.0), (20, "heun", 1.0)],
)
def test_noise_of_the_given_spread_is_drawn_exactly(steps: int, sampler: str, share: float) -> None:
    """E[r | start] = 0 is all that one step can know; many draw r itself, N(0, spread²)."""
    made = flow(steps=steps, sampler=sampler).sample(torch.zeros(1, 3, 64, 64)) - GRAY
    assert made.std().item() == pytest.approx(share * SPREAD, rel=0.02, abs=1e-6)


@torch.no_grad()
def test_the_alarm_goes_by_what_was_measured() -> None:
    """One step fires it, 25 do not: gray, though photos are gray with noise."""
    torch.manual_seed(0)
    noise = torch.randn(1, 3, 192, 192)
    hr, metrics = GRAY + SPREAD * (noise - noise.mean()), ImageMetrics(scale=2)

    def rtm(steps: int) -> float:
        return metrics.reduce([metrics(flow().sample(hr, steps=steps).clamp(0, 1), hr)])["rtm"]

    assert rtm(1) == pytest.approx(1, abs=0.1)
    assert rtm(25) == pytest.approx(0, abs=0.1)
    alarm = fallen_back(rtm(1), steps=1)
    assert alarm is not None
    assert "raise generator.steps (1)" in alarm.says
    assert fallen_back(rtm(25), steps=25) is None
    assert fallen_back(BLURRED, steps=25) is None


def test_what_is_not_told_is_told_from_the_image() -> None:
    """Unconditioned, flat areas stay as they are and all gradients flow from the start."""
    network = FlowBands(channels=4, blocks=1)
    velocity = network(torch.full((2, 3, 10, 7), 0.25), torch.tensor([0.0, 0.9]))
    assert velocity.shape == (2, 3, 10, 7)
    assert velocity.abs().max() < 0.02
    (velocity - torch.randn_like(velocity)).square().mean().backward()
    assert network.last.weight.grad is not None
    assert all(part.abs().sum() > 0 for part in network.last.weight.grad.chunk(3))


@pytest.mark.parametrize(
    "words", [{"in_channels": 9}, {"blocks": 0}, {"sigma": 0.0}, {"spread": -1.0}]
)
def test_refusals(words: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(words))):
        FlowBands(**words)  # type: ignore[arg-type]
