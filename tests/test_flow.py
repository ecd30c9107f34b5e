"""What a sample of a flow depends on, and what it does not. What it is worth: test_flow_toys.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from srtrain.networks.flow import Flow, few_steps
from srtrain.rng import noise_field
from srtrain.training.examples import Example
from srtrain.training.flow import drawn, unit_noise

EDSR = "srtrain.networks.edsr.EDSRLite"
UNET = {"_target_": "srtrain.networks.flow_unet.FlowUNet"}


def test_few_steps_are_told() -> None:
    assert "falls back to the mean" in str(few_steps(1))
    assert few_steps(5) is not None
    assert few_steps(25) is None
    assert few_steps(5, "heun") is None
    assert few_steps(2, "heun") is not None


def unet(steps: int = 3) -> Flow:
    """A flow that moves something: its last layer is not zero any more."""
    torch.manual_seed(3)
    network = {**UNET, "channels": 8, "multipliers": [1, 2], "blocks": 1}
    flow = Flow(scale=2, velocity=network, source="noise", condition="lr", steps=steps)
    for block in flow.velocity.modules():
        if isinstance(block, nn.Conv2d):
            nn.init.normal_(block.weight, std=0.1)
    return flow.eval()


@torch.no_grad()
def test_the_batch_changes_no_sample() -> None:
    flow, lr = unet(), torch.rand(3, 3, 9, 7)
    together = flow.sample(lr, seed=5, number=2)
    for alone, made in zip(lr.split(1), together.split(1), strict=True):
        torch.testing.assert_close(flow.sample(alone, seed=5, number=2), made, atol=1e-5, rtol=0)
    assert (together - flow.sample(lr, seed=5, number=3)).abs().mean() > 0.1
    assert (together - flow.sample(lr, seed=6, number=2)).abs().mean() > 0.1
    assert together.shape == (3, 3, 18, 14)


@torch.no_grad()
def test_no_seams_where_velocities_are_made_in_tiles() -> None:
    """Four tiles with 32 pixels around them: more than this U-Net sees."""
    flow, lr = unet(), torch.rand(1, 3, 48, 48)
    halo, core = 32, 48

    def tiled(x: Tensor, t: Tensor) -> Tensor:
        whole = torch.empty_like(x[:, :3])
        for top in range(0, x.shape[-2], core):
            for left in range(0, x.shape[-1], core):
                y, z = max(0, top - halo), max(0, left - halo)
                window = x[..., y : top + core + halo, z : left + core + halo]
                part = flow.velocity(window, t)[..., top - y :, left - z :][..., :core, :core]
                whole[..., top : top + core, left : left + core] = part
        return whole

    whole, parts = flow.sample(lr, seed=1), flow.sample(lr, seed=1, velocity=tiled)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)


def test_noise_of_a_window_is_that_of_the_whole() -> None:
    whole = noise_field(150, 131, seed=1, sample=2)
    part = noise_field(40, 30, seed=1, sample=2, place=(50, 60))
    assert np.array_equal(part, whole[:, 50:90, 60:90])
    assert whole.shape == (3, 150, 131)
    assert abs(whole.mean()) < 0.02
    assert whole.std() == pytest.approx(1, abs=0.02)
    blocks = whole[:, :128, :128].reshape(3, 2, 64, 2, 64).transpose(1, 3, 0, 2, 4).reshape(4, -1)
    assert np.abs(np.corrcoef(blocks) - np.eye(4)).max() < 0.05
    assert (
        abs(np.corrcoef(whole.ravel(), noise_field(150, 131, seed=1, sample=3).ravel())[0, 1])
        < 0.02
    )


def test_draws_belong_to_the_place_in_the_global_batch() -> None:
    """Two ranks of two micro-batches draw what one rank draws; each eighth has its moment."""

    def parts(rows: int, count: int) -> list[Example]:
        image = torch.zeros(rows // count, 3, 4, 4)
        return [Example(image, image, image)] * count

    (one,), (numbers,) = drawn(7, 3, parts(8, 1), rank=0, ranks=1)
    for rank in range(2):
        times, samples = drawn(7, 3, parts(4, 2), rank=rank, ranks=2)
        assert torch.equal(torch.cat([*times]), one[rank::2])
        assert torch.equal(torch.cat([*samples]), numbers[rank::2])
    assert (one * 8).floor().tolist() == list(range(8))
    assert numbers.tolist() == list(range(24, 32))
    assert not torch.equal(one, drawn(7, 4, parts(8, 1), rank=0, ranks=1)[0][0])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"source": "mean"}, "it is asked for"),
        (
            {"source": "noise", "mean": {"_target_": "srtrain.networks.edsr.EDSRLite"}},
            "none is asked for",
        ),
        ({"source": "noise", "steps": 0}, "steps = 0"),
        ({"source": "noise", "sigma": -1.0}, "sigma = -1.0"),
        ({"source": "nosie"}, "source = nosie"),
    ],
)
def test_refusals(words: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Flow(scale=2, velocity=UNET, trust=("tests",), **words)
    with pytest.raises(ValueError, match="steps = 0"):
        unet().sample(torch.rand(1, 3, 4, 4), steps=0)


def test_noise_of_a_row_is_its_own() -> None:
    """Whatever else is in the batch; as rows of channels last, and standard normal."""
    hr = torch.empty(6, 3, 40, 30)
    field = unit_noise(hr, seed=1, samples=torch.arange(6))
    assert field.shape == hr.shape
    assert field.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(unit_noise(hr[:2], seed=1, samples=torch.tensor([5, 0])), field[[5, 0]])
    assert not torch.equal(unit_noise(hr[:1], seed=2, samples=torch.tensor([0])), field[:1])
    assert field.mean().abs() < 4 * field.numel() ** -0.5
    assert field.std() == pytest.approx(1, abs=0.03)
    rows = field.flatten(1)
    assert (torch.corrcoef(rows) - torch.eye(6)).abs().max() < 5 * rows.shape[1] ** -0.5
