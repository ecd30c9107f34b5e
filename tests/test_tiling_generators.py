"""Every file of conf/generator in tiles: equal to the whole, or named here with the reason."""

from __future__ import annotations

import pytest
import torch

from srtrain.inference.forward import Forward
from srtrain.inference.receptive import measure
from srtrain.inference.tiling import joined, lay_out, strips
from srtrain.networks.build import build_generator, spec_of
from srtrain.networks.generator import Generator
from tests.test_generator_yamls import NAMES, SMALL, build, node

# Each output pixel depends on the whole image. How much, the weights decide: where that is less
# than 2e-6, as in some that are not trained, tiles are exact all the same.
EVERYWHERE = {
    "atd": "tokens of one category attend to each other, wherever they are",
    "atd_light": "as atd",
    "craft": "channels attend to each other over the whole image",
    "dat": "channels attend to each other over the whole image",
    "dat_light": "as dat",
    "dctlsa": "its shifted windows wrap around: opposite borders are mixed",
    "hat": "channel attention by the mean over the image",
    "hat_small": "as hat",
    "omnisr": "channels attend to each other over the whole image",
    "rcan": "channel attention by the mean over the image",
    "realplksr": "group norm: mean and variance of the whole image",
    "rgt": "all pixels attend to the whole image, made small",
    "rgt_small": "as rgt",
    "seemore": "which expert is asked is decided by the mean over the image",
}
QUICK = {
    *("compact", "ditn", "edsr", "edsr_full", "edsr_lite", "grl_tiny", "plksr", "plksr_tiny"),
    *("realplksr", "safmn", "safmn_large", "span", "srresnet"),
}
TILE = 32
# As published, a window takes 1024², a stripe 4096 × 256: minutes. Stripes of 64: test_tiling.py.
GRL = {"img_size": 16, "window_size": 8, "stripe_size": [16, 16]}

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")


def test_names_are_those_of_files() -> None:
    assert set(EVERYWHERE) | QUICK <= set(NAMES)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES],
)
def test_tiles_equal_the_whole_or_are_called_approximate(name: str) -> None:
    generator = _built(name).eval()
    forward = Forward(generator)  # channels last, as inference does
    reach = measure(generator)
    assert reach.exact or name in EVERYWHERE
    # The window of the middle tile ends before the image does, on both sides.
    height = 2 * (reach.halo + reach.align) + 3 * TILE
    lr = torch.rand(1, 3, height, 24, generator=torch.Generator().manual_seed(3))
    grid = lay_out(generator, lr, tile=TILE, reach=reach)
    assert any(row.left > 0 and row.right < height for row in grid.rows)
    with torch.no_grad():
        whole = forward(lr)
        tiled = joined(strips(forward, lr, grid), whole.shape[-2], lr.device)
    span = max(1.0, whole.abs().max().item())  # some give up to 45 before they are trained
    error = (tiled - whole).abs().max().item() / span
    assert error <= (1e-5 if reach.exact else 0.05)


def _built(name: str) -> Generator:
    if name != "grl_tiny":
        return build(name, scale=2, small=True)
    torch.manual_seed(1)
    return build_generator(spec_of({**node(name, scale=2), **SMALL[name], **GRL}), scale=2)
