"""The networks of our own, the wrapper that pads, and what may be built from a spec."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from srtrain.errors import ConfigError, StorageError
from srtrain.networks.build import build_generator, spec_of
from srtrain.networks.edsr import EDSR, EDSRLite, SRResNet
from srtrain.networks.generator import Generator
from srtrain.networks.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LITE = "srtrain.networks.edsr.EDSRLite"


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        # EDSR-PyTorch's own count, frozen mean shifts apart: Lim et al. 2017, table 1 (1.5M, 43M).
        (lambda: EDSR(scale=2), 1_369_859),
        (lambda: EDSR(scale=4), 1_517_571),
        # BasicSR's MSRResNet, 64 x 16.
        (lambda: SRResNet(scale=4), 1_517_571),
        # By hand: 3 -> 32 head, eight 32 -> 32, tail 32 -> 3 scale^2, all 3x3 with bias.
        (lambda: EDSRLite(scale=2), 896 + 8 * 9248 + 3468),
        (lambda: EDSRLite(scale=4), 896 + 8 * 9248 + 13872),
    ],
)
def test_number_of_parameters(net: Callable[[], nn.Module], expected: int) -> None:
    assert parameters(net()) == expected


def test_edsr_full_has_the_published_size() -> None:
    with torch.device("meta"):
        assert (
            parameters(EDSR(scale=4, num_features=256, num_blocks=32, res_scale=0.1)) == 43_089_923
        )


@pytest.mark.parametrize("network", [EDSR, SRResNet, EDSRLite])
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_every_scale_and_every_gradient(network: type[nn.Module], scale: int) -> None:
    net = network(scale=scale, num_features=8, num_blocks=2)
    lr = torch.rand(2, 3, 5, 7)
    before = lr.clone()
    sr = net(lr)
    assert sr.shape == (2, 3, 5 * scale, 7 * scale)
    sr.square().sum().backward()
    assert torch.equal(lr, before)
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("network", [EDSR, SRResNet, EDSRLite])
def test_scales_that_do_not_exist_are_named(network: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match="scale = 5 must be one of"):
        network(scale=5)


def test_edsr_lite_starts_as_pillows_bicubic() -> None:
    lr = torch.rand(1, 3, 9, 6)
    with torch.no_grad():
        sr = EDSRLite(scale=4)(lr)
    for channel in range(3):
        plane = Image.fromarray(lr[0, channel].numpy())
        expected = np.asarray(plane.resize((24, 36), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(sr[0, channel].numpy(), expected, rtol=0, atol=2e-6)


def test_srresnet_starts_near_bilinear() -> None:
    lr = functional.interpolate(torch.rand(1, 3, 4, 4), scale_factor=4.0, mode="bicubic")
    bilinear = functional.interpolate(lr, scale_factor=2.0, mode="bilinear")
    torch.manual_seed(0)
    with torch.no_grad():
        assert (SRResNet(scale=2)(lr) - bilinear).abs().mean() < 0.06


def test_edsr_is_centred_on_div2k() -> None:
    net = EDSR(scale=2, num_features=8, num_blocks=1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        sr = net(torch.rand(1, 3, 4, 4))
    torch.testing.assert_close(
        sr, torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1).expand_as(sr)
    )
    assert "mean" not in net.state_dict()


class Grow(nn.Module):
    """Nearest enlargement that takes sizes of its own only."""

    multiple_of = 8
    min_size = 16

    def __init__(self, *, scale: int, width: int = 3) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.ones(width))
        self.seen: tuple[int, ...] = ()

    def forward(self, lr: Tensor) -> Tensor:
        self.seen = tuple(lr.shape[-2:])
        return functional.interpolate(lr, scale_factor=self.scale, mode="nearest")


SPEC: Spec = {"_target_": "test_networks.Grow", "kwargs": {"scale": 2}}


@pytest.mark.parametrize(
    ("size", "seen"),
    [((16, 24), (16, 24)), ((17, 23), (24, 24)), ((1, 9), (16, 16)), ((5, 40), (16, 40))],
)
def test_generator_pads_to_what_the_network_takes(
    size: tuple[int, int], seen: tuple[int, int]
) -> None:
    net = Grow(scale=2)
    generator = Generator(net, scale=2, spec=SPEC, multiple_of=8, min_size=16)
    lr = torch.rand(2, 3, *size)
    sr = generator(lr)
    assert net.seen == seen
    assert torch.equal(sr, functional.interpolate(lr, scale_factor=2.0, mode="nearest"))


def test_generator_reflects_then_repeats() -> None:
    seen: list[Tensor] = []

    class Watch(Grow):
        def forward(self, lr: Tensor) -> Tensor:
            seen.append(lr)
            return super().forward(lr)

    generator = Generator(Watch(scale=1), scale=1, spec=SPEC, multiple_of=1, min_size=7)
    generator(torch.tensor([[[[1.0, 2.0, 3.0]]]]).expand(1, 1, 7, 3))
    assert seen[0][0, 0, 0].tolist() == [1, 2, 3, 2, 1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_generator_keeps_the_dtype(dtype: torch.dtype) -> None:
    generator = build_generator({"_target_": LITE, "kwargs": {"scale": 2}}, scale=2).to(dtype)
    assert generator(torch.rand(1, 3, 5, 5, dtype=dtype)).dtype == dtype


def test_generator_is_float32_under_autocast() -> None:
    generator = build_generator(
        {"_target_": "srtrain.networks.edsr.EDSR", "kwargs": {"scale": 2, "num_blocks": 1}}, scale=2
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert generator(torch.rand(1, 3, 5, 5)).dtype == torch.float32


def test_generator_tells_a_wrong_scale() -> None:
    generator = build_generator({"_target_": LITE, "kwargs": {"scale": 4}}, scale=2)
    with pytest.raises(ValueError, match=r"EDSRLite turned \(1, 3, 8, 8\).*not scale = 2"):
        generator(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("lr", [torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8)])
def test_generator_takes_float_batches_only(lr: Tensor) -> None:
    generator = build_generator({"_target_": LITE, "kwargs": {"scale": 2}}, scale=2)
    with pytest.raises(ValueError, match="lr must be a float"):
        generator(lr)


def test_compile_keeps_the_keys_and_the_result() -> None:
    generator = build_generator({"_target_": LITE, "kwargs": {"scale": 2}}, scale=2)
    lr = torch.rand(1, 3, 6, 6)
    with torch.no_grad():
        before, keys = generator(lr), list(generator.state_dict())
        generator.compile(backend="eager")
        torch.testing.assert_close(generator(lr), before)
    assert list(generator.state_dict()) == keys


@pytest.mark.parametrize(
    ("target", "kwargs", "told"),
    [
        (
            LITE,
            {"scale": 2, "num_feature": 8},
            "no parameter 'num_feature'.*mean num_features",
        ),
        (LITE, {"num_features": 8}, r"needs the parameter 'scale' · generator\.scale"),
        (LITE, {"scale": 5}, r"EDSRLite refuses its parameters: ValueError: scale = 5"),
        (LITE, {"scale": 2, "num_features": "many"}, "EDSRLite refuses its parameters: TypeError"),
        ("srtrain.networks.edsr.EDSRLight", {}, "there is no srtrain.networks.edsr.EDSRLight"),
        ("srtrain.networks.nowhere.EDSR", {}, "there is no srtrain.networks.nowhere.EDSR"),
        ("srtrain.networks.edsr.shuffles", {"scale": 2}, "shuffles is not a network class"),
        ("srtrain.networks.edsr.Tensor", {}, "Tensor is not a network class"),
        ("spandrel.architectures.SPAN.SPAN", {"num_in_ch": 3}, "needs the parameter 'num_out_ch'"),
        ("spandrel.architectures.SPAN.SPAN", {"upscal": 2}, "did you mean upscale"),
    ],
)
def test_build_names_what_is_wrong(target: str, kwargs: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_generator({"_target_": target, "kwargs": kwargs}, scale=2)


@pytest.mark.parametrize(
    ("target", "package"),
    [
        ("os.system", "os"),
        ("subprocess.Popen", "subprocess"),
        ("srtrain.cli.main.main", "srtrain"),
        ("srtrain.networks_evil.Net", "srtrain"),
        ("spandrel.util.KeyCondition", "spandrel"),
        ("my_package.nets.Net", "my_package"),
        ("Net", "Net"),
    ],
)
def test_build_imports_only_what_is_trusted(target: str, package: str) -> None:
    with pytest.raises(StorageError, match=f"--trust {package}$"):
        build_generator({"_target_": target, "kwargs": {}}, scale=2)
    assert "my_package" not in sys.modules


def test_build_takes_a_trusted_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trusted_nets.py").write_text(
        "from torch import nn\n"
        "class Same(nn.Module):\n"
        "    multiple_of = 4\n"
        "    def __init__(self, *, width): super().__init__()\n"
        "    def forward(self, lr): return lr * 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    spec: Spec = {"_target_": "trusted_nets.Same", "kwargs": {"width": 2}}
    with pytest.raises(StorageError, match="--trust trusted_nets"):
        build_generator(spec, scale=1)
    generator = build_generator(spec, scale=1, trust=("trusted_nets",))
    assert (generator.multiple_of, generator.min_size, generator.spec) == (4, 1, spec)
    assert generator(torch.rand(1, 3, 5, 5)).shape == (1, 3, 5, 5)


def test_spec_of_a_flat_node() -> None:
    assert spec_of({"_target_": LITE, "scale": 2}) == {"_target_": LITE, "kwargs": {"scale": 2}}
    with pytest.raises(ConfigError, match="_target_ is None"):
        spec_of({"scale": 2})
