"""LPIPS and DISTS as losses: torchmetrics' numbers, a gradient to SR, nothing to save.

VGG16 and AlexNet have random weights here, which every file name says; SqueezeNet's are real.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity
from torchmetrics.functional.image.dists import DISTSNetwork

from srtrain.errors import StorageError
from srtrain.files import sha256_of
from srtrain.losses.perceptual_distances import DISTSLoss, LPIPSLoss
from tests.test_lpips import random_backbone, random_pair


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("backbones")
    made = {"squeeze": shared / "weights" / "squeezenet1_1_features.safetensors"}
    for net in ("alex", "vgg"):
        made[net] = folder / f"random_{net}.safetensors"
        safetensors.torch.save_file(random_backbone(net).state_dict(), made[net])
    return made


def make(name: str, files: dict[str, Path]) -> nn.Module:
    if name == "dists":
        return DISTSLoss(features=files["vgg"])
    return LPIPSLoss(net=name, features=files[name])


LOSSES = ["squeeze", "alex", "vgg", "dists"]


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_reaches_sr_alone(name: str, files: dict[str, Path]) -> None:
    loss = make(name, files)
    assert not list(loss.parameters())
    assert not loss.state_dict()
    sr, hr = (image.requires_grad_() for image in random_pair(2, 3, 48, 40))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(sr, hr)
    assert value.shape == ()
    assert value.dtype == torch.float32
    value.backward()
    assert hr.grad is None
    assert sr.grad is not None
    assert sr.grad.isfinite().all()
    assert (sr.grad.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_identity_is_exactly_0_and_so_is_its_gradient(name: str, files: dict[str, Path]) -> None:
    _, hr = random_pair(2, 3, 48, 40)
    hr[0] = 0.25  # a constant image: no variance to divide by
    sr = hr.clone().requires_grad_()
    value = make(name, files)(sr, hr)
    value.backward()
    assert value.item() == 0
    assert sr.grad is not None
    assert sr.grad.isfinite().all()
    assert sr.grad.abs().max() == 0


def test_descent_along_the_gradient_lowers_it(files: dict[str, Path]) -> None:
    loss = make("squeeze", files)
    sr, hr = random_pair(1, 3, 48, 48)
    first = loss(sr, hr).item()
    for _ in range(5):
        sr = sr.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(sr, hr), sr)
        sr = sr - 0.5 * gradient / gradient.norm()
    assert loss(sr, hr).item() < 0.9 * first


def test_lpips_is_torchmetrics_mean(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = random_backbone("squeeze")
    weights = safetensors.torch.load_file(files["squeeze"])
    backbone.load_state_dict({key.removeprefix("features."): w for key, w in weights.items()})
    monkeypatch.setattr(
        "torchmetrics.functional.image.lpips._get_tv_model_features", lambda *_: backbone
    )
    sr, hr = random_pair(2, 3, 64, 48)
    theirs = learned_perceptual_image_patch_similarity(sr, hr, "squeeze", normalize=True)
    torch.testing.assert_close(make("squeeze", files)(sr, hr), theirs, rtol=1e-5, atol=0)


class _VGG16(nn.Module):
    """What torchmetrics takes of torchvision's vgg16."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features


def _torchmetrics_dists(features: nn.Module, monkeypatch: pytest.MonkeyPatch) -> DISTSNetwork:
    monkeypatch.setattr("torchmetrics.functional.image.dists.vgg16", lambda **_: _VGG16(features))
    return DISTSNetwork()


@pytest.mark.parametrize("noise", [1.0, 0.01])
def test_dists_is_torchmetrics_mean(
    noise: float, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = random_backbone("vgg")
    theirs = _torchmetrics_dists(backbone, monkeypatch)
    assert 0.99 < (theirs.alpha.sum() + theirs.beta.sum()).item() < 1.01  # the published ones
    sr, hr = random_pair(2, 3, 64, 48)
    sr = hr + noise * (sr - hr)
    with torch.no_grad():
        expected = theirs(sr.clone(), hr.clone(), require_grad=True).mean()
    assert expected > 1e-5
    # Theirs is 1 minus almost 1: seven digits of 1.
    torch.testing.assert_close(make("dists", files)(sr, hr), expected, rtol=1e-4, atol=1e-6)


def test_dists_forgives_a_resampled_texture(files: dict[str, Path]) -> None:
    """Another draw of the same noise is closer than the flat mean, and MSE says the opposite."""
    hr = random_pair(1, 3, 64, 64)[0]
    again, flat = random_pair(1, 3, 64, 64)[1], torch.full_like(hr, 0.5)
    dists = make("dists", files)
    assert dists(again, hr) < 0.5 * dists(flat, hr)
    assert (again - hr).square().mean() > 1.5 * (flat - hr).square().mean()


@pytest.mark.parametrize(
    ("make_loss", "command"),
    [
        (
            lambda: LPIPSLoss(),
            "srtrain fetch-weights lpips-vgg, or set loss.terms.perceptual_l",
        ),
        (lambda: LPIPSLoss(net="alex"), "srtrain fetch-weights lpips-alex"),
        (lambda: DISTSLoss(), "srtrain fetch-weights dists, or set loss.terms.perceptual_dists"),
    ],
)
def test_missing_weights_name_the_one_command(
    make_loss: object, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(StorageError, match=command) as caught:
        make_loss()  # type: ignore[operator]
    assert caught.value.exit_code == 4


def test_files_are_named_honestly(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dists = DISTSLoss(features=files["vgg"])
    assert dists.features_name == "vgg/random_vgg"
    assert dists.features_sha256 == sha256_of(files["vgg"])
    with pytest.raises(StorageError, match="not the features of DISTS net 'vgg'"):
        DISTSLoss(features=files["squeeze"])
    cached = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    cached.parent.mkdir(parents=True)
    torch.save(safetensors.torch.load_file(files["squeeze"]), cached)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert LPIPSLoss(net="squeeze").features_name == "squeeze/imagenet"


@pytest.mark.parametrize("name", ["vgg", "dists"])
def test_images_that_will_not_do(name: str, files: dict[str, Path]) -> None:
    loss = make(name, files)
    small: Tensor = torch.rand(1, 3, 15, 32)
    with pytest.raises(ValueError, match="at least 16 pixels"):
        loss(small, small)
    with pytest.raises(ValueError, match="one shape"):
        loss(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 16, 16))
