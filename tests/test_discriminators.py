"""Discriminators: what a logit sees, what it depends on, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from torch import nn

from srtrain.errors import ConfigError, StorageError
from srtrain.networks.build import build_discriminator, spec_of
from srtrain.networks.discriminators.patchgan import PatchGAN
from srtrain.networks.discriminators.spectral import SpectralConv2d, advance
from srtrain.networks.discriminators.unet import UNet
from srtrain.networks.discriminators.vgg import VGGStyle

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).resolve().parents[1] / "conf" / "discriminator"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "none")
SIZE = 96


def _node(name: str, **changed: object) -> dict[str, Any]:
    node = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    if "input_size" in node:
        node["input_size"] = SIZE
    return node | changed


def _built(name: str, **changed: object) -> nn.Module:
    torch.manual_seed(1)
    return build_discriminator(spec_of(_node(name, **changed), group="discriminator")).net


def _images(count: int = 2, size: int = SIZE) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def _seen(network: nn.Module, *, size: int) -> int:
    """Side of the widest square of pixels at which a logit near the middle has a gradient."""
    network = network.double()
    image = _images(1, size).double().requires_grad_()
    logits = network(image)
    middle = logits.shape[-1] // 2
    widest = 0
    for row in range(middle - 4, middle + 4):
        (gradient,) = torch.autograd.grad(logits[0, 0, row, middle], image, retain_graph=True)
        rows = gradient.abs().sum((0, 1, 3)).nonzero()
        widest = max(widest, int(rows.max() - rows.min()) + 1)
    return widest


@pytest.mark.parametrize(
    ("network", "size", "expected"),
    [  # 9 · 2^n - 2: n + 2 kernels of 4, the first n of them halving; by hand
        (lambda: PatchGAN(n_layers=1, base_channels=4), 64, 16),
        (lambda: PatchGAN(n_layers=2, base_channels=4), 128, 34),
        (lambda: PatchGAN(n_layers=3, base_channels=4), 192, 70),
        (lambda: PatchGAN(n_layers=3, base_channels=4, norm="none"), 192, 70),
        (lambda: UNet(base_channels=4), 128, 64),
    ],
)
def test_receptive_field(network: Callable[[], nn.Module], size: int, expected: int) -> None:
    torch.manual_seed(1)
    built = network()
    assert built.receptive_field == expected
    assert _seen(built, size=size) == expected


def test_vgg_sees_the_whole_crop() -> None:
    torch.manual_seed(1)
    network = VGGStyle(input_size=48, base_channels=4)
    image = _images(1, 48).requires_grad_()
    network(image).sum().backward()
    assert network.receptive_field == 48
    assert bool((image.grad != 0).all())


@pytest.mark.parametrize(
    ("name", "shape", "millions"),
    [  # parameters: pix2pix's 2.77M, Real-ESRGAN's 4.38M, SRGAN's by hand
        ("patchgan", (2, 1, 10, 10), 2.765),
        ("patchgan_fine", (2, 1, 46, 46), 0.035),
        ("patchgan_lite", (2, 1, 22, 22), 0.043),
        ("unet", (2, 1, SIZE, SIZE), 4.377),
        ("unet_lite", (2, 1, SIZE, SIZE), 0.069),
        ("vgg", (2, 1, 1, 1), 23.562),
        ("vgg_lite", (2, 1, 1, 1), 0.369),
    ],
)
def test_every_option(name: str, shape: tuple[int, ...], millions: float) -> None:
    network = _built(name)
    image = _images()
    kept = image.clone()
    logits = network(image)
    assert logits.shape == shape
    assert torch.equal(image, kept)
    logits.square().sum().backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in network.parameters())
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=1e-3)


def test_only_the_small_ones_have_instance_norm() -> None:
    """It takes away each channel's mean: a discriminator under it is dull to colour."""
    norms = {name: _node(name).get("norm", "spectral") for name in NAMES}
    instance = {name for name, norm in norms.items() if norm == "instance"}
    assert instance == {"patchgan_fine", "patchgan_lite", "vgg_lite"}
    assert set(norms.values()) == {"spectral", "instance"}


def test_every_option_is_tested() -> None:
    patchgans = ["patchgan", "patchgan_fine", "patchgan_lite"]
    assert [*patchgans, "unet", "unet_lite", "vgg", "vgg_lite"] == NAMES


@pytest.mark.parametrize("name", ["patchgan_fine", "patchgan_lite", "unet_lite", "vgg_lite"])
def test_a_forward_changes_nothing(name: str) -> None:
    """Looking is free: in training mode too, logits depend on the image alone."""
    network = _built(name).train()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    images = _images(3)
    together = network(images)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("norm", ["spectral", "instance", "batch", "none"])
@pytest.mark.parametrize("name", ["patchgan_lite", "vgg_lite"])
def test_norms(name: str, norm: str) -> None:
    network = _built(name, norm=norm, base_channels=8)
    kinds = {
        "spectral": SpectralConv2d,
        "instance": nn.InstanceNorm2d,
        "batch": nn.BatchNorm2d,
    }
    for known, kind in kinds.items():
        assert any(isinstance(m, kind) for m in network.modules()) == (known == norm)
    logits = network(_images())
    logits.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def _largest(conv: nn.Conv2d) -> float:
    """By a full singular value decomposition."""
    return float(torch.linalg.matrix_norm(conv.weight.detach().flatten(1), ord=2))


def test_spectral_norm_is_one_and_follows() -> None:
    torch.manual_seed(1)
    conv = SpectralConv2d(8, 16, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight.mul_(7).add_(torch.randn_like(conv.weight) * 0.1)
    frozen = conv.u.clone()
    image = torch.randn(1, 8, 6, 6)
    conv(image)
    assert torch.equal(conv.u, frozen)
    for _ in range(200):
        advance(conv)
    plain = nn.functional.conv2d(image, conv.weight / _largest(conv), padding=1)
    torch.testing.assert_close(conv(image), plain, atol=1e-5, rtol=1e-4)


def test_spectral_norm_is_torchs() -> None:
    """Same weight, same u and v: the value and the gradient of torch's own parametrization."""
    torch.manual_seed(1)
    ours = SpectralConv2d(4, 6, 3)
    theirs = nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 6, 3)).eval()
    norm = theirs.parametrizations.weight[0]
    with torch.no_grad():
        theirs.parametrizations.weight.original.copy_(ours.weight)
        theirs.bias.copy_(ours.bias)
        norm._u.copy_(ours.u)
        norm._v.copy_(ours.v)
    image = torch.randn(2, 4, 8, 8)
    for network in (ours, theirs):
        network(image).square().sum().backward()
    torch.testing.assert_close(ours(image), theirs(image))
    torch.testing.assert_close(ours.weight.grad, theirs.parametrizations.weight.original.grad)


def test_resume_is_exact() -> None:
    """The power iteration's vectors are state: a loaded network scores and goes on as the first."""
    first, second = (
        _built("patchgan_lite", base_channels=8, norm="spectral"),
        PatchGAN(n_layers=2, base_channels=8),
    )
    advance(first)
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        assert torch.equal(first(_images()), second(_images()))
        advance(first)
        advance(second)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: PatchGAN(n_layers=0), "n_layers = 0 must be at least 1"),
        (lambda: PatchGAN(norm="layer"), "norm = 'layer' must be one of spectral"),  # type: ignore[arg-type]
        (lambda: VGGStyle(input_size=16), "input_size = 16 must be at least 32"),
        (
            lambda: PatchGAN(base_channels=2)(_images(1, 64)),
            "70 x 70 patches, the image is 64 x 64",
        ),
        (lambda: UNet(base_channels=2)(_images(1, 60)), "60 x 60 must be multiples of 8"),
        (
            lambda: VGGStyle(input_size=48, base_channels=2)(_images(1, 64)),
            "takes 48 x 48 images, got 64 x 64",
        ),
        (lambda: UNet(base_channels=2)(torch.rand(3, 64, 64)), r"must be a float \(B, C, H, W\)"),
    ],
)
def test_refused(build: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build()


@pytest.mark.parametrize(
    ("node", "error", "said"),
    [
        (
            _node("patchgan", n_layer=2),
            ConfigError,
            "discriminator.n_layer · did you mean n_layers",
        ),
        (_node("patchgan", n_layers=0), ConfigError, "n_layers = 0"),
        ({"_target_": "os.path.join"}, StorageError, "--trust os"),
    ],
)
def test_specs_refused(node: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        build_discriminator(spec_of(node, group="discriminator"))
