"""Tiles equal the whole, whatever the network, or say that they do not."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from srtrain.inference.receptive import LONGEST, Reach, measure
from srtrain.inference.tiling import spans, upscale_tiled
from srtrain.networks.build import build_generator
from srtrain.networks.edsr import EDSRLite
from srtrain.networks.generator import Generator
from srtrain.networks.spec import Spec


class Convolutions(nn.Module):
    """``depth`` 3x3 convolutions and a pixel shuffle: reach = depth."""

    def __init__(self, depth: int, *, scale: int = 2, width: int = 8) -> None:
        super().__init__()
        widths = [3, *[width] * (depth - 1), 3 * scale**2]
        layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths)]
        self.body = nn.ModuleList(layers)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, lr: Tensor) -> Tensor:
        for layer in self.body:
            lr = functional.relu(layer(lr)) if layer is not self.body[-1] else layer(lr)
        return self.shuffle(lr)


class Windows(nn.Module):
    """Mixes within windows of 8 pixels, as attention does, and knows where they begin."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(64, 64)

    def forward(self, lr: Tensor) -> Tensor:
        windows = functional.pixel_unshuffle(lr, 8)  # (B, 3·64, h/8, w/8)
        mixed = self.mix(windows.unflatten(1, (3, 64)).movedim(2, -1)).movedim(-1, 2)
        return functional.interpolate(
            functional.pixel_shuffle(mixed.flatten(1, 2), 8), scale_factor=2
        )


class Stripes(nn.Module):
    """Adds to each pixel the mean of its stripe of 64 rows; pads for that itself, as GRL does."""

    def forward(self, lr: Tensor) -> Tensor:
        height = lr.shape[-2]
        padded = functional.pad(lr, (0, 0, 0, -height % 64), mode="replicate")
        stripes = padded.unflatten(2, (-1, 64))
        mixed = (stripes + stripes.mean(dim=3, keepdim=True)).flatten(2, 3)
        return functional.interpolate(mixed[..., :height, :], scale_factor=2)


class Global(nn.Module):
    """Channel attention by the mean over the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, lr: Tensor) -> Tensor:
        features = self.conv(lr)
        return functional.interpolate(
            features * features.mean(dim=(2, 3), keepdim=True).sigmoid(), scale_factor=2
        )


def _generator(
    net: nn.Module, *, scale: int = 2, multiple_of: int = 1, min_size: int = 1
) -> Generator:
    spec = Spec(_target_=type(net).__name__, kwargs={})
    wrapped = Generator(net, scale=scale, spec=spec, multiple_of=multiple_of, min_size=min_size)
    return wrapped.eval()


def _image(height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("depth", [1, 4, 9])
def test_reach_of_convolutions_is_their_depth(depth: int) -> None:
    assert measure(_generator(Convolutions(depth))) == Reach(halo=depth)


def test_reach_beyond_the_longest_is_measured_by_effect() -> None:
    reach = measure(_generator(Convolutions(LONGEST + 4, width=3)))
    assert reach.exact  # random 3x3 convolutions with ReLU forget within a few layers
    assert reach.halo < LONGEST


def test_windows_fix_where_tiles_begin() -> None:
    reach = measure(_generator(Windows(), multiple_of=8))
    assert reach.exact
    assert reach.align % 8 == 0
    assert reach.halo >= 7


@pytest.mark.parametrize("shown", [True, False], ids=["exact", "far"])
def test_stripes_of_64_fix_where_tiles_begin(shown: bool) -> None:
    """As GRL has; at multiples of 32, which suit windows, 0.13 and 0.006 were wrong."""
    far = () if shown else (Convolutions(64, scale=1, width=3),)  # its reach ends nowhere
    generator = _generator(nn.Sequential(*far, Stripes()))
    reach = measure(generator)
    assert (reach.exact, reach.align) == (shown, 64)
    lr = _image(300, 20)
    with torch.no_grad():
        tiled = upscale_tiled(generator, lr, tile=40, halo=reach)
        torch.testing.assert_close(tiled, generator(lr), rtol=0, atol=1e-5 if shown else 2e-3)


def test_a_global_network_is_not_called_exact() -> None:
    assert not measure(_generator(Global())).exact


def test_a_network_that_sees_the_size_is_not_called_exact() -> None:
    class Sized(nn.Module):
        def forward(self, lr: Tensor) -> Tensor:
            return functional.interpolate(lr * (lr.shape[-2] / 256), scale_factor=2)

    assert not measure(_generator(Sized())).exact


def test_measuring_leaves_mode_and_gradients_alone() -> None:
    generator = _generator(Convolutions(2)).train()
    measure(generator)
    assert generator.training
    assert all(parameter.grad is None for parameter in generator.parameters())


def _trained(net: EDSRLite) -> EDSRLite:
    """Its tail starts at zero: a fresh one is bicubic, and its body would not be seen."""
    nn.init.normal_(net.tail.weight, std=0.05)
    return net


@pytest.mark.parametrize(
    ("net", "scale", "multiple_of"),
    [
        (lambda: Convolutions(5), 2, 1),
        (lambda: Convolutions(3, scale=3), 3, 4),
        (lambda: _trained(EDSRLite(scale=4, num_features=8, num_blocks=2)), 4, 1),
        (Windows, 2, 8),
    ],
    ids=["convolutions", "padded", "edsr_lite", "windows"],
)
@pytest.mark.parametrize("size", [(1, 1), (1, 70), (37, 53), (64, 65)])
@pytest.mark.parametrize("tile", [16, 23])
def test_tiles_equal_the_whole(
    net: type[nn.Module], scale: int, multiple_of: int, size: tuple[int, int], tile: int
) -> None:
    generator = _generator(net(), scale=scale, multiple_of=multiple_of)
    lr = _image(*size)
    with torch.no_grad():
        whole = generator(lr)
        tiled = upscale_tiled(generator, lr, tile=tile, halo=measure(generator))
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


def test_too_small_a_halo_is_visible_to_this_test() -> None:
    generator, lr = _generator(Convolutions(5)), _image(40, 40)
    with torch.no_grad():
        tiled = upscale_tiled(generator, lr, tile=16, halo=1)
        assert (tiled - generator(lr)).abs().max() > 1e-4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@pytest.mark.parametrize(
    ("target", "kwargs"),
    [
        ("SwinIR.SwinIR", {"upscale": 2, "window_size": 8, "img_size": 64, "depths": [2],
                           "embed_dim": 12, "num_heads": [2], "mlp_ratio": 2,
                           "upsampler": "pixelshuffledirect"}),
        ("SPAN.SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 8, "upscale": 2}),
        ("Compact.Compact", {"num_feat": 8, "num_conv": 4, "upscale": 2}),
    ],
    ids=["swinir", "span", "compact"],
)  # fmt: skip
def test_published_networks_tile_exactly(target: str, kwargs: dict[str, object]) -> None:
    spec = Spec(_target_=f"spandrel.architectures.{target}", kwargs=kwargs)
    generator = build_generator(spec, scale=2).eval()
    reach, lr = measure(generator), _image(90, 71)
    assert reach.exact
    with torch.no_grad():
        tiled, whole = upscale_tiled(generator, lr, tile=24, halo=reach), generator(lr)
    span = max(1.0, whole.abs().max().item())  # untrained SPAN gives up to 45
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5 * span)


def test_blending_reproduces_what_does_not_depend_on_the_tile() -> None:
    class Nearest(nn.Module):
        def forward(self, lr: Tensor) -> Tensor:
            return functional.interpolate(lr, scale_factor=2)

    lr = _image(50, 41)
    tiled = upscale_tiled(_generator(Nearest()), lr, tile=16, halo=Reach(6, exact=False))
    torch.testing.assert_close(tiled, functional.interpolate(lr, scale_factor=2))


def test_blending_has_no_seams() -> None:
    class PerTile(nn.Module):
        """Every tile has its own brightness: the worst case for seams."""

        def forward(self, lr: Tensor) -> Tensor:
            return functional.interpolate(lr * 0 + lr.mean(), scale_factor=2)

    ramp = torch.linspace(0, 1, 64).expand(1, 3, 20, 64)
    tiled = upscale_tiled(_generator(PerTile()), ramp, tile=16, halo=Reach(8, exact=False))
    # Pasted tiles would jump by about 1/4; blended over 32 output pixels a step is about 1/128.
    assert tiled.diff(dim=-1).abs().max() < 0.02


def test_what_a_window_shows_next_to_its_padding_hardly_counts() -> None:
    class Padded(nn.Module):
        """Right inside, black in the outermost pixel, as padding by zeros makes it."""

        def forward(self, lr: Tensor) -> Tensor:
            inner = torch.zeros_like(lr)
            inner[..., 1:-1, 1:-1] = lr[..., 1:-1, 1:-1]
            return functional.interpolate(inner, scale_factor=2)

    lr = torch.ones(1, 3, 20, 80)
    tiled = upscale_tiled(_generator(Padded()), lr, tile=16, halo=Reach(8, exact=False))
    assert tiled[..., 8:-8, 8:-8].min() > 0.99  # 0.95 if the weights fell linearly


@pytest.mark.parametrize("length", [1, 5, 16, 17, 100])
@pytest.mark.parametrize("tile", [4, 16, 33])
@pytest.mark.parametrize(("halo", "align", "smallest"), [(0, 1, 1), (3, 4, 16), (9, 8, 1)])
def test_spans_cover_once_with_room(
    length: int, tile: int, halo: int, align: int, smallest: int
) -> None:
    found = spans(length, tile=tile, reach=Reach(halo, align), smallest=smallest)
    assert [position for s in found for position in range(s.start, s.stop)] == list(range(length))
    for span in found:
        assert span.left % align == 0
        assert span.right % align == 0 or span.right == length
        assert span.left <= max(0, span.start - halo)
        assert span.right >= min(length, span.stop + halo)
        assert span.right - span.left >= min(smallest, length)


def test_misuse_is_named() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        upscale_tiled(_generator(Global()), _image(4, 4), tile=0, halo=0)
    with pytest.raises(ValueError, match="float"):
        upscale_tiled(_generator(Global()), _image(4, 4).byte(), tile=4, halo=0)
