"""MATLAB's bicubic ``imresize`` as two matrix products, on any device.

Published tables stand on this kernel: Keys' cubic with a = -1/2, stretched by 1/scale when
shrinking, symmetric borders. ``F.interpolate`` differs at the borders by up to 16 levels.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import torch
from torch import Tensor, nn

from srtrain.checks import divisible_by, image_batch

MAX_SCALE = 8.0
_CACHED_ELEMENTS = 2**20  # 8 MiB of float64: keeps the cache below 256 MiB
_LONG = 256  # pixels a side; beyond, most of a matrix is zeros, and a CPU does without them
_BLOCK = 32  # outputs that a CPU computes in one product of the matrix's inner part
_WHOLE = (Fraction(1, 2), Fraction(1, 4))  # zooms whose weights are multiples of 2^-12
_TIE = 1e-9  # far above summation error (1e-12), far below the next value that is not a tie


def resize_matrix(n_in: int, n_out: int, scale: float) -> Tensor:
    """The matrix M (n_out, n_in), float64, of ``out = M @ in`` along one axis; rows sum to 1.

    ``scale`` is the zoom: 1/4 shrinks (the kernel is widened by 4 against aliasing), 4 enlarges.

    Raises: ValueError if a size is not positive or the zoom is outside 1/8 … 8.
    Source: MATLAB ``imresize``; Keys 1981, "Cubic convolution interpolation", a = -1/2.
    """
    if n_in < 1 or n_out < 1:
        raise ValueError(f"sizes must be positive, got {n_in} -> {n_out}")
    if not 1 / MAX_SCALE <= scale <= MAX_SCALE:
        raise ValueError(f"zoom must lie in 1/8 … 8, got {scale}")
    shrink = min(scale, 1.0)
    width = 4.0 / shrink
    taps = torch.arange(math.ceil(width) + 2, dtype=torch.float64)
    # Pixel centres: output pixel i covers the input around (i + 1/2) / scale - 1/2.
    centre = (torch.arange(n_out, dtype=torch.float64) + 0.5) / scale - 0.5
    index = torch.floor(centre - width / 2)[:, None] + taps
    weight = _cubic((centre[:, None] - index) * shrink)
    weight /= weight.sum(dim=1, keepdim=True)
    mirrored = index.long() % (2 * n_in)
    mirrored = torch.minimum(mirrored, 2 * n_in - 1 - mirrored)
    return torch.zeros(n_out, n_in, dtype=torch.float64).scatter_add_(1, mirrored, weight)


def bicubic_uint8(image: Tensor, scale: float) -> Tensor:
    """``imresize(image, 1/scale)``: equal to MATLAB's uint8 result bit for bit.

    Two passes, rows first, each rounded half up to whole levels: what MATLAB does to files.

    Shapes: image uint8 (…, C, H, W) -> uint8 (…, C, ceil(H/scale), ceil(W/scale)).
    Raises: ValueError if the image is not uint8 or a whole scale does not divide its sides.
    """
    if image.dtype != torch.uint8:
        raise ValueError(f"bicubic_uint8 takes uint8 images, got {image.dtype}; use Bicubic")
    return _shrink_levels(image.to(_dtype_of_levels(scale)), scale).to(torch.uint8)


class Bicubic(nn.Module):
    """``imresize(hr, 1/scale)`` on the device, with the rounding of MATLAB's files.

    Both passes are exact and round to whole levels, so a network trained on these images meets in
    the published LR files exactly what it was trained on.
    """

    def __init__(self, *, scale: float) -> None:
        super().__init__()
        _check_scale(scale)
        self.scale = scale

    @torch.no_grad()
    def forward(self, hr: Tensor, sample: Tensor | None = None) -> Tensor:
        """Shapes: hr float (B, C, H, W) in [0, 1] -> float32 (B, C, H/scale, W/scale).

        ``sample`` is the degradations' common argument; nothing here is random.
        """
        image_batch(hr, "hr")
        levels = _levels(hr.to(_dtype_of_levels(self.scale)))
        return _shrink_levels(levels, self.scale).div_(255.0).float()

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        return f"scale={self.scale:g}"


def upscale(lr: Tensor, *, scale: float) -> Tensor:
    """``imresize(lr, scale)`` of a float image: the bicubic line of every table.

    Neither rounded nor clamped. Computed in float64 (TF32 and autocast would cost 1e-3), returned
    in the dtype of ``lr``; differentiable.

    Shapes: lr float (B, C, h, w) -> (B, C, ceil(h·scale), ceil(w·scale)).
    """
    image_batch(lr, "lr")
    _check_scale(scale)
    height, width = (_scaled_length(side, Fraction(scale)) for side in lr.shape[-2:])
    tall = _matrix(lr.shape[-2], height, float(scale), lr.device) @ lr.double()
    wide = tall @ _matrix(lr.shape[-1], width, float(scale), lr.device).T
    return wide.to(lr.dtype)


@torch.no_grad()
def shrunk(image: Tensor, *, scale: float) -> Tensor:
    """``imresize(image, 1/scale)`` in fp32, rounded nowhere: cheap, for a look at every step.

    Shapes: image (B, C, H, W) -> float32 (B, C, ceil(H/scale), ceil(W/scale)).
    """
    image_batch(image)
    _check_scale(scale)
    zoom = 1 / Fraction(scale)
    rows, columns = (
        _matrix(side, _scaled_length(side, zoom), float(zoom), image.device).float()
        for side in image.shape[-2:]
    )
    with torch.autocast(image.device.type, enabled=False):
        small: Tensor = rows @ image.float() @ columns.T
    return small


@torch.no_grad()
def upscale_rounded(lr: Tensor, *, scale: float) -> Tensor:
    """``imresize(lr, scale)`` of an 8-bit image: both passes rounded, as MATLAB does to files.

    The bicubic line that published LPIPS values stand on (float ``upscale`` reads .2875 on Set5 ×4
    instead of .2859).

    Shapes: lr float (B, C, h, w) in [0, 1] -> float32 (B, C, ceil(h·scale), ceil(w·scale)).
    """
    image_batch(lr, "lr")
    _check_scale(scale)
    levels = _levels(lr.double())
    return _resize_levels(levels, Fraction(scale)).div_(255.0).float()


def _shrink_levels(levels: Tensor, scale: float) -> Tensor:
    """Both passes over values that are whole numbers in 0 … 255."""
    _check_scale(scale)
    zoom = 1 / Fraction(scale)
    height, width = levels.shape[-2:]
    if float(scale).is_integer():
        divisible_by(height, int(scale), "hr height (crop it to a multiple of the scale first)")
        divisible_by(width, int(scale), "hr width (crop it to a multiple of the scale first)")
    return _resize_levels(levels, zoom)


def _resize_levels(levels: Tensor, zoom: Fraction) -> Tensor:
    """Rows, then columns, each rounded to whole levels."""
    return _resized(_resized(levels, zoom, dim=-2), zoom, dim=-1)


def _resized(levels: Tensor, zoom: Fraction, *, dim: int) -> Tensor:
    """One axis, rounded; in whatever order the sums are taken, the levels are the same."""
    size = levels.shape[dim]
    length = _scaled_length(size, zoom)
    if levels.device.type != "cpu" or size * length <= _LONG**2:
        matrix = _matrix(size, length, float(zoom), levels.device).to(levels.dtype)
        return _round_levels(_product(matrix, levels, dim))
    shape = [*levels.shape]
    shape[dim] = length
    resized = levels.new_empty(shape)
    for start, first, block in _blocks(size, length, float(zoom)):
        seen = levels.narrow(dim, first, block.shape[1])
        made = _product(block.to(levels.dtype), seen, dim)
        resized.narrow(dim, start, len(block)).copy_(_round_levels(made))
    return resized


def _product(matrix: Tensor, levels: Tensor, dim: int) -> Tensor:
    made: Tensor
    with torch.autocast(levels.device.type, enabled=False):
        if dim == -2 and _lies_by_pixel(levels):  # planes would be copied first
            batch, channels, _, width = levels.shape
            rows = matrix @ levels.permute(0, 2, 3, 1).flatten(2)
            made = rows.view(batch, len(matrix), width, channels).permute(0, 3, 1, 2)
        else:
            made = matrix @ levels if dim == -2 else levels @ matrix.T
    return made


def _lies_by_pixel(levels: Tensor) -> bool:
    """Whether a row is one pixel's channels after the other's, as in channels_last."""
    return levels.dim() == 4 and levels.stride(1) == 1 and levels.stride(3) == levels.shape[1] > 1


def _dtype_of_levels(scale: float) -> torch.dtype:
    """float32 where its products and sums are exact, at a sixth of the time; else float64.

    Shrunk by 2 or 4, every weight is a multiple of 2^-8 or 2^-12, so every partial sum of weights
    times levels is a whole number of those, below a thirteenth of float32's 2^24.
    """
    precise = torch.get_float32_matmul_precision() == "highest"  # no TF32, no bf16
    exact = precise and 1 / Fraction(scale) in _WHOLE
    return torch.float32 if exact else torch.float64


def _levels(image: Tensor) -> Tensor:
    """The nearest level of every value in [0, 1], halves up."""
    half = torch.tensor(0.5 + _TIE, dtype=image.dtype)
    return torch.add(half, image, alpha=255.0).floor_().clamp_(0.0, 255.0)


def _round_levels(levels: Tensor) -> Tensor:
    """Half up, clamped to 0 … 255; in place.

    At x2 and x4 one value in a thousand is an exact tie; the nudge rounds it up in whatever order
    a BLAS or a GPU sums (with -1e-9 instead, 5509 values of Set5 x2 differ from MATLAB's). In
    float32 it vanishes, and ties are exact.
    """
    return levels.add_(0.5 + _TIE).floor_().clamp_(0.0, 255.0)


def _cubic(x: Tensor) -> Tensor:
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return torch.where(x <= 1, near, torch.where(x <= 2, far, torch.zeros_like(x)))


def _scaled_length(length: int, zoom: Fraction) -> int:
    """``ceil(length · zoom)`` as MATLAB has it, but 10 · 1.1 is 11 and not 12."""
    return math.ceil(length * zoom - Fraction(1, 10**6))


def _check_scale(scale: float) -> None:
    if not 1 <= scale <= MAX_SCALE:
        raise ValueError(f"scale must lie in 1 … {MAX_SCALE:g}, got {scale}")


@functools.lru_cache(maxsize=256)  # of some 200 kB for a side of 2000 pixels
def _blocks(n_in: int, n_out: int, zoom: float) -> list[tuple[int, int, Tensor]]:
    """``resize_matrix`` in strips without the zeros around: first output, first input, weights."""
    with torch.inference_mode(False):
        strips = resize_matrix(n_in, n_out, zoom).split(_BLOCK)
        starts = range(0, n_out, _BLOCK)
        ends = [strip.any(dim=0).nonzero()[[0, -1], 0].tolist() for strip in strips]
        return [
            (start, first, strip[:, first : last + 1].clone())
            for start, strip, (first, last) in zip(starts, strips, ends, strict=True)
        ]


def _matrix(n_in: int, n_out: int, zoom: float, device: torch.device) -> Tensor:
    build = _cached_matrix if n_in * n_out <= _CACHED_ELEMENTS else _device_matrix
    return build(n_in, n_out, zoom, device)


def _device_matrix(n_in: int, n_out: int, zoom: float, device: torch.device) -> Tensor:
    # A matrix first made under inference_mode would be refused by every later backward pass.
    with torch.inference_mode(False):
        return resize_matrix(n_in, n_out, zoom).to(device)


_cached_matrix = functools.lru_cache(maxsize=32)(_device_matrix)
