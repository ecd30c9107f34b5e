"""Heads: maps that cannot cross, bands, and generators that carry them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from srtrain.errors import ConfigError
from srtrain.networks.build import build_generator
from srtrain.networks.edsr import EDSR, EDSRLite, SRResNet
from srtrain.networks.heads import ROUNDING, GaussianHead, Head, LaplaceHead, Quantiles
from srtrain.networks.loading import load_generator
from srtrain.networks.spec import Spec
from srtrain.networks.storage import write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEADS = [Quantiles(), Quantiles(taus=[0.1, 0.25, 0.5, 0.99]), GaussianHead(), LaplaceHead()]
IDS = ["three", "four", "gaussian", "laplace"]
LITE = Spec(
    _target_="srtrain.networks.edsr.EDSRLite",
    kwargs={"scale": 2, "num_features": 8, "num_blocks": 1},
)


def noise(channels: int, *, size: float = 1.0, seed: int = 0) -> Tensor:
    return size * torch.randn(2, channels, 9, 7, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("taus", [(0.05, 0.5, 0.95), (0.1, 0.25, 0.5, 0.75, 0.8, 0.99)])
@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 100.0])
def test_quantiles_never_cross(taus: tuple[float, ...], size: float) -> None:
    head = Quantiles(taus=taus)
    maps = head.maps(noise(3 * len(taus), size=size)).unflatten(1, (len(taus), 3))
    assert (maps.diff(dim=1) > 0).all()


@pytest.mark.parametrize("head", HEADS, ids=IDS)
def test_the_point_is_a_slice_and_lies_in_the_band(head: Head) -> None:
    channels = noise(3 * head.num_maps)
    maps = head.maps(channels)
    assert torch.equal(head.point(maps), channels[:, :3])
    for offset in (-0.9, 0.0, 0.5):
        head.calibrate(offset=offset, images=1)
        lower, upper = head.interval(maps)
        assert (lower <= head.point(maps)).all()
        assert (upper >= head.point(maps)).all()
    head.calibrate(offset=0.0, images=0)


@pytest.mark.parametrize("head", HEADS, ids=IDS)
@pytest.mark.parametrize("offset", [-0.3, 0.0, 0.3])
def test_the_band_of_an_offset_holds_what_scores_no_more(head: Head, offset: float) -> None:
    maps, hr = head.maps(noise(3 * head.num_maps)), noise(3, seed=1)
    head.calibrate(offset=offset, images=1)
    lower, upper = head.interval(maps)
    score = head.score(maps, hr)
    clear = (score - offset).abs() > 1e-5
    inside = (lower <= hr) & (hr <= upper)
    assert torch.equal(inside[clear], (score <= offset)[clear])
    assert 0.05 < inside.float().mean() < 0.95
    head.calibrate(offset=0.0, images=0)


@pytest.mark.parametrize(
    ("head", "level", "half"),
    [  # normal and Laplace tables
        (GaussianHead(), 0.9, 1.644854),
        (GaussianHead(), 0.5, 0.674490),
        (LaplaceHead(), 0.9, 2.302585),
        (LaplaceHead(level=0.8), 0.5, 0.693147),
    ],
)
def test_bands_of_the_laws(head: Head, level: float, half: float) -> None:
    maps = torch.tensor([0.5, 0.5, 0.5, 0.1, 0.2, 0.3]).view(1, 6, 1, 1)
    lower, upper = head.nominal(maps, level)
    assert upper.flatten().tolist() == pytest.approx([0.5 + half * s for s in (0.1, 0.2, 0.3)])
    assert (upper + lower).flatten().tolist() == pytest.approx([1.0] * 3)


def test_bands_between_other_quantiles() -> None:
    head = Quantiles(taus=[0.05, 0.25, 0.5, 0.75, 0.95])
    maps = head.maps(noise(15))
    assert torch.equal(head.nominal(maps, 0.5).lower, maps[:, 3:6])
    assert torch.equal(head.nominal(maps, 0.9).upper, maps[:, 12:])
    with pytest.raises(ValueError, match=r"band of 0\.8"):
        head.nominal(maps, 0.8)


@pytest.mark.parametrize("taus", [(0.5,), (0.1, 0.9), (0.5, 0.9), (0.9, 0.5, 0.1), (0.0, 0.5, 1.0)])
def test_impossible_taus(taus: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="taus"):
        Quantiles(taus=taus)


@pytest.mark.parametrize("make", [EDSR, SRResNet, EDSRLite])
def test_only_the_image_has_a_skip(make: Callable[..., nn.Module]) -> None:
    """With a last layer of zeros the first three channels are the bare skip, the others 0."""
    torch.manual_seed(1)
    net = make(scale=2, num_features=8, num_blocks=1, out_channels=9)
    last = net.get_submodule("conv_last" if hasattr(net, "conv_last") else "tail")
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    output = net(torch.rand(1, 3, 6, 5))
    assert output.shape == (1, 9, 12, 10)
    assert (output[:, :3].abs() > 1e-6).all()
    assert not output[:, 3:].any()


@pytest.mark.parametrize("make", [EDSR, SRResNet, EDSRLite])
def test_the_last_layer_cut_to_three_channels_is_the_point(make: Callable[..., nn.Module]) -> None:
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"scale": 2, "num_features": 8, "num_blocks": 1}
    net, plain = make(**sizes, out_channels=9), make(**sizes)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    shapes = {name: value.shape for name, value in plain.state_dict().items()}
    plain.load_state_dict({k: v[: shapes[k][0]] for k, v in net.state_dict().items()})
    lr = torch.rand(1, 3, 6, 5)
    torch.testing.assert_close(plain(lr), net(lr)[:, :3])


def test_a_generator_starts_at_its_skip_with_three_gray_levels() -> None:
    generator = build_generator(LITE, scale=2, head=Quantiles().spec)
    plain = build_generator(LITE, scale=2)
    lr = torch.rand(1, 3, 8, 8)
    assert generator.raw(lr).shape == (1, 9, 16, 16)
    assert generator.spec["kwargs"]["out_channels"] == 9
    assert torch.equal(generator(lr), plain(lr))
    assert torch.equal(plain.raw(lr), plain(lr))
    lower, upper = generator.raw(lr)[:, :3], generator.raw(lr)[:, 6:]
    half = ROUNDING + 0.693147 / 64
    torch.testing.assert_close(upper - lower, torch.full_like(lower, 2 * half))


@pytest.mark.parametrize("head", HEADS, ids=IDS)
def test_checkpoints_keep_head_and_calibration(head: Head, tmp_path: Path) -> None:
    torch.manual_seed(2)
    generator = build_generator(LITE, scale=2, head=head.spec)
    nn.init.normal_(generator.net.get_parameter("tail.weight"), std=0.1)
    assert generator.head is not None
    generator.head.calibrate(offset=0.25, images=7)
    content = {
        "generator": dict(generator.spec),
        "head": dict(generator.head.spec),
        "calibration": generator.head.calibration,
        "scale": 2,
        "step": 3,
        "state_dict": generator.net.state_dict(),
    }
    write_checkpoint(tmp_path / "step-000003.ckpt", content)
    loaded = load_generator(tmp_path / "step-000003.ckpt")
    lr = torch.rand(1, 3, 8, 8)
    assert loaded.head is not None
    assert loaded.head.calibration == {"level": head.level, "offset": 0.25, "images": 7}
    assert torch.equal(loaded(lr), generator(lr))
    for ours, theirs in zip(
        loaded.head.interval(loaded.raw(lr)),
        generator.head.interval(generator.raw(lr)),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("target", "kwargs", "head", "said"),
    [
        ("spandrel.architectures.SPAN.SPAN", {}, Quantiles().spec, "predicts one image"),
        (LITE["_target_"], LITE["kwargs"] | {"out_channels": 9}, None, "nothing that reads"),
        (LITE["_target_"], LITE["kwargs"], LITE, "no head"),
        (
            LITE["_target_"],
            LITE["kwargs"],
            Spec(_target_="srtrain.networks.heads.Quantiles", kwargs={"taus": [0.5]}),
            "taus",
        ),
    ],
    ids=["one image", "no reader", "no head", "one quantile"],
)
def test_refused(target: str, kwargs: dict[str, Any], head: Spec | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_generator(Spec(_target_=target, kwargs=kwargs), scale=2, head=head)
