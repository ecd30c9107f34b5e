"""What flows make of the same photo, seed by seed: written as PNG, and measured as models are."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from srtrain.batch import to_float
from srtrain.cli.evaluate.sets import open_sets
from srtrain.cli.tradeoff.arms import measures
from srtrain.degradation.resize import Bicubic
from srtrain.errors import ConfigError, StorageError
from srtrain.files import read_json, sha256_of, write_json
from srtrain.images import Picture, read_rgb8, to_uint8, write_picture
from srtrain.inference.sampling import Sampling
from srtrain.inference.upscaler import Upscaler, pick_device
from srtrain.networks.flow import Flow
from srtrain.networks.loading import load_generator
from srtrain.networks.storage import resolve

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from srtrain.cli.evaluate.sets import DataSet, Item
    from srtrain.cli.tradeoff.arms import Arm
    from srtrain.images.picture import Pixels
    from srtrain.networks.generator import Generator

SEED = 0  # whose sample 0 is the flow's own answer


@dataclass(frozen=True)
class Sampled:
    """The samples of one flow: ``folder``/sampleK/SET/IMAGE.png, 0 … ``count`` - 1, and a mean."""

    name: str
    folder: Path
    count: int

    def part(self, number: int | Literal["mean"]) -> Path:
        """The folder of a sample, or of the mean."""
        return self.folder / (f"mean_of_{self.count}" if number == "mean" else f"sample{number}")

    def path(self, number: int | Literal["mean"], data: str, image: str) -> Path:
        """The file of an image."""
        return self.part(number) / data / f"{image}.png"

    @property
    def mean_name(self) -> str:
        """What the mean is called in figures and tables."""
        return f"{self.name}, mean of {self.count}"

    def title(self, number: int) -> str:
        """What a sample is called."""
        return f"{self.name}, sample {number}"


def make_samples(
    options: argparse.Namespace, arms: Sequence[Arm], *, scale: int
) -> dict[str, Sampled]:
    """NAME → samples, of the arms that are flows; what is written already is not made again.

    Raises: ConfigError where the samples of another checkpoint lie; SrtrainError as reading does.
    """
    sets = open_sets(options.data, scale=scale)
    found: dict[str, Sampled] = {}
    for arm, generator, one in _claimed(options, arms, sets):
        asked = Sampling(options.samples, SEED, options.sample_steps)
        device = pick_device(options.device or "auto")
        model = Upscaler(generator, device=device, sampling=asked, precision="fp32")
        for data in sets:
            for item in data.items:
                if _missing(one, data.name, item):
                    print(f"{'samples':<11} {arm.name}: {item.name}", flush=True)
                    _make(one, model, data.name, item, scale=scale)
        found[arm.name] = one
    return found


def claim_samples(options: argparse.Namespace, arms: Sequence[Arm], *, scale: int) -> int:
    """Before anything is measured anew: the samples that lie there are those asked for. Always 0.

    Raises: ConfigError where those of another checkpoint lie; SrtrainError as reading does.
    """
    for _ in _claimed(options, arms, open_sets(options.data, scale=scale)):
        pass
    return 0


def _claimed(
    options: argparse.Namespace, arms: Sequence[Arm], sets: Sequence[DataSet]
) -> Iterator[tuple[Arm, Generator, Sampled]]:
    """The arms that are flows."""
    for arm in arms:
        generator = load_generator(arm.folder, trust=options.trust)
        if isinstance(generator.net, Flow):
            one = Sampled(arm.name, options.output / "samples" / arm.name, options.samples)
            _claim(one, resolve(arm.folder), options.sample_steps or generator.net.steps, sets)
            yield arm, generator, one


def _claim(one: Sampled, checkpoint: Path, steps: int, sets: Sequence[DataSet]) -> None:
    """What lies there is of this checkpoint, so many steps, and these photos.

    Raises: ConfigError, StorageError.
    """
    record = one.folder / "made_of.json"
    images = {f"{data.name}/{item.name}": item.digest for data in sets for item in data.items}
    asked = {"checkpoint": sha256_of(checkpoint), "seed": SEED, "steps": steps}
    try:
        before: dict[str, Any] = {**asked, "images": {}}
        if record.exists():
            before = dict(read_json(record))
        kept = dict(before.pop("images"))
        if before != asked or any(images.get(k, v) != v for k, v in kept.items()):
            what = "holds the samples of another checkpoint, of other steps, or of other photos"
            raise ConfigError(what, where=str(one.folder), fix="another -o, or remove the folder")
        one.folder.mkdir(parents=True, exist_ok=True)
        write_json(record, {**asked, "images": {**kept, **images}})
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = "another -o, or remove the folder"
        raise StorageError(f"cannot be used: {error}", where=str(record), fix=fix) from error


def _missing(one: Sampled, data: str, item: Item) -> bool:
    paths = [one.path(number, data, item.name) for number in range(one.count)]
    return not all(path.is_file() for path in (*paths, one.path("mean", data, item.name)))


def _make(one: Sampled, model: Upscaler, data: str, item: Item, *, scale: int) -> None:
    """Write the samples that are not there, and their mean: of the images as they are written."""
    lr = lr_of(item, scale=scale).to(model.device)
    total = np.zeros((*item.size, 3))
    for number, sample in enumerate(model.samples(lr)):
        path = one.path(number, data, item.name)
        if not path.is_file():
            write_picture(path, Picture(to_uint8(sample[0].cpu())))
        total += read_rgb8(path)
    mean = np.floor(total / one.count + 0.5).astype(np.uint8)
    if not (path := one.path("mean", data, item.name)).is_file():
        write_picture(path, Picture(mean))


def lr_of(item: Item, *, scale: int) -> Tensor:
    """Of an image as it is measured. Shapes: -> (1, 3, h, w) in [0, 1]."""
    if item.lr is not None:
        return _unit(read_rgb8(item.lr))
    lr: Tensor = Bicubic(scale=scale)(hr_of(item), None)
    return lr


def hr_of(item: Item) -> Tensor:
    """Cut to a multiple of the scale. Shapes: -> (1, 3, H, W) in [0, 1]."""
    return _unit(hr_levels(item))


def hr_levels(item: Item) -> Pixels:
    """Shapes: -> (H, W, 3)."""
    height, width = item.size
    return read_rgb8(item.hr)[:height, :width]


def _unit(levels: Pixels) -> Tensor:
    return to_float(torch.from_numpy(np.ascontiguousarray(levels)).permute(2, 0, 1)[None])


def measure_samples(options: argparse.Namespace, sampled: Sequence[Sampled], *, scale: int) -> int:
    """By the protocol of all; the table of so many models is not printed. The exit code."""
    if not sampled:
        return 0
    from srtrain.cli.evaluate.main import main as evaluate

    words = []
    for one in sampled:
        words += [f"{one.title(k)}={one.part(k)}" for k in range(one.count)]
        words.append(f"{one.mean_name}={one.part('mean')}")
    words += [
        *measures(options, scale=scale),
        *("--no-report", "--no-bicubic", "--overwrite"),
        *("-o", str(place_of_figures(options.output))),
    ]
    print(f"{'samples':<11} are measured", flush=True)
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluate(words)


def place_of_figures(output: Path) -> Path:
    """Where the samples' ``results.json`` is."""
    return output / "samples_evaluation"
