"""DISTS from torchmetrics' weights and VGG16 in a local file."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srtrain.files import sha256_of
from srtrain.perception.backbone import BACKBONES, Asker, check_pair, load_slices

if TYPE_CHECKING:
    from pathlib import Path

_SMALL = 1e-6  # keeps the quotients finite where a map is constant or empty


class DISTS(nn.Module):
    """``Σ a · (1 - s_mean) + b · (1 - s_structure)`` over all maps of VGG16 and the image itself.

    ``1 - s_mean = (μ - μ')² / (μ² + μ'² + c)`` compares texture, ``1 - s_structure =
    var(x - x') / (var x + var x' + c)`` structure, of whole maps: a resampled texture stays close
    where LPIPS sees errors. torchmetrics subtracts the similarities from 1; so written, the same
    numbers are exactly 0 for equal images and accurate near 0, where a loss ends. VGG16's
    max-pools are replaced by L2 pools (Hanning windows).

    ``features`` is torchvision's VGG16, .safetensors or .pth; None: torch's cache. Frozen, and no
    part of any state_dict.

    Raises: StorageError for a file that is missing, unreadable or of another network.
    Source: Ding et al. 2020, "Image quality assessment: unifying structure and texture
        similarity".
    """

    def __init__(self, features: str | Path | None = None, *, key: str) -> None:
        super().__init__()
        asker = Asker("DISTS", key, "dists")
        self.min_size = BACKBONES["vgg"].min_size
        slices, self.features_name, self.features_sha256 = load_slices("vgg", features, asker)
        # Each later slice begins with the max-pool that `_pool` stands for.
        self.slices = nn.ModuleList(layers[index > 0 :] for index, layers in enumerate(slices))
        file = resources.files("torchmetrics.functional.image") / "dists_models" / "weights.pt"
        with resources.as_file(file) as path:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            self.heads_sha256 = sha256_of(path)
        total = weights["alpha"].sum() + weights["beta"].sum()
        self._constant("alpha", weights["alpha"].flatten() / total)
        self._constant("beta", weights["beta"].flatten() / total)
        row = torch.tensor([0.25, 0.5, 0.25])
        self._constant("window", torch.outer(row, row).view(1, 1, 3, 3))
        self._constant("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self._constant("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Shapes: sr, hr (B, 3, H, W) in [0, 1] -> (B,) float32."""
        check_pair(sr, hr, name="DISTS", min_size=self.min_size)
        with torch.autocast(sr.device.type, enabled=False):
            sr, hr = sr.float(), hr.float()
            compared = [_compare(sr, hr)]
            mean, std = self.get_buffer("mean"), self.get_buffer("std")
            sr, hr = (sr - mean) / std, (hr - mean) / std
            for index, layers in enumerate(self.slices):
                if index:
                    sr, hr = self._pool(sr), self._pool(hr)
                sr, hr = layers(sr), layers(hr)
                compared.append(_compare(sr, hr))
            texture, structure = (torch.cat(maps, dim=1) for maps in zip(*compared, strict=True))
            return texture @ self.get_buffer("alpha") + structure @ self.get_buffer("beta")

    def _pool(self, x: Tensor) -> Tensor:
        """``sqrt(window * x²)`` at half the size: no aliasing, unlike a max-pool."""
        channels = x.shape[1]
        window = self.get_buffer("window").expand(channels, 1, 3, 3)
        power = F.conv2d(x.square(), window, stride=2, padding=1, groups=channels)
        return (power + 1e-12).sqrt()

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)


def _compare(sr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
    """``1 - s_mean`` and ``1 - s_structure`` of every map: (B, C) each."""
    mean_sr, mean_hr = (x.mean(dim=(2, 3), keepdim=True) for x in (sr, hr))
    texture = (mean_sr - mean_hr).square() / (mean_sr.square() + mean_hr.square() + _SMALL)
    sr, hr = sr - mean_sr, hr - mean_hr
    spread = sr.square().mean(dim=(2, 3)) + hr.square().mean(dim=(2, 3))
    return texture.flatten(1), (sr - hr).square().mean(dim=(2, 3)) / (spread + _SMALL)
