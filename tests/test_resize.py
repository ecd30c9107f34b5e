"""Bicubic: MATLAB's, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from srtrain.color import luma
from srtrain.degradation.resize import (
    Bicubic,
    _dtype_of_levels,
    _lies_by_pixel,
    _resize_levels,
    bicubic_uint8,
    resize_matrix,
    shrunk,
    upscale,
    upscale_rounded,
)

SET5 = ("baby", "bird", "butterfly", "head", "woman")


def _rgb(path: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


def _crop(image: Tensor, scale: int) -> Tensor:
    height, width = (side // scale * scale for side in image.shape[-2:])
    return image[..., :height, :width]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_set5_files_are_reproduced_bit_for_bit(shared: Path, scale: int) -> None:
    root = shared / "data" / "Set5"
    for name in SET5:
        hr = _crop(_rgb(root / "HR" / f"{name}.png"), scale)
        lr = _rgb(root / "LR_bicubic" / f"X{scale}" / f"{name}x{scale}.png")
        assert torch.equal(bicubic_uint8(hr, scale), lr), name
        batch = Bicubic(scale=scale)(hr[None].float() / 255, torch.zeros(1, dtype=torch.int64))
        torch.testing.assert_close(batch[0], lr.float() / 255, rtol=0, atol=0)


def test_set5_bicubic_x4_is_28_43_db(shared: Path) -> None:
    psnrs = []
    for name in SET5:
        hr = _crop(_rgb(shared / "data" / "Set5" / "HR" / f"{name}.png"), 4)
        sr = upscale(bicubic_uint8(hr, 4)[None].double() / 255, scale=4)
        sr = (sr.clamp(0, 1) * 255 + 0.5).floor() / 255
        error = (luma(sr) - luma(hr[None].double() / 255))[..., 4:-4, 4:-4]
        psnrs.append(-10 * error.square().mean().log10().item())
    assert np.mean(psnrs) == pytest.approx(28.43, abs=0.005)


# By hand from Keys' cubic with a = -1/2. Shrinking by 2 samples it at ±1/4, ±3/4, ±5/4, ±7/4 of
# two input pixels: [-3, -9, 29, 111, 111, 29, -9, -3] / 256. Enlarging by 2 samples it at
# 1/4, 3/4, 5/4, 7/4: [-9, 111, 29, -3] / 128.
@pytest.mark.parametrize(
    ("n_in", "n_out", "scale", "row", "first", "expected"),
    [
        (32, 16, 0.5, 8, 13, np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256),
        (32, 64, 2.0, 33, 15, np.array([-9, 111, 29, -3]) / 128),
        (32, 64, 2.0, 32, 14, np.array([-3, 29, 111, -9]) / 128),
        (4, 4, 1.0, 2, 2, np.array([1.0])),
    ],
)
def test_rows_of_the_matrix(
    n_in: int, n_out: int, scale: float, row: int, first: int, expected: np.ndarray
) -> None:
    want = torch.zeros(n_in, dtype=torch.float64)
    want[first : first + len(expected)] = torch.from_numpy(expected)
    torch.testing.assert_close(resize_matrix(n_in, n_out, scale)[row], want, rtol=0, atol=1e-15)


def test_borders_are_mirrored_with_the_edge_pixel_repeated() -> None:
    # By hand: output 0 of a x2 shrink reads pixels -3 … 4; -1, -2, -3 fold onto 0, 1, 2.
    first = resize_matrix(16, 8, 0.5)[0, :5] * 256
    want = torch.tensor([111 + 29, 111 - 9, 29 - 3, -9, -3], dtype=torch.float64)
    torch.testing.assert_close(first, want)


@pytest.mark.parametrize("scale", [1, 1.3, 2, 2.7, 3, 4, 8])
@pytest.mark.parametrize("side", [257, 320, 700])
def test_without_the_matrix_s_zeros_every_level_is_the_same(
    scale: float, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    side -= side % int(scale) if scale == int(scale) else 0
    source = torch.Generator().manual_seed(0)
    hr = torch.rand(2, 3, side, 300 - 300 % int(scale), generator=source)
    lr = Bicubic(scale=scale)(hr)
    larger = upscale_rounded(lr, scale=scale)
    monkeypatch.setattr("srtrain.degradation.resize._LONG", 10**6)
    assert torch.equal(Bicubic(scale=scale)(hr), lr)
    assert torch.equal(upscale_rounded(lr, scale=scale), larger)


@pytest.mark.parametrize("scale", [1, 1.1, 1.5, 2, 2.7, 3, 4, 5, 6, 7, 8])
def test_every_scale_keeps_constants_and_a_linear_ramp(scale: float) -> None:
    side = 120
    ramp = torch.arange(side, dtype=torch.float64).expand(1, 3, side, side) / side
    for zoom, small in ((scale, False), (1 / scale, True)):
        size = int(np.ceil(side * zoom - 1e-6))
        matrix = resize_matrix(side, size, zoom)
        torch.testing.assert_close(matrix.sum(1), torch.ones(size, dtype=torch.float64))
        got = ramp[0, 0, 0] @ matrix.T * side
        centre = (torch.arange(size, dtype=torch.float64) + 0.5) / zoom - 0.5
        inner = slice(size // 3, 2 * size // 3)
        # Keys' cubic reproduces lines where it is not truncated; the stretched kernel of a
        # fractional shrink is normalised but only nearly linear.
        tolerance = 0.02 * scale if small and scale != int(scale) else 1e-9
        assert (got - centre)[inner].abs().max() < tolerance
    assert upscale(ramp[..., :12, :12], scale=scale).shape[-1] == int(np.ceil(12 * scale - 1e-6))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_shrunk_is_bicubic_before_rounding(scale: int) -> None:
    torch.manual_seed(1)
    image = torch.rand(2, 3, 24, 36) * 0.5 + 0.25  # nothing overshoots
    small = shrunk(image.bfloat16(), scale=scale)
    assert small.dtype == torch.float32
    torch.testing.assert_close(small, Bicubic(scale=scale)(image), atol=5e-3, rtol=0)
    levels = (image * 255).round() / 255
    off = (shrunk(levels, scale=scale) - Bicubic(scale=scale)(levels)).abs().max() * 255
    assert 0.3 < float(off) < 1.1  # two roundings of half a level each


def test_ties_round_up_as_in_matlab() -> None:
    # By hand: rows 0 and 1 alternating 0 and 1 average to 1/2 inside, which rounds up to 1.
    image = torch.zeros(1, 32, 32, dtype=torch.uint8)
    image[:, ::2] = 1
    assert bicubic_uint8(image, 2)[0, 4:-4].eq(1).all()


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("side", [96, 640])
@pytest.mark.parametrize("scale", [2, 4])
def test_float32_is_taken_where_it_is_exact(scale: int, side: int, precision: str) -> None:
    """Weights are multiples of 2^-12, so no sum of them times levels needs more than 24 bits."""
    zoom = 1 / Fraction(scale)
    assert bool((resize_matrix(side, side // scale, float(zoom)) * 2**12 % 1 == 0).all())
    hr = torch.randint(0, 256, (2, 3, side, side), generator=torch.Generator().manual_seed(side))
    hr[:, :, : side // 2] = torch.where(hr[:, :, : side // 2] < 128, 0, 255)  # many ties
    expected = _resize_levels(hr.double(), zoom)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        with torch.autocast("cpu", torch.bfloat16):
            found = Bicubic(scale=scale)(hr.float() / 255)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found, (expected / 255).float())


@pytest.mark.parametrize("scale", [1.3, 2, 3, 4])
@pytest.mark.parametrize(
    "shape", [(4, 3, 96, 48), (1, 3, 480, 336), (2, 1, 24, 24), (2, 3, 12, 1), (0, 3, 24, 24)]
)
def test_order_in_memory_changes_no_level(scale: float, shape: tuple[int, ...]) -> None:
    levels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(2)).float()
    zoom, last = 1 / Fraction(scale), torch.channels_last
    expected = _resize_levels(levels.double(), zoom)
    for dtype in (torch.float64, _dtype_of_levels(scale)):
        found = _resize_levels(levels.to(dtype, memory_format=last), zoom)
        assert torch.equal(found.double(), expected)
    assert _lies_by_pixel(levels.contiguous(memory_format=last)) == (shape[1] == 3)
    enlarged = _resize_levels(levels.double().contiguous(memory_format=last), Fraction(scale))
    assert torch.equal(enlarged, _resize_levels(levels.double(), Fraction(scale)))


def test_batched_equals_alone_and_stays_in_range() -> None:
    hr = torch.rand(3, 3, 24, 36, generator=torch.Generator().manual_seed(1)).round()
    lr = Bicubic(scale=4)(hr, torch.arange(3))
    assert lr.shape == (3, 3, 6, 9)
    assert lr.dtype == torch.float32
    assert lr.min() >= 0
    assert lr.max() <= 1
    assert torch.equal(lr[1:2], Bicubic(scale=4)(hr[1:2], torch.arange(1)))
    assert torch.equal((lr * 255).round().to(torch.uint8), bicubic_uint8((hr * 255).byte(), 4))


def test_upscale_is_differentiable_after_use_in_inference_mode() -> None:
    with torch.inference_mode():
        upscale(torch.rand(1, 3, 5, 9), scale=3)
    lr = torch.rand(1, 3, 5, 9, requires_grad=True)
    upscale(lr, scale=3).sum().backward()
    assert lr.grad is not None
    torch.testing.assert_close(lr.grad.sum(), torch.tensor(3.0 * 5 * 9 * 9))


def test_upscale_under_autocast_keeps_its_precision() -> None:
    lr = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = upscale(lr, scale=2)
    torch.testing.assert_close(fast, upscale(lr, scale=2), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bicubic_uint8(torch.zeros(3, 8, 8), 2), "uint8"),
        (lambda: bicubic_uint8(torch.zeros(3, 9, 8, dtype=torch.uint8), 2), "height .* = 9"),
        (lambda: Bicubic(scale=9), "1 … 8"),
        (lambda: upscale(torch.zeros(3, 8, 8), scale=2), r"\(B, C, H, W\)"),
        (lambda: resize_matrix(0, 4, 2.0), "positive"),
        (lambda: resize_matrix(4, 4, 9.0), "1/8 … 8"),
    ],
)
def test_misuse_is_named(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
