"""The stripe toy of science.md §7: what LR cannot tell, MSE paints grey and the adversary paints.

Stripes of four pixels and random phase. MATLAB's bicubic ×4 has its first zero at their frequency,
so LR is flat grey, whatever the phase: all of them are equally plausible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from srtrain.degradation.resize import Bicubic
from srtrain.losses.adversarial import Adversarial, RelativisticAverage
from srtrain.metrics.frequency import hf_ratio
from srtrain.metrics.mean_meter import rtm_sums
from srtrain.networks.discriminators.patchgan import PatchGAN
from srtrain.networks.discriminators.spectral import advance
from srtrain.networks.edsr import EDSRLite

SCALE = 4
GREY = 128 / 255
AMPLITUDE = 0.4
BORDER = 4  # pixels where the zero padding of the networks shows


def stripes(phase: Tensor, *, side: int) -> Tensor:
    """``GREY + AMPLITUDE · sin(2π x / 4 + φ)`` for each φ, as (B, 3, side, side)."""
    angle = torch.arange(side) * (2 * math.pi / SCALE) + phase.view(-1, 1, 1, 1)
    return (GREY + AMPLITUDE * torch.sin(angle)).expand(-1, 3, side, side)


def batch(count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """HR (count, 3, 32, 32) and LR, of larger images: the mirrored border is cut off."""
    hr = stripes(2 * math.pi * torch.rand(count, generator=source), side=48)
    return hr[..., 8:-8, 8:-8].contiguous(), Bicubic(scale=SCALE)(hr)[..., 2:-2, 2:-2]


class Painter(nn.Module):
    """EDSRLite in shades of grey. Its tail is random: it does not start where MSE ends."""

    def __init__(self) -> None:
        super().__init__()
        self.network = EDSRLite(scale=SCALE, num_features=16, num_blocks=1)
        nn.init.normal_(self.network.tail.weight, std=0.02)

    def forward(self, lr: Tensor) -> Tensor:
        return self.network(lr).mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)


@dataclass(frozen=True)
class Painted:
    """An output, averaged over all phases that the truth may have."""

    sr: Tensor
    hf_ratio: float
    deficit: float

    @property
    def stripe_share(self) -> float:
        """Energy of the stripes' own frequency, as a share of all that is not constant."""
        image = self.sr[0, 0].double()
        angle = torch.arange(image.shape[-1]) * (2 * math.pi / SCALE)
        rows = image.mean(dim=0)
        waves = torch.stack([torch.cos(angle), torch.sin(angle)]).double()
        energy = 2 * (waves @ rows / len(rows)).square().sum()
        return (energy / image.var(correction=0)).item()


@torch.no_grad()
def look(painter: Painter) -> Painted:
    phases = torch.arange(16) * (2 * math.pi / 16)
    hr = stripes(phases, side=32)
    inside = (..., slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    sr = painter(torch.full((1, 3, 8, 8), GREY)).expand_as(hr)[inside]
    hr = hr[inside]
    gap, error = (part.sum() for part in rtm_sums(sr, hr))
    return Painted(sr, hf_ratio(sr, hr, scale=SCALE).mean().item(), (gap / error).item())


def taught(painter: Painter, *, seed: int, steps: int, lr: float, adversary: bool) -> Painted:
    """After ``steps`` of MSE, or of MSE and a relativistic PatchGAN of 16 x 16 patches."""
    source = torch.Generator().manual_seed(seed)
    judge = PatchGAN(n_layers=1, base_channels=16)
    objective = RelativisticAverage()
    game = Adversarial(objective, judge)
    ours = torch.optim.Adam(painter.parameters(), lr, betas=(0.5, 0.9))
    theirs = torch.optim.Adam(judge.parameters(), 3e-3, betas=(0.5, 0.9))
    pool, flat = batch(256, source)
    assert flat.amax() - flat.amin() < 1e-6, "LR says something about the phase"
    for step in range(steps):
        left = 1 - step / steps
        ours.param_groups[0]["lr"], theirs.param_groups[0]["lr"] = lr * left, 3e-3 * left
        hr = pool[torch.randint(len(pool), (8,), generator=source)]
        sr = painter(flat[:8])
        loss = nn.functional.mse_loss(sr, hr)
        ours.zero_grad()
        (loss + game(sr, hr) if adversary else loss).backward()
        ours.step()
        if adversary:
            theirs.zero_grad()
            objective.discriminator(fake=judge(sr.detach()), real=judge(hr)).backward()
            theirs.step()
            advance(judge)
    return look(painter)


SLOW = [pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mse_paints_grey(seed: int) -> None:
    """By hand: the mean over all phases is grey; what energy it lacks is its MSE, A² / 2."""
    torch.manual_seed(seed)
    painter = Painter()
    assert look(painter).hf_ratio > 0.05, "it starts at the answer"
    painted = taught(painter, seed=seed, steps=200, lr=1e-3, adversary=False)
    assert painted.hf_ratio < 0.05
    assert painted.deficit == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(painted.sr, torch.full_like(painted.sr, GREY), atol=0.1, rtol=0)


@pytest.mark.parametrize("seed", [0, *SLOW])
def test_the_adversary_paints_stripes(seed: int) -> None:
    """Of one phase: as much texture as the truth has, and none of it known to be true."""
    torch.manual_seed(seed)
    painted = taught(Painter(), seed=seed, steps=200, lr=1e-4, adversary=True)
    assert 0.7 < painted.hf_ratio < 1.6
    assert painted.stripe_share > 0.7
    assert abs(painted.deficit) < 0.5


def test_stripes_cost_twice_the_error_of_grey() -> None:
    """By hand, averaged over all phases: A² / 2 for grey, A² for any stripes of full contrast."""
    hr = stripes(torch.arange(16) * (2 * math.pi / 16), side=32).double()
    for sr, expected in [(torch.full_like(hr, GREY), 0.08), (hr[3:4].expand_as(hr), 0.16)]:
        assert nn.functional.mse_loss(sr, hr).item() == pytest.approx(expected, abs=1e-6)
