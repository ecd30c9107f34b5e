"""LDL on images small enough for pencil and paper."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from srtrain.losses.ldl import LDL, artefacts


def spike(value: float, channels: int = 1) -> Tensor:
    image = torch.zeros(1, channels, 3, 3)
    image[..., 1, 1] = value
    return image


# A spike d in 3 x 3 zeros: R = d once, so var R = d²/9 (unbiased: (d² - d²/9) / 8). A window of 3,
# borders reflected (0 1 2 -> 1 0 1 2 1), holds the spike 4 times at a corner, twice at an edge
# and once in the centre; k times among 9 gives the variance d² (k - k²/9) / 8.
EXPECTED = torch.tensor([[20, 14, 20], [14, 8, 14], [20, 14, 20]]) / 72


def by_hand(d: float) -> Tensor:
    return (d**2 / 9) ** 0.2 * d**2 * EXPECTED


def test_the_map_by_hand() -> None:
    hr = torch.zeros(1, 1, 3, 3)
    weight = artefacts(spike(0.5), hr, spike(0.5), window=3)
    torch.testing.assert_close(weight[0, 0], by_hand(0.5))


def test_the_loss_by_hand() -> None:
    # Only the centre differs: w(centre) = (d²/9)^⅕ · d² · 8/72, times d, over 9 pixels.
    hr = torch.zeros(1, 1, 3, 3)
    expected = (0.25 / 9) ** 0.2 * 0.25 / 9 * 0.5 / 9
    value = LDL(window=3)(spike(-0.5), hr, spike(0.6))
    assert value.item() == 0  # the average errs more there: it is a detail, and the rest is equal
    value = LDL(window=3)(spike(-0.5), hr, spike(0.4))
    torch.testing.assert_close(value, torch.tensor(expected))


def test_residuals_are_summed_over_channels() -> None:
    hr = torch.zeros(1, 3, 3, 3)
    weight = artefacts(spike(0.1, 3), hr, hr, window=3)
    torch.testing.assert_close(weight[0, 0], by_hand(0.3))  # 3 · 0.1, whatever the signs
    mixed = spike(0.1, 3) * torch.tensor([1.0, -1.0, 1.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(artefacts(mixed, hr, hr, window=3), weight)


def test_where_the_average_errs_more_nothing_is_damped() -> None:
    source = torch.Generator().manual_seed(0)
    sr, hr, average = torch.rand(3, 2, 3, 16, 16, generator=source)
    weight = artefacts(sr, hr, average, window=7)
    less = (sr - hr).abs().sum(1, keepdim=True) < (average - hr).abs().sum(1, keepdim=True)
    assert 0.3 < less.float().mean() < 0.7
    assert (weight[less] == 0).all()
    assert (weight[~less] > 0).all()


def test_local_variance_is_that_of_unfolded_windows() -> None:
    source = torch.Generator().manual_seed(1)
    sr, hr = torch.rand(2, 2, 3, 20, 17, generator=source)
    residual = (hr - sr).abs().sum(1)
    windows = torch.nn.functional.pad(residual[:, None], [3] * 4, mode="reflect")
    windows = windows[:, 0].unfold(1, 7, 1).unfold(2, 7, 1)
    overall = residual.flatten(1).var(dim=1) ** 0.2
    expected = overall[:, None, None] * windows.var(dim=(-1, -2))  # torch's own, unbiased
    weight = artefacts(sr, hr, sr, window=7)[:, 0]
    torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-7)


def test_gradient_is_the_weight_at_its_sign() -> None:
    """No gradient flows through the map: with it, this would not hold."""
    source = torch.Generator().manual_seed(2)
    sr, hr, average = torch.rand(3, 2, 3, 12, 12, generator=source)
    sr.requires_grad_()
    average.requires_grad_()
    LDL()(sr, hr, average).backward()
    weight = artefacts(sr.detach(), hr, average.detach(), window=7)
    expected = weight * (sr - hr).sign() / sr.numel()
    torch.testing.assert_close(sr.grad, expected.detach())
    assert average.grad is None


def test_identity_precision_and_refusals() -> None:
    hr = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    sr = hr.clone().requires_grad_()
    value = LDL()(sr, hr, hr)
    value.backward()
    assert value.item() == 0
    assert sr.grad is not None
    assert sr.grad.abs().max() == 0
    assert LDL()(hr.bfloat16(), hr.bfloat16(), hr).dtype == torch.float32
    assert LDL.takes_average
    with pytest.raises(ValueError, match="one shape"):
        LDL()(hr, hr, hr[..., :4])
    for window in (1, 4):
        with pytest.raises(ValueError, match="must be odd"):
            LDL(window=window)
