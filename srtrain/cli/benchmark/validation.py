"""A whole round of validation beside the forward passes and metric kernels that it must pay for."""

from __future__ import annotations

import tempfile
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from srtrain.cli import build, train
from srtrain.cli.benchmark.options import positive
from srtrain.cli.benchmark.paired import Clock, take_turns
from srtrain.cli.benchmark.report import Arm, Report, Table
from srtrain.config.preflight import prepare
from srtrain.data.leaves import dead_leaves
from srtrain.rng import generator
from srtrain.training.loop import Callback
from srtrain.training.pictures import Pictures
from srtrain.training.wandb import Wandb, close_runs

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from srtrain.cli.benchmark.paired import Costs
    from srtrain.training.loop import Trainer
    from srtrain.training.supervised import SupervisedSR

    Pairs = list[tuple[torch.Tensor, torch.Tensor]]  # hr, lr

BARE, WHOLE = "forward + metric kernels", "validation"
SHAPES = ((96, 96), (128, 192), (320, 480), (480, 320), (321, 481), (255, 383), (512, 512))
NEVER = 10**9  # steps


def add_options(parser: argparse.ArgumentParser) -> None:
    """The network and the images."""
    parser.add_argument(
        "--generator", metavar="NAME", default="compact", help="option of generator="
    )
    parser.add_argument("--scale", type=positive, default=4)
    parser.add_argument(
        "--images", metavar="N", type=positive, default=100, help="of seven sizes up to 512 x 512"
    )


def measure(options: argparse.Namespace) -> Report:
    """A run with all its defaults that validates again and again after its first step."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        draw_images(folder / "val", count=options.images)
        draw_images(folder / "train", count=1, first=options.images)
        rounds = Rounds(options)
        run = prepare(_words(options, folder))
        whole = build.make_callbacks
        build.make_callbacks = lambda *given: [*whole(*given), rounds]
        try:
            with suppress(_Measured), redirect_stdout(StringIO()):
                train.run(run.config, experiment=run.experiment, choices=run.choices, argv=run.argv)
        finally:
            build.make_callbacks = whole
    arms = [Arm(name, [c / options.images for c in cost]) for name, cost in rounds.costs.items()]
    about = {"generator": options.generator, "scale": options.scale, "images": options.images}
    return Report("Validation", about, [Table("A round", f"{rounds.unit} an image", arms, BARE)])


class _Measured(Exception):  # noqa: N818
    """All figures are there; the run need not go on."""


class Rounds(Callback):
    """After the first step: both arms in turn, and parts of the whole by themselves."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.costs: Costs = {}
        self.unit = ""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: object) -> None:  # noqa: ANN401
        """Measure, and end the run."""
        clock = Clock(pl_module.device)
        arms = _arms(trainer, pl_module)
        self.costs = take_turns(arms, rounds=self.options.rounds, clock=clock)
        self.unit = clock.unit
        close_runs(trainer.loggers)  # before their folder goes
        raise _Measured


def _arms(trainer: Trainer, module: SupervisedSR) -> Mapping[str, Callable[[], object]]:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    loaders = data.val_dataloader()
    loop = trainer.fit_loop.epoch_loop.val_loop
    pictures = next(c for c in trainer.callbacks if isinstance(c, Pictures))  # type: ignore[attr-defined]

    def pairs() -> Pairs:
        batches = [(number, batch) for number, loader in enumerate(loaders) for batch in loader]
        return [
            module.validated(number, data.transfer_batch_to_device(batch, module.device, number))
            for number, batch in batches
        ]

    def whole() -> None:
        loop.restarting = False
        trainer.validating = True
        loop.run()
        trainer.training = True
        _write_all(pictures, trainer)

    @torch.inference_mode()
    def bare(ready: Pairs) -> None:
        module.eval()
        metrics = module.validation.metrics
        for hr, lr in ready:
            maps = module.generator.raw(lr).float()
            metrics.measure(module.generator.point(maps), hr, lr)
        module.train()

    def drawn() -> None:
        pictures.on_validation_end(trainer, module)
        _write_all(pictures, trainer)

    ready = pairs()
    return {
        BARE: lambda: bare(ready),
        WHOLE: whole,
        "its loading": pairs,
        "its pictures": drawn,
    }


def _write_all(pictures: Pictures, trainer: Trainer) -> None:
    """What other threads still do of one arm is not to be counted as the next one's."""
    pictures.writer.flush()
    for logger in trainer.loggers:
        if isinstance(logger, Wandb):
            logger.wait()


def draw_images(folder: Path, *, count: int, first: int = 0) -> None:
    """PNGs of ``SHAPES`` in turn: dead leaves, moved, turned and repeated."""
    folder.mkdir(parents=True)
    leaves = [dead_leaves(k, size=256, seed=0) for k in range(3)]
    for number in range(first, first + count):
        rng = generator(0, number, "benchmark")
        turned = np.rot90(leaves[rng.integers(3)], int(rng.integers(4)))
        moved = np.roll(turned, tuple(rng.integers(256, size=2)), (0, 1))
        height, width = SHAPES[number % len(SHAPES)]
        pixels = np.tile(moved, (2, 2, 1))[:height, :width]
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{number:03}.png")


def _words(options: argparse.Namespace, folder: Path) -> list[str]:
    accelerator = {"cuda": "gpu"}.get(options.device, options.device)
    return [
        "experiment=l1",
        "budget=paper",
        f"generator={options.generator}",
        f"scale={options.scale}",
        "data=folder",
        f"data.train={folder / 'train'}",
        f"data.val={{images: {folder / 'val'}}}",
        f"data.hr_patch_size={8 * options.scale}",
        "data.batch_size=1",
        f"trainer.max_steps={NEVER}",
        f"trainer.accelerator={accelerator}",
        f"paths.cache={folder / 'cache'}",
        f"run_dir={folder / 'run'}",
    ]
