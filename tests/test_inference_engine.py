"""Which tiles, how many at once, in what precision; and how much is held of a large image."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from srtrain.errors import ConfigError
from srtrain.inference import engine
from srtrain.inference.engine import Engine
from srtrain.inference.forward import Forward, pick_precision
from srtrain.inference.memory import bytes_per_pixel
from srtrain.inference.upscaler import Upscaler
from srtrain.networks.generator import Generator
from srtrain.networks.spec import Spec
from tests.upscaling import smooth, tiny_generator

MB = 2**20


def _engine(tile: int | None = None) -> Engine:
    return Engine(tiny_generator(), precision=torch.float32, tile=tile)


def _windows(found: Engine, lr: Tensor) -> list[tuple[int, ...]]:
    seen: list[tuple[int, ...]] = []
    generator = found.generator
    with generator.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape))):
        found.whole(lr)
    return seen


@pytest.fixture(params=[100 * MB, 8 * MB, 0])
def free(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(engine, "available", lambda _: request.param)
    return request.param


def test_tiles_fit_the_free_memory(free: int) -> None:
    found = _engine()
    needed = bytes_per_pixel(found.forward) + engine._BEYOND_TENSORS
    assert found.reach.exact
    assert found.together(8, 8) > 0  # both are measured now, and only windows seen below
    largest = max(h * w for _, _, h, w in _windows(found, torch.rand(1, 3, 300, 300)))
    assert largest * needed <= max(
        free / 2, (engine._SMALLEST + 2 * found.reach.halo) ** 2 * needed
    )
    assert found.tile is not None
    assert found.tile <= engine._LARGEST["cpu"]


def test_small_images_are_not_cut_and_nothing_is_measured_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "bytes_per_pixel", lambda _: pytest.fail("was measured"))
    monkeypatch.setattr(engine, "measure", lambda _: pytest.fail("was measured"))
    assert _windows(_engine(), torch.rand(1, 3, 64, 40)) == [(1, 3, 64, 40)]
    assert _windows(_engine(0), torch.rand(1, 3, 300, 40)) == [(1, 3, 300, 40)]


def test_a_whole_image_is_one_tile_and_finished_once() -> None:
    lr, seen = torch.rand(1, 3, 20, 30), []
    found = _engine().whole(lr, on_tile=lambda: seen.append("tile"), finish=lambda sr: 1 - sr)
    assert seen == ["tile"]
    assert torch.equal(found, 1 - _engine().whole(lr))


@pytest.mark.parametrize("shape", [(1, 3, 0, 5), (1, 3, 5, 0), (0, 3, 5, 5), (1, 3, 0, 300)])
def test_what_has_no_pixels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="has no pixels"):
        _engine().whole(torch.rand(shape))


def test_tiles_of_one_shape_are_computed_together() -> None:
    found = _engine(64)
    side = 64 + 2 * found.reach.halo
    seen = _windows(found, torch.rand(1, 3, 16, 6 * 64))
    assert sum(shape[0] for shape in seen) == 6
    assert max(shape[0] for shape in seen) == 4 == side**2 // (16 * side)


@pytest.mark.parametrize(("size", "tile", "count"), [
    ((16, 16), None, 64), ((48, 48), None, 7), ((128, 128), None, 1), ((129, 129), None, 1),
    ((300, 4), None, 1), ((16, 16), 32, 4), ((40, 8), 32, 1), ((16, 16), 0, 64),
])  # fmt: skip
def test_how_many_small_images_at_once(size: tuple[int, int], tile: int | None, count: int) -> None:
    assert _engine(tile).together(*size) == count


def test_memory_of_a_network_is_what_lives_at_the_same_time() -> None:
    class Known(nn.Module):
        """Four channels of float32, then eight while those live, then eight in place."""

        def forward(self, lr: Tensor) -> Tensor:
            four = lr[:, :1].repeat(1, 4, 1, 1)
            eight = torch.cat([four, four], dim=1)
            del four
            return torch.relu(eight[:, :3]).clamp_(max=1)

    assert bytes_per_pixel(Known()) == 4 * (4 + 8)


def test_half_precision_stays_within_a_level_or_two() -> None:
    levels = smooth(40, 40)
    exact = Upscaler(tiny_generator(), precision="fp32").upscale(levels).astype(int)
    half = Upscaler(tiny_generator(), precision="bf16").upscale(levels)
    assert half.dtype == np.uint8
    assert 0 < np.abs(half - exact).max() <= 2


def test_precision_is_chosen_by_device() -> None:
    assert pick_precision("auto", torch.device("cpu")) is torch.float32
    assert pick_precision("fp16", torch.device("cpu")) is torch.float16
    with pytest.raises(ConfigError, match="auto, fp32, bf16 or fp16"):
        pick_precision("fp8", torch.device("cpu"))


def test_a_network_that_refuses_channels_last_gets_the_usual_order() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, lr: Tensor) -> Tensor:
            batch, _, height, width = lr.shape
            features = self.conv(lr).view(batch, -1, height * width)
            return features[:, :3].view(batch, 3, height, width)

    generator = Generator(Views(), scale=1, spec=Spec(_target_="Views", kwargs={})).eval()
    lr = torch.rand(2, 3, 9, 7)
    with torch.no_grad():
        want = generator(lr)
        torch.testing.assert_close(Forward(generator)(lr), want)


LARGE = """
import json, sys
from pathlib import Path
import numpy as np, torch
from PIL import Image
from torch.nn import functional
from srtrain.images import image_size
from srtrain.inference.jobs import Job
from srtrain.inference.run import run
from srtrain.inference.upscaler import Upscaler
from srtrain.networks.generator import Generator
from srtrain.networks.spec import Spec

class Nearest(torch.nn.Module):
    def forward(self, lr):
        return functional.interpolate(lr, scale_factor=4)

def used(what):
    return int(Path("/proc/self/status").read_text().split(what + ":")[1].split()[0]) / 1024

torch.set_num_threads(1)
folder = Path(sys.argv[1])
rows = np.arange(2500)[:, None] // 50 + np.arange(2500) // 40
Image.fromarray(np.stack([rows % 256] * 3, -1).astype(np.uint8)).save(folder / "x.png")
upscaler = Upscaler(Generator(Nearest(), scale=4, spec=Spec(_target_="", kwargs={})).eval())
upscaler.upscale(np.zeros((8, 8, 3), np.uint8))
del rows
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
before = used("VmRSS")
(outcome,) = run(upscaler, [Job(folder / "x.png", folder / "y.png")])
peak = used("VmHWM") - before
print(json.dumps([outcome.failure, image_size(folder / "y.png"), peak]))
"""


@pytest.mark.slow
def test_100_megapixels_stay_within_1500_megabytes(tmp_path: Path) -> None:
    """All that the process holds beside the loaded model, the decoded input included."""
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(tmp_path)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    failure, size, peak = json.loads(done.stdout)
    assert failure is None
    assert size == [10_000, 10_000]
    assert 10 < peak < 1500
