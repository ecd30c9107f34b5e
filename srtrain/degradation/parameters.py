"""What one pass of a blind degradation may draw, and drawing it for a batch.

Every parameter of a sample is a function of its own row of uniform numbers, computed on the CPU:
nothing here waits for a device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch

from srtrain.degradation import kernels
from srtrain.degradation.noise import Noise
from srtrain.degradation.resample import MODES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

Range = Sequence[float]
Weights = Mapping[str, float]

NUM_UNIFORMS = 32  # of each sample and pass; a pass uses 19 of them
_ZOOM = 2  # the first two are the zoom's
_KINDS = ("up", "down", "keep")
_SHAPES = ("iso", "aniso", "generalised_iso", "generalised_aniso", "plateau_iso", "plateau_aniso")
_WIDE = 6  # radius from which a sinc kernel may cut deeper: 13 pixels
# What ranges may hold, where it is not everything from 0 on.
_WITHIN = {
    "kernel_size": (1, math.inf),
    "sigma": (1e-3, math.inf),  # at 0 a bell is 0 / 0
    "sinc_cutoff": (0, 1),
    "sinc_cutoff_wide": (0, 1),
    "jpeg_quality": (1, 100),
}
_AROUND_1 = ("beta_generalised", "beta_plateau", "resize_range")  # drawn below and above apart


class Drawn(NamedTuple):
    """One pass for each sample of a batch, on the CPU."""

    kernels: Tensor  # (B, K, K)
    zoom: Tensor  # (B,)
    modes: Tensor  # (B,), index into MODES
    noises: list[Noise]
    quality: Tensor  # (B,), whole numbers


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Blur, resize, noise, JPEG: ranges are uniform [low, high], weights are relative.

    Kernels have an odd number of pixels; σ is in pixels, a cutoff a share of the Nyquist
    frequency, that of kernels of 13 pixels and more ``sinc_cutoff_wide``. β is drawn below and
    above 1 equally often. Gaussian noise is in levels; ``poisson_scale`` multiplies Poisson noise.

    Raises: ValueError naming a range that is reversed or impossible, a probability that is none,
        or a weight that is not known.
    Source: Wang et al. 2021, Real-ESRGAN; the defaults are its first pass.
    """

    blur_probability: float = 1.0
    kernel_size: Range = (7, 21)
    kernel_weights: Weights = field(
        default_factory=lambda: dict(
            zip(_SHAPES, (0.45, 0.25, 0.12, 0.03, 0.12, 0.03), strict=True)
        )
    )
    sigma: Range = (0.2, 3.0)
    beta_generalised: Range = (0.5, 4.0)
    beta_plateau: Range = (1.0, 2.0)
    sinc_probability: float = 0.1
    sinc_cutoff: Range = (1 / 3, 1.0)
    sinc_cutoff_wide: Range = (1 / 5, 1.0)
    resize_weights: Weights = field(default_factory=lambda: {"up": 0.2, "down": 0.7, "keep": 0.1})
    resize_range: Range = (0.15, 1.5)
    resize_modes: Weights = field(default_factory=lambda: dict.fromkeys(MODES, 1.0))
    gaussian_probability: float = 0.5
    gaussian_sigma: Range = (1.0, 30.0)
    poisson_scale: Range = (0.05, 3.0)
    gray_probability: float = 0.4
    jpeg_quality: Range = (30, 95)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float | int):
                check_probability(name, value)
            elif not isinstance(value, Mapping):
                check_range(name, value, within=_WITHIN.get(name, (0, math.inf)))
        for name in _AROUND_1:
            low, high = getattr(self, name)
            if not low <= 1 <= high:
                raise ValueError(f"{name} must hold 1, got [{low}, {high}]")
        check_weights("kernel_weights", self.kernel_weights, _SHAPES)
        check_weights("resize_weights", self.resize_weights, _KINDS)
        check_weights("resize_modes", self.resize_modes, MODES)

    def draw(self, uniforms: Tensor) -> Drawn:
        """Shapes: uniforms float64 (B, NUM_UNIFORMS) in [0, 1)."""
        zoom, u = self.zoom(uniforms), iter(uniforms.T[_ZOOM:])
        blurs = self._kernels(u)
        modes = pick(next(u), self.resize_modes, MODES)
        noises = self._noises(u)
        quality = between(next(u), self.jpeg_quality).round()
        return Drawn(blurs, zoom, modes, noises, quality)

    def _kernels(self, u: Iterator[Tensor]) -> Tensor:
        largest = int(self.kernel_size[1]) // 2
        radius = whole_between(next(u), self.kernel_size)
        shape = pick(next(u), self.kernel_weights, _SHAPES)
        sigma = torch.stack([between(next(u), self.sigma) for _ in range(2)], 1)
        sigma[:, 1] = torch.where(shape % 2 == 0, sigma[:, 0], sigma[:, 1])
        form = kernels.quadratic_form(largest, sigma=sigma, angle=math.pi * (2 * next(u) - 1))
        above, place = next(u) < 0.5, next(u)
        round_beta = _beta(place, self.beta_generalised, above=above)
        beta = torch.where(shape < 2, 1.0, round_beta)
        flat = kernels.plateau(form, _beta(place, self.beta_plateau, above=above))
        bell = kernels.generalised_gaussian(form, beta)
        bell = torch.where((shape >= 4)[:, None, None], flat, bell)
        place = next(u)
        cutoff = torch.where(
            radius < _WIDE,
            between(place, self.sinc_cutoff),
            between(place, self.sinc_cutoff_wide),
        )
        is_sinc = (next(u) < self.sinc_probability)[:, None, None]
        kernel = torch.where(is_sinc, kernels.sinc(largest, math.pi * cutoff), bell)
        blurred = (next(u) < self.blur_probability)[:, None, None]
        return torch.where(blurred, kernels.trimmed(kernel, radius), kernels.identity(largest))

    def zoom(self, uniforms: Tensor) -> Tensor:
        """Of ``draw`` the zoom alone, (B,)."""
        low, high = self.resize_range
        kind, place = pick(uniforms[:, 0], self.resize_weights, _KINDS), uniforms[:, 1]
        larger, smaller = between(place, (1.0, high)), between(place, (low, 1.0))
        return torch.where(kind == 0, larger, torch.where(kind == 1, smaller, 1.0))

    def _noises(self, u: Iterator[Tensor]) -> list[Noise]:
        gaussian = next(u) < self.gaussian_probability
        place = next(u)
        strength = torch.where(
            gaussian, between(place, self.gaussian_sigma), between(place, self.poisson_scale)
        )
        gray = next(u) < self.gray_probability
        rows = zip(gaussian.tolist(), strength.tolist(), gray.tolist(), strict=True)
        return [Noise(*row) for row in rows]


def between(u: Tensor, limits: Range) -> Tensor:
    """Uniform over ``limits``."""
    return limits[0] + u * (limits[1] - limits[0])


def whole_between(u: Tensor, sizes: Range) -> Tensor:
    """The radius of an odd kernel size, each of ``sizes`` (both ends too) equally likely."""
    low, high = int(sizes[0]) // 2, int(sizes[1]) // 2
    return torch.floor(between(u, (low, high + 1))).long()


def pick(u: Tensor, weights: Weights, names: Sequence[str]) -> Tensor:
    """Index into ``names``, with probabilities proportional to ``weights``."""
    ends = torch.tensor([weights.get(name, 0.0) for name in names], dtype=torch.float64).cumsum(0)
    return torch.searchsorted(ends / ends[-1], u.contiguous(), right=True).clamp(max=len(names) - 1)


def check_range(name: str, limits: Range, *, within: Range) -> None:
    """Raises ValueError unless ``limits`` is [low, high], ``within`` what is possible."""
    least, most = within
    if len(limits) != 2 or not least <= limits[0] <= limits[1] <= most:
        possible = f"from {least:g} on" if most == math.inf else f"in {least:g} … {most:g}"
        raise ValueError(f"{name} must be [low, high] {possible}, got {list(limits)}")


def check_probability(name: str, value: float) -> None:
    """Raises ValueError outside 0 … 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} = {value} must lie in 0 … 1")


def check_weights(name: str, weights: Weights, known: Sequence[str]) -> None:
    """Raises ValueError unless ``weights`` are of ``known`` names, none negative, not all 0."""
    if not set(weights) <= set(known) or min(weights.values()) < 0 or not any(weights.values()):
        raise ValueError(f"{name} must weigh {', '.join(known)}, not all 0, got {dict(weights)}")


def _beta(place: Tensor, limits: Range, *, above: Tensor) -> Tensor:
    return torch.where(above, between(place, (1.0, limits[1])), between(place, (limits[0], 1.0)))
