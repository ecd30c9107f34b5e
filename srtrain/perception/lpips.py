"""LPIPS from torchmetrics' heads and a backbone in a local file."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srtrain.files import sha256_of
from srtrain.perception.backbone import Asker, backbone, check_pair, load_slices

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ROWS = 128  # rows of a feature map compared at a time: bounds the memory of whole photos
_METRIC = "metrics.lpips"


def smallest_image(net: str) -> int:
    """Pixels a side below which ``net`` pools its features away."""
    return backbone(net, _asker(net, _METRIC)).min_size


class LPIPS(nn.Module):
    """``Σ_layers mean_pixels w · (φ̂(sr) - φ̂(hr))²``, φ̂ unit-length features: lower is closer.

    Version 0.1 of the heads, as everywhere. ``features`` is torchvision's backbone of ``net``
    ("squeeze", "alex", "vgg" = VGG16), .safetensors or .pth, keys ``features.N.…`` or ``N.…``.
    None: torch's cache. Frozen, and no part of any state_dict; layer by layer and in strips, so
    whole photos fit. ``key`` is the place in the configuration that messages name.

    Raises: ConfigError for an unknown net; StorageError for a file that is missing, unreadable or
        of another network. Never computed from anything else.
    Source: Zhang et al. 2018, "The unreasonable effectiveness of deep features", eq. 1.
    """

    shift: Tensor
    spread: Tensor

    def __init__(self, net: str, features: str | Path | None = None, *, key: str = _METRIC) -> None:
        super().__init__()
        asker = _asker(net, key)
        self.net = net
        self.name = f"lpips_{net}"
        self.min_size = backbone(net, asker).min_size
        slices, self.features_name, self.features_sha256 = load_slices(net, features, asker)
        self.slices = nn.ModuleList(slices).to(memory_format=torch.channels_last)  # half the time
        heads = resources.files("torchmetrics.functional.image") / "lpips_models" / f"{net}.pth"
        with resources.as_file(heads) as file:
            weights = torch.load(file, map_location="cpu", weights_only=True)
            self.heads_sha256 = sha256_of(file)
        for index in range(len(self.slices)):
            self._constant(f"head{index}", weights[f"lin{index}.model.1.weight"])
        # ImageNet's mean and deviation, moved to images in [-1, 1].
        self._constant("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self._constant("spread", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.eval()

    def train(self, mode: bool = True) -> LPIPS:
        """Stays in evaluation mode, whoever holds it."""
        return super().train(False)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Shapes: sr, hr (B, 3, H, W) in [0, 1] -> (B,) float32."""
        check_pair(sr, hr, name=self.name, min_size=self.min_size)
        with torch.autocast(sr.device.type, enabled=False):
            sr, hr = self._seen(sr), self._seen(hr)
            distance = sr.new_zeros(sr.shape[0])
            for index, layers in enumerate(self.slices):
                sr, hr = layers(sr), layers(hr)
                distance = distance + _distance(sr, hr, self.get_buffer(f"head{index}"))
        return distance

    def features(self, image: Tensor) -> Iterator[Tensor]:
        """``φ̂`` of each layer. Shapes: (B, 3, H, W) in [0, 1] -> (B, C, h, w)."""
        check_pair(image, image, name=self.name, min_size=self.min_size)
        with torch.autocast(image.device.type, enabled=False):
            seen = self._seen(image)
            for layers in self.slices:
                seen = layers(seen)
                yield _unit(seen)

    def weighed(self, layer: int, squares: Tensor) -> Tensor:
        """``w · squares`` of one layer. Shapes: (B, C, h, w) -> (B, 1, h, w)."""
        return F.conv2d(squares, self.get_buffer(f"head{layer}"))

    def _seen(self, image: Tensor) -> Tensor:
        return (2 * image.float() - 1 - self.shift) / self.spread

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)


def _asker(net: str, key: str) -> Asker:
    return Asker("LPIPS", key, f"lpips-{net}")


def _distance(sr: Tensor, hr: Tensor, head: Tensor) -> Tensor:
    strips = zip(torch.split(sr, _ROWS, dim=2), torch.split(hr, _ROWS, dim=2), strict=True)
    sums = [F.conv2d((_unit(s) - _unit(h)).square(), head).sum(dim=(1, 2, 3)) for s, h in strips]
    return torch.stack(sums).sum(dim=0) / (sr.shape[2] * sr.shape[3])


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True) + 1e-8).sqrt()
