"""LPIPS from torchmetrics' heads and a backbone in a local file; nothing is downloaded."""

from __future__ import annotations

import itertools
import pickle
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from safetensors import SafetensorError
from torch import Tensor, nn

from srtrain.checks import same_shape
from srtrain.errors import ConfigError, StorageError
from srtrain.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable

_ROWS = 128  # rows of a feature map compared at a time: bounds the memory of whole photos


class _Backbone(NamedTuple):
    build: Callable[[], nn.Sequential]
    taps: tuple[int, ...]  # each slice ends before this index of `features`
    min_size: int
    file: str  # torchvision's name for it in torch's cache


def _vgg16_features() -> nn.Sequential:
    features: nn.Sequential = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    return features


# Taps of Zhang et al.'s own code (PerceptualSimilarity/lpips/pretrained_networks.py).
BACKBONES = {
    "squeeze": _Backbone(
        lambda: torchvision.models.squeezenet1_1().features,
        taps=(2, 5, 8, 10, 11, 12, 13),
        min_size=17,
        file="squeezenet1_1-b8a52dc0.pth",
    ),
    "alex": _Backbone(
        lambda: torchvision.models.alexnet().features,
        taps=(2, 5, 8, 10, 12),
        min_size=31,
        file="alexnet-owt-7be5be79.pth",
    ),
    "vgg": _Backbone(
        _vgg16_features, taps=(4, 9, 16, 23, 30), min_size=16, file="vgg16-397923af.pth"
    ),
}


def smallest_image(net: str) -> int:
    """Pixels a side below which ``net`` pools its features away."""
    return _backbone(net).min_size


class LPIPS(nn.Module):
    """``Σ_layers mean_pixels w · (φ̂(sr) - φ̂(hr))²``, φ̂ unit-length features: lower is closer.

    Version 0.1 of the heads, as everywhere. ``features`` is torchvision's backbone of ``net``
    ("squeeze", "alex", "vgg" = VGG16), .safetensors or .pth, keys ``features.N.…`` or ``N.…``.
    None: torch's cache. Frozen; layer by layer and in strips, so whole photos fit.

    Raises: ConfigError for an unknown net; StorageError for a file that is missing, unreadable or
        of another network. Never computed from anything else.
    Source: Zhang et al. 2018, "The unreasonable effectiveness of deep features", eq. 1.
    """

    shift: Tensor
    spread: Tensor

    def __init__(self, net: str, features: str | Path | None = None) -> None:
        super().__init__()
        backbone = _backbone(net)
        path = Path(features).expanduser() if features else _cache() / backbone.file
        self.net = net
        self.name = f"lpips_{net}"
        self.min_size = backbone.min_size
        layers = _fill(backbone.build, _read(path, net), path, net)
        edges = (0, *backbone.taps)
        self.slices = nn.ModuleList(layers[start:end] for start, end in itertools.pairwise(edges))
        heads = resources.files("torchmetrics.functional.image") / "lpips_models" / f"{net}.pth"
        with resources.as_file(heads) as file:
            weights = torch.load(file, map_location="cpu", weights_only=True)
            self.heads_sha256 = sha256_of(file)
        self.features_sha256 = sha256_of(path)
        for index in range(len(self.slices)):
            self.register_buffer(f"head{index}", weights[f"lin{index}.model.1.weight"])
        # ImageNet's mean and deviation, moved to images in [-1, 1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("spread", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> LPIPS:
        """Stays in evaluation mode, whoever holds it."""
        return super().train(False)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Shapes: sr, hr (B, 3, H, W) in [0, 1] -> (B,) float32."""
        same_shape(sr, hr)
        if sr.shape[1] != 3 or min(sr.shape[-2:]) < self.min_size:
            raise ValueError(
                f"{self.name} needs 3 channels and at least {self.min_size} pixels a side, "
                f"got {tuple(sr.shape)}"
            )
        with torch.autocast(sr.device.type, enabled=False):
            sr, hr = ((2 * image.float() - 1 - self.shift) / self.spread for image in (sr, hr))
            distance = sr.new_zeros(sr.shape[0])
            for index, layers in enumerate(self.slices):
                sr, hr = layers(sr), layers(hr)
                distance = distance + _distance(sr, hr, self.get_buffer(f"head{index}"))
        return distance


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _backbone(net: str) -> _Backbone:
    if net not in BACKBONES:
        choices = ", ".join(BACKBONES)
        raise ConfigError(
            f"LPIPS has no net {net!r}", where="metrics.lpips.net", fix=f"one of {choices}"
        )
    return BACKBONES[net]


def _distance(sr: Tensor, hr: Tensor, head: Tensor) -> Tensor:
    strips = zip(torch.split(sr, _ROWS, dim=2), torch.split(hr, _ROWS, dim=2), strict=True)
    sums = [F.conv2d((_unit(s) - _unit(h)).square(), head).sum(dim=(1, 2, 3)) for s, h in strips]
    return torch.stack(sums).sum(dim=0) / (sr.shape[2] * sr.shape[3])


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True) + 1e-8).sqrt()


def _read(path: Path, net: str) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except FileNotFoundError:
        raise StorageError(
            "no LPIPS backbone here",
            where=str(path),
            fix=f"srtrain fetch-weights lpips-{net}, or set metrics.lpips.features",
        ) from None
    except (OSError, RuntimeError, SafetensorError, ValueError, pickle.UnpicklingError) as error:
        raise StorageError(
            f"LPIPS backbone cannot be read: {error}",
            where=str(path),
            fix="give torchvision's .pth or .safetensors",
        ) from error
    return content if isinstance(content, dict) else {}


def _fill(
    build: Callable[[], nn.Sequential], weights: dict[str, Tensor], path: Path, net: str
) -> nn.Sequential:
    # On the meta device nothing is allocated: AlexNet and VGG16 come with huge classifiers.
    with torch.device("meta"):
        features = build()
    found = {
        key.removeprefix("features."): value.float()
        for key, value in weights.items()
        if not key.startswith("classifier.") and isinstance(value, Tensor)
    }
    try:
        features.load_state_dict(found, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise StorageError(
            f"these are not the features of LPIPS net {net!r}: {first}",
            where=str(path),
            fix="metrics.lpips.net and metrics.lpips.features must belong together",
        ) from error
    return features
