"""What it costs to build the cache of decoded images, and to read batches from it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image

from srtrain.cli.benchmark.child import cpu_seconds
from srtrain.cli.benchmark.options import positive
from srtrain.cli.benchmark.paired import in_turn
from srtrain.cli.benchmark.report import Arm, Report, Table
from srtrain.cli.benchmark.workload import SIDE, draw_pictures
from srtrain.data.ahead import AHEAD, Ahead
from srtrain.data.cache import open_images
from srtrain.data.crops import TrainingCrops
from srtrain.data.decoding import _write_at
from srtrain.data.parallel import parallel
from srtrain.data.resident import resident
from srtrain.data.sampler import EndlessBatches
from srtrain.data.sources import Folder
from srtrain.data.upload import Arriving, Upload
from srtrain.data.workers import EndlessLoader, _Batches
from srtrain.errors import ConfigError
from srtrain.images.heads import plain_size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from srtrain.data.imageset import ImageSet
    from srtrain.data.resident import Residence

DECODE, WRITE, BUILD = "decode alone", "decode, write to one file", "build the cache"
REOPEN = "open a known folder"
IN_LOOP = "in the loop"
QUALITY = 90  # of JPEGs
LEAST = 32  # pixels a side
DRAWN = 16  # different pictures; more are copies under other names
SCALE = 4
PATIENCE_S, POLL_S = 60.0, 1e-3  # with a loader that fills its queue
STEP_S = 0.01  # of a step that leaves the host alone, as a GPU's does


class Cost(NamedTuple):
    """Of one turn."""

    cpu_s: float  # with all processes
    wall_s: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """How much is decoded, how much is read."""
    parser.add_argument("--images", type=positive, default=320, help="PNGs that are decoded")
    parser.add_argument("--side", type=positive, default=SIDE, help="of the images, pixels")
    parser.add_argument("--jpeg", action="store_true", help="JPEGs instead of PNGs")
    parser.add_argument("--batches", type=positive, default=300, help="read in a turn")
    parser.add_argument("--waits", type=positive, default=50, help="steps whose batch is awaited")
    parser.add_argument("--batch", type=positive, default=16)
    parser.add_argument("--patch", type=positive, default=192, help="HR pixels")


def measure(options: argparse.Namespace) -> Report:
    """Decoding beside building; then every way to read batches of the same samples.

    Raises: ConfigError for images that are smaller than a patch, or too small to be drawn.
    """
    from srtrain.inference.upscaler import pick_device

    if options.side < LEAST:
        raise ConfigError(f"images have at least {LEAST}²", where=f"--side {options.side}")
    if options.patch > options.side:
        what = f"no patches of {options.patch}² from images of {options.side}²"
        raise ConfigError(what, where="--patch", fix=f"--patch {options.side} at most")
    device = pick_device(options.device)
    with tempfile.TemporaryDirectory(prefix="srtrain-benchmark-") as name:
        root = Path(name)
        photos = _photos(root, options)
        tables = _decoding(photos, root, options.rounds)
        images = open_images(Folder(photos), cache_dir=root / "cache", progress=False)
        tables += _reading(images, device, options)
    kind = "JPEGs" if options.jpeg else "PNGs"
    about = {"images": f"{options.images} {kind} of {options.side}²"}
    about |= {"batch": options.batch, "patch": options.patch}
    return Report("Decoding and reading", {**about, "device": device.type}, tables)


def _photos(root: Path, options: argparse.Namespace) -> Path:
    count, folder = options.images, root / "drawn"
    draw_pictures(folder, count=min(DRAWN, count), scale=SCALE, side=options.side)
    drawn = sorted((folder / "hr").iterdir())
    if options.jpeg:
        drawn = [_as_jpeg(path) for path in drawn]
    (root / "photos").mkdir()
    for number in range(count):
        path = root / "photos" / f"{number:05}{drawn[0].suffix}"
        path.hardlink_to(drawn[number % len(drawn)])
    return root / "photos"


def _as_jpeg(path: Path) -> Path:
    made = path.with_suffix(".jpg")
    with Image.open(path) as picture:
        picture.save(made, quality=QUALITY)
    return made


def _cost(work: Callable[[], object]) -> Cost:
    cpu, wall = cpu_seconds(os.getpid()), time.perf_counter()
    work()
    return Cost(cpu_seconds(os.getpid()) - cpu, time.perf_counter() - wall)


def _decoding(photos: Path, root: Path, rounds: int) -> list[Table]:
    """Loops around the fastest decoder, one of which writes; the build; and a second opening."""
    paths = sorted(photos.iterdir())
    cache, pixels = root / "cache", root / "pixels.u8"

    def each(work: Callable[[int], object]) -> None:
        for _ in parallel(work, range(len(paths)), title="", progress=False):
            pass

    def write() -> Cost:
        pixels.unlink(missing_ok=True)
        pixels.touch()
        return _cost(partial(each, partial(_write, paths, pixels)))

    def reopen() -> None:
        open_images(Folder(photos), cache_dir=cache, progress=False)

    def build() -> Cost:
        shutil.rmtree(cache, ignore_errors=True)
        return _cost(reopen)

    arms: dict[str, Callable[[], Cost]] = {
        DECODE: partial(_cost, partial(each, partial(_decode, paths))),
        WRITE: write,
        BUILD: build,
        REOPEN: partial(_cost, reopen),
    }
    costs = _turns(arms, rounds)
    pixels.unlink()
    count, all_ = len(paths), (DECODE, WRITE, BUILD)
    cpu = [Arm(name, [count / cost.cpu_s for cost in costs[name]]) for name in all_]
    wall = [Arm(name, [count / cost.wall_s for cost in costs[name]]) for name in all_]
    known = Arm(REOPEN, [1e3 * cost.cpu_s for cost in costs[REOPEN]])
    return [
        Table("From files to cache", "images a CPU-second", cpu, DECODE, "more"),
        Table("From files to cache, all cores", "images a second", wall, DECODE, "more"),
        Table("A known folder", "CPU-ms", [known]),
    ]


def _decode(paths: list[Path], index: int) -> None:
    _pixels(paths[index])


def _write(paths: list[Path], target: Path, index: int) -> None:
    """Nothing is hashed, checked, noted or synced: what a cache on the disk takes at least."""
    pixels = _pixels(paths[index])
    _write_at(target, index * pixels.nbytes, pixels.data.cast("B"))


def _pixels(path: Path) -> np.ndarray:
    from kornia_rs import io as fast

    content = path.read_bytes()
    if path.suffix == ".jpg":
        return np.asarray(fast.decode_image_jpegturbo(content, "rgb"))
    return np.asarray(fast.decode_image_png_u8(content, plain_size(content), "rgb"))


def _reading(images: ImageSet, device: torch.device, options: argparse.Namespace) -> list[Table]:
    arms = {
        IN_LOOP: _in_loop(images, options),
        "thread": _loader(images, device, options),
        "1 process": _loader(images, device, options, num_workers=1),
        "2 processes": _loader(images, device, options, num_workers=2),
        "thread, residence=ram": _loader(images, device, options, residence="ram"),
        "thread, residence=device": _loader(images, device, options, residence="device"),
    }
    read = {name: partial(_read, items, options.batches) for name, items in arms.items()}
    costs = _turns({name: partial(_cost, work) for name, work in read.items()}, options.rounds)
    samples = options.batches * options.batch
    rates = [
        Arm(name, [samples / cost.cpu_s for cost in found], f"{samples / wall:.0f} samples/s")
        for name, found in costs.items()
        for wall in [median(cost.wall_s for cost in found)]
    ]
    waits = in_turn(
        {name: partial(_wait, items, options.waits) for name, items in arms.items()}, options.rounds
    )
    waited = [Arm(name, [1e3 * wait for wait in found]) for name, found in waits.items()]
    return [
        Table("Batches from the cache", "samples a CPU-second", rates, IN_LOOP, "more"),
        Table(f"Waiting for the next, {1e3 * STEP_S:.0f} ms later", "ms", waited, IN_LOOP),
    ]


def _crops(
    images: ImageSet, device: torch.device, patch: int, residence: Residence = "disk"
) -> TrainingCrops:
    pixels = resident(images, residence, device)
    return TrainingCrops(images, hr_patch_size=patch, scale=SCALE, seed=0, pixels=pixels)


def _in_loop(images: ImageSet, options: argparse.Namespace) -> Iterator[object]:
    crops = _crops(images, torch.device("cpu"), options.patch)
    return map(crops.__getitems__, EndlessBatches(batch_size=options.batch))


def _loader(
    images: ImageSet,
    device: torch.device,
    options: argparse.Namespace,
    *,
    num_workers: int = 0,
    residence: Residence = "disk",
) -> Iterator[object]:
    return iter(
        EndlessLoader(
            _crops(images, device, options.patch, residence),
            EndlessBatches(batch_size=options.batch),
            num_workers=num_workers,
            upload=Upload(device) if device.type == "cuda" else None,
        )
    )


def _next(batches: Iterator[object]) -> None:
    batch = next(batches)
    if isinstance(batch, Arriving):
        batch.receive()
        torch.cuda.synchronize()


def _read(batches: Iterator[object], count: int) -> None:
    for _ in range(count):
        _next(batches)
    _fill(batches)


def _fill(batches: Iterator[object]) -> None:
    """Wait until all is prepared that may be.

    A turn that ends so pays for as many batches as it took, and prepares none in another's.
    """
    until = time.perf_counter() + PATIENCE_S
    while not _is_full(batches) and time.perf_counter() < until:
        time.sleep(POLL_S)


def _is_full(batches: Iterator[object]) -> bool:
    if isinstance(batches, Ahead):
        return batches._ready.qsize() == AHEAD
    if isinstance(batches, _Batches):  # each batch asked for lies in the queue from the processes
        waiting: int = batches._iterator._data_queue.qsize()
        asked_for: int = batches._iterator._tasks_outstanding
        return waiting == asked_for
    return True  # made when it is taken


def _wait(batches: Iterator[object], steps: int) -> float:
    waits = []
    for _ in range(steps):
        time.sleep(STEP_S)
        start = time.perf_counter()
        _next(batches)
        waits.append(time.perf_counter() - start)
    _fill(batches)
    return median(waits)


def _turns(arms: dict[str, Callable[[], Cost]], rounds: int) -> dict[str, list[Cost]]:
    """`in_turn` of arms whose cost is more than one number."""
    found: dict[str, list[Cost]] = {name: [] for name in arms}

    def turn(name: str) -> float:
        found[name].append(arms[name]())
        return 0.0

    in_turn({name: partial(turn, name) for name in arms}, rounds)
    return {name: costs[1:] for name, costs in found.items()}  # the first round is not measured
