"""What the discriminators are made of, and how far each of their logits sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from torch import nn

from srtrain.networks.discriminators.spectral import SpectralConv2d

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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


def receptive_field(layers: Iterable[nn.Module]) -> int:
    """Side of the square that one output sees: the widest, where outputs differ.

    Each output of a chain of convolutions and x2 bilinear enlargements sees an interval of its
    input. The intervals are followed backwards, from one period of outputs.
    """
    chain = [m for m in layers if isinstance(m, nn.Conv2d | nn.Upsample)]
    period = 2 ** sum(isinstance(layer, nn.Upsample) for layer in chain)
    return max(_seen(chain, position) for position in range(period))


def _seen(chain: Sequence[nn.Module], position: int) -> int:
    first = last = position
    for layer in reversed(chain):
        if isinstance(layer, nn.Conv2d):
            kernel, stride, padding = (
                int(size[0]) for size in (layer.kernel_size, layer.stride, layer.padding)
            )
            first, last = first * stride - padding, last * stride - padding + kernel - 1
        else:  # output i lies between the inputs floor((i - 1) / 2) and the next
            first, last = (first - 1) // 2, (last - 1) // 2 + 1
    return last - first + 1
