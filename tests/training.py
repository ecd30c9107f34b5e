"""Tiny runs for the tests: a few steps of a two-block network on images drawn here."""

from __future__ import annotations

import shutil
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from srtrain.cli.main import main
from srtrain.networks.storage import read_checkpoint
from srtrain.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Iterator


def draw_images(folder: Path, *, count: int, size: int, first: int = 0) -> Path:
    """Smooth random fields with an edge, as PNG; ``first`` numbers the first of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(first, first + count):
        rng = np.random.default_rng(index)
        coarse = torch.from_numpy(rng.random((1, 3, 6, 6), dtype=np.float32))
        image = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")[0].clamp(0, 1)
        image[:, :, size // 2 + index % 5 :] *= 0.6
        pixels = image.mul(255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"image{index}.png")
    return folder


def draw_sets(folder: Path) -> Path:
    """``folder/train`` and ``folder/val``, disjoint."""
    draw_images(folder / "train", count=3, size=40, first=10)
    draw_images(folder / "val", count=3, size=40)
    return folder


def words(images: Path, run_dir: Path, *extra: str) -> list[str]:
    """A complete command line: ×2, 6 steps of 4 patches of 16², seconds on one core."""
    tiny = ["generator.num_features=8", "generator.num_blocks=1"]
    return [
        "data=folder",
        f"data.train={images / 'train'}",
        f"data.val={{tiny: {images / 'val'}}}",
        "data.hr_patch_size=16",
        "data.batch_size=4",
        "data.num_workers=0",
        "budget=smoke",
        "scale=2",
        *([] if any(word.startswith("generator=") for word in extra) else tiny),
        "trainer.max_steps=6",
        "trainer.val_every_n_steps=6",
        "trainer.log_every_n_steps=1",
        "checkpoint.every_n_steps=2",
        "checkpoint.keep_last=100",
        "logger=none",
        "callbacks.pictures.max_images=1",
        "trainer.accelerator=cpu",
        f"run_dir={run_dir}",
        *extra,
    ]


def train(
    images: Path, run_dir: Path, *extra: str, code: int = 0, drawn: bool = False
) -> RunFolder:
    """Run the command in this process and insist on its exit code.

    ``drawn``: with the figures of its end, which take longer than all else.
    """
    with nullcontext() if drawn else undrawn():
        assert main(words(images, run_dir, *extra)) == code
    return RunFolder(run_dir)


@contextmanager
def undrawn() -> Iterator[None]:
    """Within, runs end without ``curves.png``, and with a report that has no figures."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("train.plot_curves", "run_report._curves", "run_report._planes"):
            patch.setattr(f"srtrain.cli.{name}", lambda _: ())
        yield


def weights(folder: RunFolder, step: int) -> dict[str, torch.Tensor]:
    """Raw weights and EMA of one checkpoint, flat."""
    content = read_checkpoint(folder.checkpoints / f"step-{step:06d}.ckpt")
    raw = content["train_state"]["state_dict"]
    return {**content["state_dict"], **{f"raw.{name}": value for name, value in raw.items()}}


def cut_back(run: RunFolder, target: Path, step: int) -> RunFolder:
    """A copy of a run as a kill after ``step`` would have left it."""
    shutil.copytree(run.path, target)
    for path in (target / "checkpoints").glob("step-*.ckpt"):
        if int(path.stem.removeprefix("step-")) > step:
            path.unlink()
    return RunFolder(target)


def losses(folder: RunFolder) -> list[tuple[int, float]]:
    """The mean loss of every logged step."""
    return [(step, value) for step, name, value in folder.read_metrics() if name == "train/loss"]
