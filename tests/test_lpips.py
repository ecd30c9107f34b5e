"""LPIPS: torchmetrics' numbers without torchmetrics' download."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torchmetrics.functional.image.lpips import _LPIPS

from srtrain.errors import ConfigError, StorageError
from srtrain.files import sha256_of
from srtrain.perception import lpips as module
from srtrain.perception.backbone import BACKBONES
from srtrain.perception.lpips import LPIPS


def random_backbone(net: str) -> nn.Sequential:
    """The features of ``net`` with random weights, its huge classifier never made."""
    with torch.device("meta"):
        features = BACKBONES[net].build()
    torch.manual_seed(0)
    features = features.to_empty(device="cpu")
    for layer in features.modules():
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    return features


def random_pair(*shape: int) -> Tensor:
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def squeeze_file(shared: Path) -> Path:
    return shared / "weights" / "squeezenet1_1_features.safetensors"


def test_reproduces_the_doctest_of_torchmetrics(squeeze_file: Path) -> None:
    source = torch.Generator().manual_seed(42)
    sr, hr = (torch.rand(2, 3, 100, 100, generator=source) for _ in range(2))
    distance = LPIPS(net="squeeze", features=squeeze_file)(sr, hr)
    # Printed in torchmetrics 1.9.0, functional/image/lpips.py.
    torch.testing.assert_close(distance, torch.tensor([0.1024, 0.0938]), atol=5e-5, rtol=0)


@pytest.mark.parametrize("net", sorted(BACKBONES))
def test_equals_torchmetrics_on_any_backbone(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = random_backbone(net)
    file = tmp_path / "backbone.safetensors"
    safetensors.torch.save_file(backbone.state_dict(), file)  # keys without "features."
    monkeypatch.setattr(module, "_ROWS", 7)  # strips that do not divide the maps
    ours = LPIPS(net=net, features=file)
    monkeypatch.setattr(
        "torchmetrics.functional.image.lpips._get_tv_model_features", lambda *_: backbone
    )
    theirs = _LPIPS(net=net, pnet_rand=True)
    sr, hr = random_pair(2, 3, 64, 80)
    expected = theirs(sr, hr, normalize=True).flatten()
    assert expected.min() > 0.01
    torch.testing.assert_close(ours(sr, hr), expected, rtol=1e-5, atol=0)


def test_identity_size_and_mode(squeeze_file: Path) -> None:
    lpips = LPIPS(net="squeeze", features=squeeze_file).train()
    sr, hr = random_pair(1, 3, 17, 17)
    assert lpips(hr, hr).item() == 0
    assert lpips(sr, hr).item() == pytest.approx(lpips(hr, sr).item(), rel=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert lpips(sr, hr).dtype == torch.float32
    assert not lpips.training
    assert not list(lpips.parameters())
    assert not lpips.state_dict()
    with pytest.raises(ValueError, match="at least 17 pixels"):
        lpips(sr[..., :16], hr[..., :16])
    with pytest.raises(ValueError, match="needs 3 channels"):
        lpips(sr[:, :1], hr[:, :1])


def test_reads_a_whole_torchvision_file(squeeze_file: Path, tmp_path: Path) -> None:
    weights = safetensors.torch.load_file(squeeze_file)
    file = tmp_path / "squeezenet1_1.pth"
    torch.save({**weights, "classifier.1.weight": torch.zeros(3)}, file)
    sr, hr = random_pair(1, 3, 32, 32)
    first, second = (LPIPS(net="squeeze", features=path) for path in (file, squeeze_file))
    assert torch.equal(first(sr, hr), second(sr, hr))
    assert first.features_sha256 != second.features_sha256
    assert first.heads_sha256 == second.heads_sha256


def test_files_that_will_not_do(tmp_path: Path, squeeze_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"no net 'vgg19' · .* · one of squeeze, alex, vgg"):
        LPIPS(net="vgg19", features=squeeze_file)
    with pytest.raises(StorageError, match="no LPIPS backbone here"):
        LPIPS(net="squeeze", features=tmp_path / "absent.pth")
    with pytest.raises(StorageError, match="not the features of LPIPS net 'vgg'"):
        LPIPS(net="vgg", features=squeeze_file)
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("no weights at all")
        with pytest.raises(StorageError, match="cannot be read"):
            LPIPS(net="squeeze", features=tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(StorageError, match="not the features"):
        LPIPS(net="squeeze", features=tmp_path / "list.pth")


def test_backbone_in_torchs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squeeze_file: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(StorageError, match="srtrain fetch-weights lpips-squeeze"):
        LPIPS("squeeze")
    file = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    file.parent.mkdir(parents=True)
    torch.save(safetensors.torch.load_file(squeeze_file), file)
    assert LPIPS("squeeze").features_sha256 == sha256_of(file)
