"""Flows on toys whose answers are known: what a sample costs, and what the mean of many does.

The Gaussian toy's theory, D* = 1/2 being the squared error of E[x | y]:
MSE .5; moved to what images look like, D* + W2² = .5 + (1 - √.5)² = .586; samples of the posterior
2 D* = 1, the mean of N of them D* (1 + 1/N) (Freirich et al. 2021). All but the grey of MSE, which
is tests/test_stripes.py's.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from srtrain.metrics.frequency import hf_ratio
from srtrain.metrics.mean_meter import rtm_sums
from srtrain.networks.flow import Flow, few_steps
from srtrain.rng import noise_field
from tests.test_stripes import batch, stripes
from tests.toys import ROWS, Gaussian, Values, answering, flowing

UNET = {"_target_": "srtrain.networks.flow_unet.FlowUNet"}

PHOTOS = Gaussian(centre=0.5, unit=0.1)  # a mean is clipped to [0, 1]
UNITS = Gaussian()


@cache
@torch.enable_grad()
def answer() -> nn.Module:
    torch.manual_seed(0)
    network = Values(centre=PHOTOS.centre, unit=PHOTOS.unit, answer=True)
    return answering(network, PHOTOS.pairs, steps=400)


@cache
@torch.enable_grad()
def pmrf() -> Flow:
    mean = PHOTOS.network | {"answer": True}
    flow = Flow(
        scale=1, velocity=PHOTOS.network, source="mean", mean=mean, sigma=0.01, trust=("tests",)
    )
    flow.frozen.net.load_state_dict(answer().state_dict())
    torch.manual_seed(1)
    return flowing(flow, PHOTOS.pairs, steps=800)


@cache
@torch.enable_grad()
def posterior() -> Flow:
    torch.manual_seed(2)
    flow = Flow(scale=1, velocity=UNITS.network, source="noise", condition="lr", trust=("tests",))
    return flowing(flow, UNITS.pairs, steps=800)


def exact(seen: Tensor, t: Tensor) -> Tensor:
    """The velocity from N(0, 1) to N(y / 2, 1 / 2): what the posterior's network should learn."""
    x, y = seen.split(3, dim=1)
    (moment,) = t.unique().tolist()
    left = 1 - moment
    pull = (moment / 2 - left) / (moment**2 / 2 + left**2)
    return y / 2 + pull * (x - moment * y / 2)


def look(toy: Gaussian, *, side: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    return toy.pairs(1, side)


@pytest.mark.parametrize(
    ("sampler", "steps", "expected"),
    # The product of 1 + pull / K over all steps, squared, by NumPy in float64.
    [
        ("euler", 1, 0.0),
        ("euler", 5, 0.5817),
        ("euler", 25, 0.8988),
        ("euler", 100, 0.9737),
        ("heun", 1, 0.5),
        ("heun", 5, 1.0024),
        ("heun", 25, 1.0005),
    ],
)
def test_variance_that_the_steps_leave(
    sampler: Literal["euler", "heun"], steps: int, expected: float
) -> None:
    """Few are too few by so much, though every velocity is right."""
    flow = Flow(scale=1, velocity=UNET, source="noise", condition="lr")
    lr = UNITS.pairs(1, 16)[1]
    made = flow.sample(lr, steps=steps, sampler=sampler, velocity=exact) - UNITS.best(lr)
    noise = torch.from_numpy(noise_field(16, 16, seed=0, sample=0))
    share = made.square().mean() / noise.square().mean() / 0.5
    assert share.item() == pytest.approx(expected, abs=1e-4)


def test_laws_where_every_velocity_is_right() -> None:
    """D* (1 + 1/N); and what a sample costs is its distance to the mean."""
    flow = Flow(scale=1, velocity=UNET, source="noise", condition="lr")
    hr, lr = look(UNITS, side=128)
    mean = UNITS.best(lr)
    least = UNITS.distance(mean, hr)
    assert least == pytest.approx(0.5, rel=0.02)
    ways = [
        flow.sample(lr, number=number, steps=8, sampler="heun", velocity=exact)
        for number in range(8)
    ]
    for count in (1, 4, 8):
        found = UNITS.distance(torch.stack(ways[:count]).mean(0), hr)
        assert found == pytest.approx(least * (1 + 1 / count), rel=0.015), count
    paid = UNITS.distance(ways[0], hr) - least
    assert paid == pytest.approx(UNITS.distance(ways[0], mean), rel=0.03)


@pytest.mark.slow
@torch.no_grad()
def test_what_is_learnt_is_the_mean() -> None:
    hr, lr = look(PHOTOS, side=256)
    assert PHOTOS.distance(answer()(lr), hr) == pytest.approx(0.5, rel=0.02)
    assert PHOTOS.distance(answer()(lr), PHOTOS.best(lr)) < 1e-3


@pytest.mark.slow
@torch.no_grad()
def test_the_mean_moved_to_what_images_look_like() -> None:
    hr, lr = look(PHOTOS, side=128)
    mean, moved = answer()(lr), pmrf().sample(lr, steps=25)
    assert 0.57 < PHOTOS.distance(moved, hr) <= 0.606
    assert (moved.std() / PHOTOS.unit).item() == pytest.approx(1, abs=0.03)
    paid = PHOTOS.distance(moved, hr) - PHOTOS.distance(mean, hr)
    assert paid == pytest.approx(PHOTOS.distance(moved, mean), rel=0.1), "not at right angles"


@pytest.mark.slow
@torch.no_grad()
def test_samples_of_the_posterior() -> None:
    """Twice the error, of which the mean of N leaves D* (1 + 1/N): both by theory, not by K."""
    hr, lr = look(UNITS, side=96)
    least = UNITS.distance(UNITS.best(lr), hr)
    assert least == pytest.approx(0.5, rel=0.02)
    assert UNITS.distance(posterior().sample(lr, steps=100), hr) == pytest.approx(1, rel=0.06)
    ways = [posterior().sample(lr, number=k, steps=16, sampler="heun") for k in range(8)]
    made = torch.stack(ways)
    for count in (1, 4, 8):
        law = least * (1 + 1 / count)
        assert UNITS.distance(made[:count].mean(0), hr) == pytest.approx(law, rel=0.03), count
    mean = UNITS.best(lr)
    paid = UNITS.distance(made[0], hr) - least
    assert paid == pytest.approx(UNITS.distance(made[0], mean), rel=0.1), "not at right angles"


@pytest.mark.slow
@pytest.mark.parametrize(("make", "toy"), [(pmrf, PHOTOS), (posterior, UNITS)])
@torch.no_grad()
def test_one_step_falls_back_to_the_mean(make: object, toy: Gaussian) -> None:
    """The mean's error and the mean's variance, 1/2 both; and all samples are one."""
    hr, lr = look(toy, side=96)
    flow = make()  # type: ignore[operator]
    assert "falls back to the mean" in str(few_steps(1))
    one, other = (flow.sample(lr, number=number, steps=1) for number in range(2))
    assert toy.distance(one, hr) == pytest.approx(0.5, abs=0.03)
    assert toy.distance(one, toy.best(lr)) < 0.02
    assert toy.distance(one, other) < 0.04
    assert (one.var() / toy.unit**2).item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.slow
def test_stripes_of_every_phase() -> None:
    """LR is flat grey whatever the phase: MSE paints grey (tests/test_stripes.py), a flow stripes.

    Of full contrast: no energy is missing, where the mean lacks as much as its squared error.
    """
    torch.manual_seed(0)
    source = torch.Generator().manual_seed(0)
    pool, grey = batch(512, source)
    pool, grey = pool[..., :8, :8], grey[:ROWS, :, :2, :2]
    assert grey.amax() - grey.amin() < 1e-6, "LR says something about the phase"
    network = {"channels": 16, "multipliers": [1, 2], "blocks": 1}
    flow = Flow(scale=4, velocity={**UNET, **network}, source="noise", condition="lr", steps=20)

    def pairs(count: int) -> tuple[Tensor, Tensor]:
        return pool[torch.randint(len(pool), (count,), generator=source)], grey

    flowing(flow, pairs, steps=400, rate=1e-2)
    with torch.no_grad():
        made = torch.cat([flow.sample(grey[:1], seed=seed) for seed in range(16)])
    truths = stripes(torch.arange(16) * (torch.pi / 8), side=8)
    assert hf_ratio(made, truths, scale=4).mean() > 0.7
    each, every = made.repeat_interleave(16, 0), truths.repeat(16, 1, 1, 1)
    missing, error = (part.sum() for part in rtm_sums(each, every))
    assert abs(missing / error) < 0.15
    wave = torch.exp(-1j * torch.arange(8) * (torch.pi / 2))
    phases = (made[:, 0].mean(1) * wave).sum(1).angle()
    assert len(set((phases / (torch.pi / 2)).floor().tolist())) >= 2
