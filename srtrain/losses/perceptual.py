"""Perceptual losses on VGG-19 features, under the names by which the literature knows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srtrain.checks import same_shape
from srtrain.errors import ConfigError
from srtrain.losses.features import (
    EMBEDDED_CONVS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    VGG19,
    VGG19Features,
    calibration_batch,
    layers_up_to,
)
from srtrain.losses.precision import Precision, narrowed

if TYPE_CHECKING:
    from pathlib import Path

Criterion = Literal["mse", "l1"]


@dataclass(frozen=True)
class TapSet:
    """Which activations are compared, and how, by one line of the literature."""

    weights: Mapping[str, float]
    criterion: Criterion = "mse"
    before_relu: bool = False
    calibrated: bool = False
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


TAP_SETS: Mapping[str, TapSet] = {
    # The first five weight layers: the literal reading, VGG-19's name counts weight layers.
    # Their mean, so that more taps do not make a larger loss.
    "first5": TapSet(dict.fromkeys(EMBEDDED_CONVS, 1 / 5), calibrated=True),
    # EDSR's code (src/loss/vgg.py): features[:8] and features[:35].
    "vgg22": TapSet({"conv2_2": 1.0}, before_relu=True),
    "vgg54": TapSet({"conv5_4": 1.0}, before_relu=True),
    # Wang et al. 2018, in BasicSR's train_ESRGAN_x4.yml.
    "esrgan": TapSet({"conv5_4": 1.0}, "l1", before_relu=True),
    # Liang et al. 2022; the same five taps as Real-ESRGAN.
    "ldl": TapSet(
        {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0},
        "l1",
        before_relu=True,
    ),
    # Wang et al. 2018b, models/networks.py: no ImageNet statistics, its images are in [-1, 1].
    "pix2pixhd": TapSet(
        {"conv1_1": 1 / 32, "conv2_1": 1 / 16, "conv3_1": 1 / 8, "conv4_1": 1 / 4, "conv5_1": 1.0},
        "l1",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
    # features[:5]: two convolutions and the pool.
    "features5": TapSet({"pool1": 1.0}),
}


class Perceptual(nn.Module):
    """``Σ weight · mean |φ(sr) - φ(hr)|^p / mean |φ(calibration)|^p`` over the taps φ.

    p is 2 (``mse``) or 1 (``l1``). The division makes a coefficient mean the same for any weights:
    without it the taps of one VGG-19 differ by 10⁴ in size, and those of two by as much. ``first5``
    divides; the published sets do not, because their published coefficients count on raw sizes.

    The embedded features end at conv3_1: with them a named set of deeper taps becomes ``first5``
    with all its conventions, and ``features_name`` says so. A file that lacks layers is an error.

    Args:
        features: ``embedded`` (first5/procedural, in the package: the first five convolutions
            only), ``imagenet`` (torchvision's VGG-19), or the path of a weights file.
        taps: a name from ``TAP_SETS``, or {tap: weight}, which is then treated like ``first5``.
        before_relu, criterion, calibrated: None keeps the tap set's own convention.
        crop: side of the centred square of each image that is compared; None compares all of it.
            On random training patches a smaller square estimates the same mean, at less cost.
        precision: of the features; distances are float32 at least. ``bf16`` takes .4
            (AMX) to .7 (AVX512-BF16) of a small network's step on a CPU that multiplies it, with
            gradients good to two digits; ``auto`` is bf16 on such a CPU and fp32 on all else.

    Shapes: sr, hr (B, 3, H, W) in [0, 1] -> scalar. Gradient reaches ``sr`` only.
    Raises: ConfigError for an unknown name or taps that the embedded features lack; StorageError
        if the weights cannot be had; ValueError if shapes differ.
    Source: Johnson et al. 2016, eq. 2; see ``TAP_SETS`` for each set.
    """

    def __init__(
        self,
        *,
        features: str | Path = "embedded",
        taps: str | Mapping[str, float] = "first5",
        before_relu: bool | None = None,
        criterion: Criterion | None = None,
        calibrated: bool | None = None,
        crop: int | None = None,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__()
        chosen = _tap_set(taps)
        self.recipe: str | None = None
        if features == "embedded" and _is_deeper_than_embedded(taps, chosen):
            self.recipe, chosen = str(taps), TAP_SETS["first5"]
        self.criterion = criterion or chosen.criterion
        if self.criterion not in get_args(Criterion):
            raise ConfigError(f"criterion={criterion!r}", where="perceptual", fix="mse or l1")
        if crop is not None and crop < 1:
            raise ConfigError(f"crop={crop}", where="perceptual", fix="a side in px, or null")
        if precision not in get_args(Precision):
            fix = "fp32, bf16 or auto"
            raise ConfigError(f"precision={precision!r}", where="perceptual", fix=fix)
        self.crop, self.precision = crop, precision
        self.features = VGG19Features(
            features,
            taps=list(chosen.weights),
            before_relu=chosen.before_relu if before_relu is None else before_relu,
            mean=chosen.mean,
            std=chosen.std,
        )
        calibrated = chosen.calibrated if calibrated is None else calibrated
        sizes = self._sizes() if calibrated else dict.fromkeys(chosen.weights, 1.0)
        self.factors = {tap: weight / sizes[tap] for tap, weight in chosen.weights.items()}

    @property
    def features_name(self) -> str:
        """What the features honestly are: "first5/procedural", "vgg19/imagenet", "vgg19/STEM".

        "first5/procedural (recipe: vgg54)" where the recipe's own taps were not to be had.
        """
        name = self.features.features_name
        return f"{name} (recipe: {self.recipe})" if self.recipe else name

    @property
    def features_sha256(self) -> str:
        """SHA-256 of the weights file."""
        return self.features.features_sha256

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Distance of ``sr`` from ``hr`` in feature space."""
        same_shape(sr, hr)
        sr, hr = self._cropped(sr), self._cropped(hr)
        with narrowed(sr.device, self.precision):
            with torch.no_grad():
                target = self.features(hr)
            output = self.features(sr)
        # Autocast's bfloat16 activations have too few digits to be subtracted.
        wide = torch.promote_types(sr.dtype, torch.float32)
        distances = [
            factor * self._distance(output[tap].to(wide), target[tap].to(wide))
            for tap, factor in self.factors.items()
        ]
        return torch.stack(distances).sum()

    def _distance(self, output: Tensor, target: Tensor) -> Tensor:
        # Of several megabytes each: one pass over them, not one for every operation. As they lie,
        # channels last: the gradient of mse_loss would come back channels first, and all that
        # meets it on its way down would walk across memory, a third of the term's time.
        output, target = output.permute(0, 2, 3, 1), target.permute(0, 2, 3, 1)
        return (F.mse_loss if self.criterion == "mse" else F.l1_loss)(output, target)

    @torch.no_grad()
    def _sizes(self) -> dict[str, float]:
        activations = self.features(calibration_batch())
        return {
            tap: float(self._distance(x, torch.zeros_like(x))) for tap, x in activations.items()
        }

    def _cropped(self, image: Tensor) -> Tensor:
        if self.crop is None:
            return image
        height, width = (min(self.crop, side) for side in image.shape[-2:])
        top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
        return image[..., top : top + height, left : left + width]


def _tap_set(taps: str | Mapping[str, float]) -> TapSet:
    if isinstance(taps, str):
        if taps not in TAP_SETS:
            raise ConfigError(
                f"unknown tap set {taps!r}", where="perceptual.taps", fix=", ".join(TAP_SETS)
            )
        return TAP_SETS[taps]
    unknown = [tap for tap in taps if tap not in VGG19]
    if unknown or not taps:
        raise ConfigError(f"unknown taps {unknown}", where="perceptual.taps", fix=", ".join(VGG19))
    return TapSet(dict(taps), calibrated=True)


def _is_deeper_than_embedded(taps: str | Mapping[str, float], chosen: TapSet) -> bool:
    """Whether a named set needs what the embedded features lack; own taps that do are an error."""
    needed = [name for name in layers_up_to(chosen.weights) if VGG19[name]]
    missing = [name for name in needed if name not in EMBEDDED_CONVS]
    if missing and not isinstance(taps, str):
        raise ConfigError(
            f"taps={taps!r} need {missing[-1]}, the embedded features end at {EMBEDDED_CONVS[-1]}",
            where="perceptual.features=embedded",
            fix="features=imagenet or a VGG19 file, or taps=first5|vgg22|features5",
        )
    return bool(missing)
