"""What the discriminators are made of, and how far each of their logits sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from torch import nn

from srtrain.networks.discriminators.spectral import SpectralConv2d

if TYPE_CHECKING:
    from collections.abc import Iterable

Norm = Literal["spectral", "instance", "batch", "none"]

SLOPE = 0.2  # of the leaky ReLUs: DCGAN's, and everybody's since


def convolution(
    channels_in: int, channels_out: int, kernel: int, *, norm: Norm, stride: int = 1
) -> nn.Conv2d:
    """A convolution with half padding; under spectral norm where ``norm`` says so."""
    padding = (kernel - 1) // 2
    if norm == "spectral":
        return SpectralConv2d(channels_in, channels_out, kernel, stride=stride, padding=padding)
    return nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=padding)


def block(
    channels_in: int,
    channels_out: int,
    kernel: int,
    *,
    norm: Norm,
    stride: int = 1,
    normalised: bool = True,
) -> list[nn.Module]:
    """Convolution, statistics if ``norm`` has any (and unless not ``normalised``), leaky ReLU."""
    layers: list[nn.Module] = [
        convolution(channels_in, channels_out, kernel, norm=norm, stride=stride)
    ]
    if normalised and norm == "batch":
        layers.append(nn.BatchNorm2d(channels_out))
    if normalised and norm == "instance":
        layers.append(nn.InstanceNorm2d(channels_out, affine=True))
    return [*layers, nn.LeakyReLU(SLOPE, inplace=True)]


def known_norm(norm: str) -> None:
    """Raises ValueError unless ``norm`` is one that ``block`` knows."""
    if norm not in get_args(Norm):
        raise ValueError(f"norm = {norm!r} must be one of {', '.join(get_args(Norm))}")


def receptive_field(network: nn.Module) -> int:
    """Side of the square that one output of a chain of convolutions sees."""
    return chain_field(m for m in network.modules() if isinstance(m, nn.Conv2d))


def chain_field(convolutions: Iterable[nn.Conv2d]) -> int:
    """``1 + Σ (kernel - 1) · Π (strides before)``."""
    side, jump = 1, 1
    for layer in convolutions:
        side += (layer.kernel_size[0] - 1) * jump
        jump *= layer.stride[0]
    return side
