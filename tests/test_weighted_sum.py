"""The weighted sum: its arithmetic, what it reports, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from srtrain.losses.pixel import Charbonnier, SmoothL1
from srtrain.losses.schedule import Ramp
from srtrain.losses.weighted_sum import WeightedSum, gradient_ratios, gradient_share


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


def test_gradient_share_is_of_all_terms() -> None:
    norms = {"pixel": torch.tensor(3.0), "fft": torch.tensor(1.0)}
    assert gradient_share(norms) == {"pixel": 0.75, "fft": 0.25}
    assert gradient_share({"pixel": torch.tensor(0.0)}) == {"pixel": 0.0}


@pytest.mark.parametrize(
    ("ramp", "factors"),
    [
        (Ramp(), {0: 1, 9: 1}),
        (Ramp(start=3), {0: 0, 2: 0, 3: 1, 9: 1}),
        (Ramp(start=2, ramp=4), {1: 0, 2: 0, 3: 0.25, 5: 0.75, 6: 1, 9: 1}),
        (Ramp(start=2, ramp=4).not_before(4), {4: 0, 5: 0.25}),
        (Ramp(start=5).not_before(4), {4: 0, 5: 1}),
    ],
)
def test_ramp(ramp: Ramp, factors: dict[int, float]) -> None:
    assert {step: ramp.factor(step) for step in factors} == factors


@pytest.mark.parametrize("steps", [{"start": -1}, {"ramp": -1}])
def test_a_ramp_counts_from_zero(steps: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="= -1 must be a number of generator steps"):
        Ramp(**steps)


class Forbidden(nn.Module):
    """A term that must not be computed."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        raise AssertionError("computed although its weight is 0")


def test_a_scheduled_term_begins_at_its_step(pair: tuple[Tensor, Tensor]) -> None:
    loss = two_terms()
    loss.schedules["pixel_l1"] = Ramp(start=10, ramp=4)
    for step, weight in {10: 0.0, 11: 0.125, 14: 0.5, None: 0.5}.items():
        total, parts = loss(*pair, step=step)
        assert list(parts) == ["pixel", "pixel_l1"][: 1 + bool(weight)]
        assert total.item() == pytest.approx(0.04 + weight * 0.2)  # 0.2² and 0.2, as above
        norms = loss.gradient_shares(*pair, step=step)
        assert norms.get("pixel_l1", 0) == pytest.approx(weight / 96**0.5, rel=1e-5)
        shares = loss.shares(parts, step=step)
        assert shares["pixel"] == pytest.approx(0.04 / (0.04 + weight * 0.2))


def test_what_does_not_count_yet_is_not_computed(pair: tuple[Tensor, Tensor]) -> None:
    terms = {"pixel": nn.MSELoss(), "fft": Forbidden()}
    loss = WeightedSum(terms, {"pixel": 1, "fft": 1}, schedules={"fft": Ramp(start=2)})
    loss(*pair, step=1)
    loss.gradient_shares(*pair, step=1)
    with pytest.raises(AssertionError, match="computed"):
        loss(*pair, step=2)


def test_pixels_first() -> None:
    terms = {name: nn.L1Loss() for name in ("pixel", "pixel_l1", "fft", "ssim")}
    weights, schedules = dict.fromkeys(terms, 1.0), {"ssim": Ramp(start=9, ramp=2)}
    loss = WeightedSum(terms, weights, schedules=schedules)
    loss.pixels_first(0)
    assert list(loss.weights_at(0)) == ["pixel", "pixel_l1", "fft"]
    for _ in range(2):
        loss.pixels_first(5)
        assert list(loss.weights_at(4)) == ["pixel", "pixel_l1"]
        assert list(loss.weights_at(5)) == ["pixel", "pixel_l1", "fft"]
        assert loss.weights_at(10)["ssim"] == 0.5
    with pytest.raises(ValueError, match=r"needs a pixel\* term"):
        WeightedSum({"fft": nn.L1Loss()}, {"fft": 1}).pixels_first(5)


class Sharpness(nn.Module):
    """``mean(output²)``: a term that sees all maps."""

    takes_output = True

    def forward(self, output: Tensor, hr: Tensor) -> Tensor:
        return output.square().mean()


class Towards(nn.Module):
    """``mean |sr - average|``: a term that sees the averaged weights' image."""

    takes_average = True

    def forward(self, sr: Tensor, hr: Tensor, average: Tensor) -> Tensor:
        return (sr - average).abs().mean()


class Middle(nn.Module):
    """The second of three maps, with a buffer that is not the loss's to save."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(1))

    def point(self, output: Tensor) -> Tensor:
        return output.chunk(3, dim=1)[1]


def test_a_head_reads_the_image_for_ordinary_terms() -> None:
    hr = torch.full((2, 3, 4, 4), 0.5)
    output = torch.cat([hr * 0, hr + 0.25, hr * 2], dim=1).requires_grad_()
    terms = {"pixel": nn.MSELoss(), "pixel_nll": Sharpness()}
    loss = WeightedSum(terms, {"pixel": 1, "pixel_nll": 1}, head=Middle())
    _, parts = loss(output, hr)
    assert parts["pixel"].item() == pytest.approx(0.25**2)
    assert parts["pixel_nll"].item() == pytest.approx((0 + 0.75**2 + 1) / 3)
    norms = loss.gradient_shares(output, hr)
    assert norms["pixel"].item() == pytest.approx(2 * 0.25 / 96**0.5, rel=1e-5)
    assert loss.state_dict() == {}
    with pytest.raises(ValueError, match="must have one shape"):
        WeightedSum(terms, {"pixel": 1, "pixel_nll": 1})(output, hr)


def test_the_average_reaches_the_terms_that_ask_for_it(pair: tuple[Tensor, Tensor]) -> None:
    loss = WeightedSum({"pixel": nn.MSELoss(), "ldl": Towards()}, {"pixel": 1, "ldl": 1})
    assert loss.needs_average
    assert not two_terms().needs_average
    average = pair[1] + 0.5
    assert loss(*pair, average=average)[1]["ldl"].item() == pytest.approx(0.3)
    norms = loss.gradient_shares(*pair, average=average)
    assert norms["ldl"].item() == pytest.approx(1 / 96**0.5, rel=1e-5)
    with pytest.raises(ValueError, match="'ldl' needs the image of the averaged weights"):
        loss(*pair)


@pytest.mark.parametrize(
    ("schedules", "message"),
    [
        ({"pixle": Ramp()}, "'pixle' has no weight; did you mean 'pixel'?"),
        ({"pixel": Ramp(start=1)}, "above 0 at step 0"),
        ({"pixel": Ramp(ramp=1)}, "above 0 at step 0"),
    ],
)
def test_schedules_that_are_refused(schedules: dict[str, Ramp], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        WeightedSum({"pixel": nn.MSELoss()}, {"pixel": 1.0}, schedules=schedules)
