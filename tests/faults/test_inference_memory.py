"""Little memory while images are made larger: smaller tiles, the same pixels."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from srtrain.images import Picture
from srtrain.inference import tiling
from srtrain.inference.jobs import Job
from srtrain.inference.run import run
from srtrain.inference.upscaler import Upscaler
from tests.forks import grow_at_most
from tests.upscaling import smooth, tiny_generator, touch


def _only(pixels: int, forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., object]:
    def small_memory(image: torch.Tensor) -> torch.Tensor:
        if image.shape[-1] * image.shape[-2] > pixels:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(image)

    return small_memory


def test_out_of_memory_halves_the_tile(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The result is bit for bit what that tile gives from the start."""
    generator = tiny_generator()
    forward = generator.net.forward
    lr = torch.rand(1, 3, 100, 90)
    expected = Upscaler(generator, tile=50).upscale_tensor(lr)
    whole = Upscaler(generator, tile=0).upscale_tensor(lr)
    monkeypatch.setattr(generator.net, "forward", _only(32 * 192, forward))
    upscaler = Upscaler(generator, tile=0)
    assert torch.equal(upscaler.upscale_tensor(lr), expected)
    torch.testing.assert_close(expected, whole, rtol=0, atol=1e-5)
    assert upscaler.tile == 50
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory: continuing with tiles of 50 pixels"
    ]
    monkeypatch.setattr(generator.net, "forward", _only(0, forward))
    with pytest.raises(torch.OutOfMemoryError):
        upscaler.upscale_tensor(lr)


def test_memory_that_runs_out_in_the_midst_leaves_no_stale_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some tiles are done when it happens: all are made again."""
    generator = tiny_generator()
    upscaler = Upscaler(generator, tile=48)
    expected = Upscaler(generator, tile=24).upscale_tensor(lr := torch.rand(1, 3, 96, 96))
    paste, calls = tiling._paste, []

    def fails_once(*arguments: Any) -> torch.Tensor:  # noqa: ANN401 - passed on
        calls.append(arguments)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return paste(*arguments)

    monkeypatch.setattr(tiling, "_paste", fails_once)
    assert torch.equal(upscaler.upscale_tensor(lr), expected)


def test_an_image_that_never_fits_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = tiny_generator()
    Image.fromarray(smooth(40, 40)).save(tmp_path / "large.png")
    touch(tmp_path, "small.png")
    monkeypatch.setattr(generator.net, "forward", _only(100, generator.net.forward))
    names = ("large.png", "small.png")
    jobs = [Job(tmp_path / name, tmp_path / "out" / name) for name in names]
    large, small = run(Upscaler(generator), jobs)
    assert large.failure is not None
    assert "out of memory" in large.failure
    assert small.failure is None


def test_of_a_large_image_little_more_is_held_than_its_pixels() -> None:
    """8 megapixels, 24 MB, come out of a fork that may grow by 150; as floats they would take 94,
    and as much again at each operation."""
    picture = Picture(smooth(1400, 1400))
    upscaler = Upscaler(tiny_generator(), tile=128)
    assert upscaler.reach.exact
    child = os.fork()
    if child == 0:
        grow_at_most(150)
        try:
            larger = upscaler.upscale_picture(picture)
        except BaseException:
            os._exit(1)
        os._exit(0 if larger.size == (2800, 2800) else 2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
