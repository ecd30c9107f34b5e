"""Interpolated images: their kernels, their order in memory, their type."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from srtrain.networks.enlarging import enlarged


def by_pillow(lr: Tensor, scale: int, kernel: Image.Resampling) -> Tensor:
    """Each plane in float32 (mode F)."""
    height, width = (side * scale for side in lr.shape[-2:])
    planes = [Image.fromarray(plane.numpy()) for plane in lr.flatten(0, 1)]
    larger = [np.asarray(plane.resize((width, height), kernel)) for plane in planes]
    return torch.from_numpy(np.stack(larger)).view(*lr.shape[:2], height, width)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize(
    ("mode", "kernel"),
    [("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)],
)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_as_pillow_enlarges(
    scale: int, mode: str, kernel: Image.Resampling, order: torch.memory_format
) -> None:
    lr = torch.rand(2, 3, 7, 10, generator=torch.Generator().manual_seed(0))
    found = enlarged(lr.contiguous(memory_format=order), scale, mode=mode)
    torch.testing.assert_close(found, by_pillow(lr, scale, kernel), atol=1e-5, rtol=0)
    assert found.is_contiguous(memory_format=order)


def test_a_low_precision_is_raised_and_a_high_one_kept() -> None:
    lr = torch.rand(1, 3, 4, 5)
    for given, found in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        assert enlarged(lr.to(given), 2).dtype is found
    assert enlarged(lr, 1) is lr
