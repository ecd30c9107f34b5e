"""The weighted sum: its arithmetic, what it reports, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from srtrain.losses.pixel import Charbonnier, SmoothL1
from srtrain.losses.weighted_sum import WeightedSum, gradient_ratios


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """An SR batch that is 0.2 too bright and requires a gradient, and its HR."""
    hr = torch.full((2, 3, 4, 4), 0.5)
    return (hr + 0.2).requires_grad_(), hr


def two_terms() -> WeightedSum:
    """MSE and L1, weighted 1 and 0.5."""
    return WeightedSum(
        {"pixel": nn.MSELoss(), "pixel_l1": nn.L1Loss()}, {"pixel": 1, "pixel_l1": 0.5}
    )


def test_total_is_the_weighted_sum_of_raw_parts(pair: tuple[Tensor, Tensor]) -> None:
    total, parts = two_terms()(*pair)
    # By hand: 0.2² = 0.04 and 0.2; 1 * 0.04 + 0.5 * 0.2 = 0.14.
    assert {name: pytest.approx(part.item()) for name, part in parts.items()} == {
        "pixel": 0.04,
        "pixel_l1": 0.2,
    }
    assert total.item() == pytest.approx(0.14)
    assert not any(part.requires_grad for part in parts.values())
    total.backward()
    # d/dsr: 2 * 0.2 / 96 + 0.5 / 96.
    torch.testing.assert_close(pair[0].grad, torch.full((2, 3, 4, 4), 0.9 / 96))


def test_shares_of_the_total(pair: tuple[Tensor, Tensor]) -> None:
    loss = two_terms()
    shares = loss.shares(loss(*pair)[1])
    assert shares["pixel"] == pytest.approx(0.04 / 0.14)
    assert sum(shares.values()) == pytest.approx(1)
    nothing = loss.shares(loss(pair[1], pair[1])[1])
    assert list(nothing.values()) == [0, 0]


def test_gradient_shares_are_norms_at_the_output(pair: tuple[Tensor, Tensor]) -> None:
    sr, hr = pair
    weight = torch.tensor(1.0, requires_grad=True)
    loss = two_terms()
    with torch.no_grad():  # as in a validation step
        norms = loss.gradient_shares(sr * weight, hr)
    # By hand over 96 values: ‖2 * 0.2 / 96‖ = 0.4 / √96; ‖0.5 / 96‖ = 0.5 / √96.
    assert norms["pixel"].item() == pytest.approx(0.4 / 96**0.5, rel=1e-5)
    assert norms["pixel_l1"].item() == pytest.approx(0.5 / 96**0.5, rel=1e-5)
    assert sr.grad is None
    assert weight.grad is None


def test_gradient_shares_touch_no_parameter(pair: tuple[Tensor, Tensor]) -> None:
    net = nn.Conv2d(3, 3, 1)
    sr = net(pair[1])
    two_terms().gradient_shares(sr, pair[1])
    assert all(parameter.grad is None for parameter in net.parameters())
    two_terms()(sr, pair[1])[0].backward()  # the graph of sr is still whole
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_gradient_ratios_are_relative_to_the_pixel_terms() -> None:
    norms = {"pixel": torch.tensor(2.0), "pixel_l1": torch.tensor(2.0), "fft": torch.tensor(1.0)}
    assert gradient_ratios(norms) == {"fft": 0.25}
    assert gradient_ratios({"fft": norms["fft"]}) == {}


def test_weight_zero_drops_a_term_and_needs_none() -> None:
    loss = WeightedSum(
        {"pixel": nn.MSELoss(), "fft": nn.L1Loss()}, {"pixel": 1.0, "fft": 0.0, "ssim": 0.0}
    )
    assert list(loss.terms) == ["pixel"]


def test_linear_shares_come_from_the_terms_that_have_them(pair: tuple[Tensor, Tensor]) -> None:
    terms = {"pixel": nn.MSELoss(), "pixel_smooth": SmoothL1(beta=0.3), "pixel_c": Charbonnier()}
    shares = WeightedSum(terms, dict.fromkeys(terms, 1.0)).linear_shares(*pair)
    assert shares == {"pixel_smooth": 0.0, "pixel_c": 1.0}


def test_bfloat16_images_are_measured_in_float32(pair: tuple[Tensor, Tensor]) -> None:
    total, _ = two_terms()(pair[0].bfloat16(), pair[1])
    assert total.dtype == torch.float32
    assert two_terms()(pair[0].double(), pair[1].double())[0].dtype == torch.float64


@pytest.mark.parametrize(
    ("terms", "weights", "message"),
    [
        (["pixel"], {"pixel": -1.0}, "'pixel' = -1.0 must be finite and >= 0"),
        (["pixel"], {"pixel": float("nan")}, "'pixel' = nan must be finite"),
        (["pixel"], {"pixel": float("inf")}, "'pixel' = inf must be finite"),
        (["pixel"], {"pixel": 1.0, "pixle": 1.0}, "'pixle' has no term; did you mean 'pixel'?"),
        (["pixel"], {"pixel": 1.0, "zzz": 1.0}, "'zzz' has no term; there are pixel"),
        (["pixel", "fft"], {"pixel": 1.0, "ftt": 0.0}, "'fft' has no weight; did you mean 'ftt'?"),
        (["pixel"], {"pixel": 0.0}, "at least one term"),
        ([], {}, "at least one term"),
    ],
)
def test_what_is_refused(terms: list[str], weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        WeightedSum({name: nn.MSELoss() for name in terms}, weights)


def test_shapes_must_agree_and_terms_reduce(pair: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="must have one shape"):
        two_terms()(pair[0], pair[1][:1])
    with pytest.raises(ValueError, match="must have one shape"):
        two_terms().gradient_shares(pair[0], pair[1][:1])
    elementwise = WeightedSum({"pixel": nn.MSELoss(reduction="none")}, {"pixel": 1.0})
    with pytest.raises(ValueError, match=r"'pixel' gave .* must reduce to a scalar"):
        elementwise(*pair)
