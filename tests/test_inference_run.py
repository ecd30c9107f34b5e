"""Many files at once: decoded, computed and encoded by threads, told in order."""

from __future__ import annotations

import itertools
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from srtrain.images import Picture, Sheet, read_picture
from srtrain.inference import run as running
from srtrain.inference import threads
from srtrain.inference.forward import Forward
from srtrain.inference.jobs import Job
from srtrain.inference.pipe import BrokenOffError, Pipe
from srtrain.inference.run import run
from srtrain.inference.upscaler import Upscaler
from tests.upscaling import smooth, tiny_generator

if TYPE_CHECKING:
    from srtrain.images.writing import Put


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.fixture(params=[1, 4], ids=["1 encoder", "4 encoders"], autouse=True)
def encoders(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """As on two cores, and as beside a GPU."""
    count: int = request.param
    monkeypatch.setattr(running, "_encoders", lambda _: count)
    return count


def _jobs(folder: Path, *sizes: tuple[int, int], suffix: str = "png") -> list[Job]:
    jobs = []
    for number, size in enumerate(sizes):
        source = folder / f"{number}.{suffix}"
        Image.fromarray(np.roll(smooth(*size), number, axis=0)).save(source)
        jobs.append(Job(source, folder / "out" / source.name))
    return jobs


def _watched(upscaler: Upscaler) -> list[tuple[int, ...]]:
    """Shapes that the network has seen since."""
    upscaler.at_once(Picture(smooth(8, 8)))  # measures the memory it needs
    seen: list[tuple[int, ...]] = []
    upscaler.generator.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    return seen


def test_small_images_of_a_kind_are_computed_together(tmp_path: Path) -> None:
    jobs = _jobs(tmp_path, (8, 9), (8, 9), (8, 9), (9, 8), (8, 9), (300, 8))
    upscaler = Upscaler(tiny_generator())
    seen = _watched(upscaler)
    outcomes = list(run(upscaler, jobs))
    assert [outcome.failure for outcome in outcomes] == [None] * 6
    assert [outcome.job for outcome in outcomes] == jobs
    assert [shape[0] for shape in seen[:3]] == [3, 1, 1]
    for job in jobs:
        want = upscaler.upscale_picture(read_picture(job.source)).pixels.astype(int)
        difference = np.abs(read_picture(job.target).pixels - want)
        assert difference.max() <= 1  # a tie may round either way
        assert difference.mean() < 1e-3


def test_of_images_computed_together_only_the_bad_one_fails(tmp_path: Path) -> None:
    jobs = _jobs(tmp_path, (8, 8), (8, 8), (8, 8))
    Image.new("RGB", (8, 8)).save(jobs[1].source)
    generator = tiny_generator()
    forward = generator.net.forward

    def no_black(lr: torch.Tensor) -> torch.Tensor:
        dark = lr.amax(dim=(1, 2, 3), keepdim=True) == 0
        return torch.where(dark, torch.nan, forward(lr))

    generator.net.forward = no_black  # type: ignore[method-assign]
    failures = [outcome.failure for outcome in run(Upscaler(generator), jobs)]
    assert [failure is None for failure in failures] == [True, False, True]
    assert "NaN" in str(failures[1])
    assert [job.target.exists() for job in jobs] == [True, False, True]


def test_rows_are_encoded_while_the_rest_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that holds one strip: when the fifth of ten is being made, the third was fetched."""
    monkeypatch.setattr(running, "_AHEAD", 1)
    (job,) = _jobs(tmp_path, (160, 20))
    upscaler = Upscaler(tiny_generator(), tile=16)
    fetched: list[int] = []
    at_tile: list[int] = []
    write = running.write_strips

    def watched(path: Path, sheet: Sheet, strips: Iterable[np.ndarray], *, put: Put) -> None:
        def noted() -> Iterator[np.ndarray]:
            for strip in strips:
                fetched.append(len(strip))
                yield strip

        write(path, sheet, noted(), put=put)

    monkeypatch.setattr(running, "write_strips", watched)
    found = list(run(upscaler, [job], on_tile=lambda: at_tile.append(len(fetched))))
    assert [outcome.failure for outcome in found] == [None]
    assert fetched == [32] * 10
    # Two columns a row of tiles; one strip may lie in the pipe, one may wait to be put.
    assert all(count >= number // 2 - 2 for number, count in enumerate(at_tile))
    whole = Upscaler(upscaler.generator, tile=0).upscale_picture(read_picture(job.source)).pixels
    assert np.abs(read_picture(job.target).pixels.astype(int) - whole).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "bmp"])
@pytest.mark.parametrize("breaks", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_no_torso_and_no_thread(
    tmp_path: Path, suffix: str, breaks: type[BaseException]
) -> None:
    jobs = _jobs(tmp_path, *[(64, 40)] * 4, suffix=suffix)
    upscaler = Upscaler(tiny_generator(), tile=16)
    tiles = itertools.count()

    def on_tile() -> None:
        if next(tiles) == 16:  # in the midst of the second image
            assert _appears(jobs[0].target)
            raise breaks

    with pytest.raises(breaks):
        list(run(upscaler, jobs, on_tile=on_tile))
    made = {path.name for path in (tmp_path / "out").glob("*")}
    assert made == {jobs[0].target.name}


@pytest.mark.parametrize(("limit", "failure"), [("1e9", None), ("all", "SRTRAIN_MAX_PIXELS")])
def test_the_size_limit_is_a_number(
    limit: str, failure: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = _jobs(tmp_path, (8, 9))
    monkeypatch.setenv("SRTRAIN_MAX_PIXELS", limit)
    outcome = next(run(Upscaler(tiny_generator()), jobs))
    assert (failure or "None") in str(outcome.failure)


def test_what_nobody_foresaw_in_the_decoder_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path) -> int:
        raise ZeroDivisionError(path.name)

    monkeypatch.setattr("srtrain.inference.threads.pixels_in", broken)
    with pytest.raises(ZeroDivisionError, match=r"0\.png"):
        list(run(Upscaler(tiny_generator()), _jobs(tmp_path, (8, 9))))


def test_who_stops_listening_ends_the_run(tmp_path: Path) -> None:
    jobs = _jobs(tmp_path, *[(40, 40)] * 6)
    tiles = itertools.count()

    def on_tile() -> None:
        """The encoders keep up: each image is begun after the last one is there."""
        done = next(tiles) // 9  # images
        assert not done or _appears(jobs[done - 1].target)

    outcomes = run(Upscaler(tiny_generator(), tile=16), jobs, on_tile=on_tile)
    assert next(outcomes).failure is None
    outcomes.close()  # type: ignore[attr-defined]
    assert not list((tmp_path / "out").glob(".*"))
    assert not jobs[-1].target.exists()


def test_files_wait_for_the_disk_together_and_then_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is on disk before the first of them is renamed."""
    monkeypatch.setattr(threads, "TOGETHER_S", 1e9)
    monkeypatch.setattr(Pipe, "is_empty", lambda _: False)  # more is to be written, always
    jobs = _jobs(tmp_path, *[(8, 8 + number) for number in range(6)])
    told: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        told.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        told.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    for outcome in run(Upscaler(tiny_generator()), jobs):
        assert outcome.failure is None
        assert read_picture(outcome.job.target).size == (16, 2 * (8 + int(outcome.job.source.stem)))
    assert told == ["file"] * 6 + ["rename"] * 6 + ["folder"]
    assert not list((tmp_path / "out").glob(".*"))


def test_files_appear_when_nothing_else_is_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "TOGETHER_S", 1e9)
    jobs = _jobs(tmp_path, *[(40, 40)] * 4)
    upscaler, forward, seen = Upscaler(tiny_generator(), tile=32), Forward.__call__, []

    def waits(self: Forward, windows: torch.Tensor) -> torch.Tensor:
        done = len(seen) // 2 - 1  # two rows of tiles an image
        seen.append(done < 0 or _appears(jobs[done].target))
        return forward(self, windows)

    monkeypatch.setattr(Forward, "__call__", waits)
    assert [outcome.failure for outcome in run(upscaler, jobs)] == [None] * 4
    assert seen == [True] * 8


def test_a_file_does_not_wait_for_one_that_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though that lay in the queue when the first was written."""
    monkeypatch.setattr(threads, "TOGETHER_S", 1e9)
    queued, seen, write = threading.Event(), threading.Event(), threads.Encoding._write

    def lingers(self: threads.Encoding, number: int, task: threads.Write) -> None:
        write(self, number, task)
        time.sleep(0.1)  # until the placer has seen that something lies in the queue

    monkeypatch.setattr(threads.Encoding, "_write", lingers)

    def quick(put: Put) -> None:
        queued.wait(10)
        put(tmp_path / "quick", b"x")

    def slow(put: Put) -> None:
        seen.wait(10)
        put(tmp_path / "slow", b"x")

    with threads.Encoding(1) as encoding:
        encoding.submit(0, quick, 0)
        encoding.submit(1, slow, 0)
        queued.set()
        appears = _appears(tmp_path / "quick")
        seen.set()
    assert appears
    assert (tmp_path / "slow").exists()


def _appears(path: Path) -> bool:
    for _ in range(500):
        if path.exists():
            return True
        time.sleep(0.01)
    return False


def test_a_file_that_does_not_reach_the_disk_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = _jobs(tmp_path, (8, 8), (8, 9), (8, 10))
    jobs[1].target.mkdir(parents=True)  # no file can be renamed to it
    failures = [outcome.failure for outcome in run(Upscaler(tiny_generator()), jobs)]
    assert [failure is None for failure in failures] == [True, False, True]
    assert str(failures[1]).startswith("cannot write: ")
    assert str(failures[1]).endswith(f" · {jobs[1].target}")
    assert not list((tmp_path / "out").glob(".*"))


def test_memory_that_ends_in_the_midst_begins_the_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = _jobs(tmp_path, (96, 40))
    generator = tiny_generator()
    expected = Upscaler(generator, tile=24).upscale_picture(read_picture(job.source)).pixels
    upscaler, forward, calls = Upscaler(generator, tile=48), generator.net.forward, []

    def ends_once(lr: torch.Tensor) -> torch.Tensor:
        calls.append(lr.shape)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(lr)

    assert upscaler.reach.exact
    monkeypatch.setattr(generator.net, "forward", ends_once)
    assert [outcome.failure for outcome in run(upscaler, [job])] == [None]
    np.testing.assert_array_equal(read_picture(job.target).pixels, expected)
    assert upscaler.tile == 24
    assert [path.name for path in job.target.parent.iterdir()] == [job.target.name]


def test_a_pipe_holds_what_it_has_room_for_and_either_end_can_leave() -> None:
    pipe: Pipe[int] = Pipe(10)
    pipe.put(1, 100)  # an empty one takes anything
    waits = threading.Thread(target=pipe.put, args=(2, 1))
    waits.start()
    assert waits.is_alive()
    items = iter(pipe)
    assert next(items) == 1
    waits.join(10)
    pipe.put(3, 9)
    pipe.end()
    assert list(items) == [2, 3]
    pipe.break_off()
    with pytest.raises(BrokenOffError):
        pipe.put(4, 1)
    with pytest.raises(BrokenOffError):
        next(iter(pipe))


_encoders = running._encoders


@pytest.mark.parametrize(
    ("device", "threads", "cpus", "expected"),
    [
        ("cpu", 1, 1, 1),
        ("cpu", 1, 2, 1),
        ("cpu", 2, 2, 1),
        ("cpu", 8, 8, 3),
        ("cpu", 64, 64, 4),
        ("cpu", 1, 64, 4),
        ("cuda", 1, 2, 4),
    ],
)
def test_encoders_do_not_take_turns_with_a_network_on_few_cores(
    device: str, threads: int, cpus: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(running, "cpus", lambda: cpus)
    upscaler: Any = SimpleNamespace(device=torch.device(device))
    assert _encoders(upscaler) == expected
