"""What a sample depends on: its seed and number, the image and the steps; nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from srtrain.cli.tiled import in_tiles
from srtrain.errors import ConfigError
from srtrain.inference import flow_engine
from srtrain.inference.flow_engine import FlowEngine
from srtrain.inference.receptive import Reach
from srtrain.inference.sampling import Sampling
from srtrain.inference.spread import Spread
from srtrain.inference.upscaler import Upscaler
from srtrain.inference.velocity import AtMoment
from srtrain.networks.flow import Flow
from srtrain.networks.generator import Generator
from srtrain.rng import noise_field
from tests.flows import moving
from tests.upscaling import smooth, tiny_generator

SOURCES = pytest.mark.parametrize("source", ["mean", "noise", "condition"])
THREE = Sampling(3, seed=1)


@cache
def flow(source: str) -> Generator:
    return moving(source)


def engine(source: str = "mean", tile: int | None = None) -> FlowEngine:
    return FlowEngine(flow(source), precision=torch.float32, tile=tile)


def made(found: FlowEngine, lr: Tensor, asked: Sampling = THREE) -> Tensor:
    return torch.cat(list(found.sample(lr, asked)))


def image(height: int = 40, width: int = 27) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, atol=1e-5, rtol=0)


@SOURCES
@torch.no_grad()
def test_samples_are_those_of_the_network(source: str) -> None:
    lr, net = image(), flow(source).net
    assert isinstance(net, Flow)
    for number, sample in enumerate(made(engine(source), lr)):
        close(sample[None], net.sample(lr, number=number, seed=1).clamp(0, 1))


@SOURCES
@pytest.mark.parametrize("count", [1, 3])
@torch.no_grad()
def test_all_images_of_a_step_have_one_order_in_memory(
    source: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Colours side by side, as convolutions take them: images of two orders are slow to mix."""
    begun: list[Tensor] = []

    def begin(of: Flow, *given: Tensor) -> tuple[Tensor, Tensor | None]:
        start, told = whole(of, *given)
        begun.extend([start] if told is None else [start, told])
        return start, told

    whole = Flow.begin
    monkeypatch.setattr(Flow, "begin", begin)
    for lr in (image(), image().contiguous(memory_format=torch.channels_last), image()[:, :1]):
        made(engine(source), lr, Sampling(count, steps=2))
    assert len(begun) == (6 if flow(source).net.condition != "none" else 3)
    assert {len(found) for found in begun} == {count}
    assert all(found.is_contiguous(memory_format=torch.channels_last) for found in begun)


@pytest.mark.parametrize(
    "asked", [Sampling(steps=2), Sampling(steps=2, sampler="heun"), Sampling(project=True)]
)
@torch.no_grad()
def test_what_is_asked_reaches_the_network(asked: Sampling) -> None:
    lr, net = image(16, 12), flow("noise").net
    assert isinstance(net, Flow)
    found = made(engine("noise", 8), lr, asked)
    close(found, net.sample(lr, **asked.how).clamp(0, 1))
    assert (found - made(engine("noise"), lr, Sampling())).abs().mean() > 0.001


@SOURCES
@pytest.mark.parametrize("tile", [8, 13, 32])
def test_tiles_leave_no_seams(source: str, tile: int) -> None:
    """And they are used, and matter: tiled anew in each step, every tile sees its neighbours."""
    tiles = 0

    def count() -> None:
        nonlocal tiles
        tiles += 1

    lr, whole = image(), made(engine(source, 0), image())
    parts = torch.cat(list(engine(source, tile).sample(lr, THREE, on_tile=count)))
    close(parts, whole)
    assert tiles >= 3 * 4 * -(-40 // tile) * -(-27 // tile)
    assert (whole[0] - whole[1]).abs().mean() > 0.05


def test_cut_images_would_show_seams() -> None:
    """What the tests above would miss if the flow did not move: halves made apart are others."""
    lr = image()
    whole = made(engine(), lr, Sampling(1))
    halves = [made(engine(), half.contiguous(), Sampling(1)) for half in lr.split(20, dim=-2)]
    assert (torch.cat(halves, dim=-2) - whole).abs().max() > 0.1


@SOURCES
def test_a_sample_knows_nothing_of_the_others(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lr, found = image(12, 10), engine(source)
    eight = made(found, lr, Sampling(8, seed=1))
    assert found.together(12, 10) >= 8  # one batch
    close(made(found, lr), eight[:3])
    monkeypatch.setattr(FlowEngine, "_at_once", lambda *_: 1)
    close(made(found, lr, Sampling(8, seed=1)), eight)
    assert (eight[0] - made(found, lr, Sampling(1, seed=2))[0]).abs().mean() > 0.05


def test_images_of_a_batch_are_those_of_each() -> None:
    batch = torch.cat([image(9, 7), image(9, 7).flip(-1)])
    together = list(engine().sample(batch, THREE))
    for row in (0, 1):
        alone = list(engine().sample(batch[row : row + 1], THREE))
        close(torch.cat([sample[row : row + 1] for sample in together]), torch.cat(alone))


def test_the_mean_is_asked_once() -> None:
    found = engine()
    assert found.mean is not None
    seen: list[int] = []
    with found.mean.generator.register_forward_hook(lambda *_: seen.append(1)):
        made(found, image())
    assert len(seen) == 1


def test_upscale_is_sample_0(monkeypatch: pytest.MonkeyPatch) -> None:
    lr = image()
    upscaler = Upscaler(flow("mean"), sampling=Sampling(seed=1))
    close(upscaler.upscale_tensor(lr), made(engine(), lr)[:1])
    monkeypatch.setattr(Upscaler, "strips", lambda *_: pytest.fail("a flow has no strips"))
    levels = upscaler.upscale(smooth(9, 8))
    assert np.array_equal(levels, upscaler.sample(smooth(9, 8), 1, seed=1)[0])


@pytest.mark.parametrize("tile", [512, 16])
def test_validation_tiles_velocities(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srtrain.cli.tiled.VELOCITY_TILE", tile)
    monkeypatch.setattr("srtrain.cli.tiled.VALIDATION_TILE", tile)
    with torch.no_grad():
        close(in_tiles(flow("mean"))(image()), flow("mean").raw(image()))


def test_reach_is_that_of_one_velocity() -> None:
    """In HR pixels, by hand: 1 + 2 before the stride, 1 for it, 4 below it, 1 + 1 for the way back,
    2 + 1 after it; and 1 for tiles that begin at even pixels."""
    generator = flow("noise")
    assert isinstance(generator.net, Flow)
    assert AtMoment(generator.net).reach() == Reach(14, align=2)
    assert engine("noise").reach == Reach(7, align=1)


# Memory --------------------------------------------------------------------------------------


def test_what_no_memory_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_engine, "available", lambda _: 100_000)
    with pytest.raises(MemoryError, match=r"^a sample of 54x80 pixels takes 0.0 GB"):
        made(engine(), image())


def test_fewer_at_once_where_memory_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lr, found = image(12, 10), engine()
    want = made(found, lr, Sampling(8))
    sample = found.flow.sample

    def small(rows: Tensor, **words: object) -> Tensor:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sample(rows, **words)  # type: ignore[arg-type]

    monkeypatch.setattr(found.flow, "sample", small)
    close(made(found, lr, Sampling(8)), want)
    assert "continuing with 2 samples at once" in caplog.text


def test_smaller_tiles_where_memory_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lr, found = image(), engine("noise")
    want, net = made(found, lr), found.velocity.generator
    assert found.reach.exact  # measured now, in strips that are longer
    raw = net.raw

    def small(x: Tensor) -> Tensor:
        if x.shape[-1] * x.shape[-2] > 50 * 50:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return raw(x)

    monkeypatch.setattr(net, "raw", small)
    close(made(found, lr), want)
    assert "continuing with tiles of " in caplog.text
    assert found.tile == 14  # of √(3 · 80 · 54) HR pixels together half and half again, in LR


def test_half_made_images_move_to_the_host(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the GPU has no room for them: velocities are made there all the same."""
    lr, found = image(12, 10), engine()
    want = made(found, lr)
    rooms = {"cuda": 1000, "cpu": 10**9}
    monkeypatch.setattr(flow_engine, "available", lambda place: rooms[place.type])
    found.device = torch.device("cuda")
    close(made(found, lr), want)
    assert "half-made images stay in the host's" in caplog.text


@pytest.mark.parametrize(("sampler", "calls"), [("euler", 5), ("heun", 10)])
def test_nothing_but_velocities(sampler: Literal["euler", "heun"], calls: int) -> None:
    """Eight small samples of five steps: as many passes as one sample takes."""
    found = engine("noise")
    assert found.together(12, 10) >= 8  # one pass measures the memory
    seen: list[int] = []
    with found.flow.velocity.register_forward_pre_hook(lambda _, given: seen.append(len(given[0]))):
        made(found, image(12, 10), Sampling(8, steps=5, sampler=sampler))
    assert seen == [8] * calls


# Of any kind ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_pil(mode: str) -> None:
    given = Image.fromarray(smooth(9, 8)).convert(mode)
    found = Upscaler(flow("mean")).sample(given, 2)
    assert [sample.size for sample in found] == [(16, 18)] * 2
    assert {sample.mode for sample in found} == {"RGB" if mode == "P" else mode}
    if "A" in mode:
        assert len({sample.getchannel("A").tobytes() for sample in found}) == 1
    assert len({sample.convert("L").tobytes() for sample in found}) == 2


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (9, 7, 2), (9, 7, 3), (9, 7, 4)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_arrays(shape: tuple[int, ...], kind: type[np.generic]) -> None:
    top = 1.0 if kind is np.float32 else np.iinfo(kind).max  # type: ignore[type-var]
    given = (np.random.default_rng(0).random(shape) * top).astype(kind)
    for sample in Upscaler(flow("noise")).sample(given, 2):
        assert sample.shape == (18, 14, *shape[2:])
        assert sample.dtype == kind
        assert 0.1 * top < sample.mean() < 0.9 * top


@pytest.mark.parametrize("shape", [(3, 9, 7), (1, 9, 7), (2, 3, 9, 7)])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64])
def test_tensors(shape: tuple[int, ...], kind: torch.dtype) -> None:
    given = torch.rand(shape)
    given = (given * 255).to(kind) if kind == torch.uint8 else given.to(kind)
    for sample in Upscaler(flow("mean")).sample(given, 2):
        assert sample.shape == (*shape[:-2], 18, 14)
        assert sample.dtype == kind


# Refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1.5, 2.0, "3", True])
@pytest.mark.parametrize("name", ["samples", "seed", "steps"])
def test_only_integers(name: str, value: object) -> None:
    words: Any = {name: value}
    with pytest.raises(TypeError, match=rf"^{name} must be an integer, not {value!r}$"):
        Sampling(**words)
    assert getattr(Sampling(**{name: np.int64(3)}), name) == 3


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: Sampling(0), r"^samples must be 1 or more · samples = 0 · 8 are usual$"),
        (
            lambda: Sampling(2, steps=0),
            r"^steps must be 1 or more · steps = 0 · 15 to 25 are usual$",
        ),
        (lambda: Sampling(10**12), r"^samples must be at most 10000 · samples = 1000000000000 · 8"),
        (lambda: Sampling(seed=-1), r"^seed must be 0 or more · seed = -1"),
        (lambda: Sampling(seed=2**64), r"^seed must be at most 18446744073709551615"),
        (lambda: Upscaler(tiny_generator()).sample(smooth(4, 4)), "EDSRLite predicts one image"),
        (lambda: Upscaler(tiny_generator(), sampling=Sampling()), "nothing to sample"),
        (lambda: Upscaler(tiny_generator()).samples(image()), "experiment=pmrf or posterior"),
        (lambda: Upscaler(flow("mean"), self_ensemble=True), "averages what was sampled"),
    ],
)
def test_refused(act: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        act()


# Spread --------------------------------------------------------------------------------------


def test_spread_is_numpy_s() -> None:
    samples = np.random.default_rng(0).random((5, 3, 6, 4), dtype=np.float32)
    spread = Spread()
    for sample in samples:
        spread.add(torch.from_numpy(sample)[None])
    want = 255 * samples.astype(np.float64).std(axis=0, ddof=1).mean(axis=0)
    np.testing.assert_allclose(spread.levels(), want, rtol=1e-5)
    np.testing.assert_allclose(spread.mean[0], samples.mean(axis=0), atol=1e-6)


def test_spread_of_offsets_is_exact() -> None:
    """Samples 0.25, 0.5 and 0.75 everywhere: √(2 · 0.25² / 2) = 0.25, by hand."""
    spread = Spread()
    for value in (0.25, 0.5, 0.75):
        spread.add(torch.full((1, 3, 2, 2), value))
    assert np.array_equal(spread.levels(), np.full((2, 2), 63.75, np.float32))
    alone = Spread()
    alone.add(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match="1 samples have no spread"):
        alone.levels()


def test_noise_is_that_of_the_field() -> None:
    """A velocity of zero leaves source + sigma · noise_field: sample k of seed s, by hand."""
    generator = moving("mean")
    assert isinstance(generator.net, Flow)
    for parameter in generator.net.velocity.parameters():
        parameter.data.zero_()
    found = FlowEngine(generator, precision=torch.float32)
    lr = image(8, 8)
    with torch.no_grad():
        mean = generator.net.frozen(lr).clamp(0, 1)
    noise = torch.from_numpy(noise_field(16, 16, seed=7, sample=2))
    close(made(found, lr, Sampling(3, seed=7))[2], (mean[0] + 0.3 * noise).clamp(0, 1))
