"""Transparent images: alpha is made larger on its own, hidden colours do not come to light."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from srtrain.images import Picture
from srtrain.inference.transparency import fill_hidden
from srtrain.inference.upscaler import Upscaler
from tests.upscaling import smooth, tiny_generator


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler(tiny_generator())


def test_hidden_colours_do_not_bleed(upscaler: Upscaler) -> None:
    # A gray disc on transparent pixels that are pure green below.
    rows, columns = np.mgrid[:32, :32]
    disc = (rows - 16) ** 2 + (columns - 16) ** 2 < 100
    pixels = np.where(disc[..., None], 128, [0, 255, 0]).astype(np.uint8)
    alpha = np.where(disc, 255, 0).astype(np.uint8)
    larger = upscaler.upscale_picture(Picture(pixels, alpha))
    assert larger.alpha is not None
    seen = larger.pixels[larger.alpha > 0].astype(int)
    green = upscaler.upscale_picture(Picture(pixels)).pixels[larger.alpha > 0].astype(int)
    clean = upscaler.upscale_picture(Picture(np.full_like(pixels, 128))).pixels
    assert np.abs(seen - clean[larger.alpha > 0]).max() <= 1
    assert np.abs(green - 128).max() > 60  # what it would have been


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (32, 31)])
def test_filling_keeps_visible_colours_and_constants(size: tuple[int, int]) -> None:
    source = torch.Generator().manual_seed(0)
    alpha = (torch.rand(1, 1, *size, generator=source) > 0.7).float()
    alpha[..., 0, 0] = 1
    colour = torch.rand(1, 3, *size, generator=source)
    filled = fill_hidden(colour, alpha)
    seen = (alpha > 0).expand_as(colour)
    torch.testing.assert_close(filled[seen], colour[seen], rtol=0, atol=0)
    constant = torch.where(seen, torch.full_like(colour, 0.3), colour)
    torch.testing.assert_close(fill_hidden(constant, alpha), torch.full_like(colour, 0.3))


def test_constant_alpha_stays_exactly_constant(upscaler: Upscaler) -> None:
    larger = upscaler.upscale_picture(Picture(smooth(6, 8), np.full((6, 8), 255, np.uint8)))
    assert larger.alpha is not None
    assert larger.alpha.shape == (12, 16)
    assert (larger.alpha == 255).all()
