"""What the host does in a training step beside the network's arithmetic."""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from hydra.utils import instantiate
from rich.console import Console
from torch import Tensor, nn

from srtrain.cli import build, train
from srtrain.cli.benchmark.driven import ask_for_gpus_as_a_run
from srtrain.cli.benchmark.options import positive
from srtrain.cli.benchmark.paired import in_turn
from srtrain.cli.benchmark.report import Arm, Report, Table
from srtrain.cli.quiet import make_console, quiet_libraries
from srtrain.config.preflight import prepare
from srtrain.data.datamodule import SRData
from srtrain.networks.generator import Generator
from srtrain.networks.spec import Spec
from srtrain.training.checkpointing import OneFile
from srtrain.training.loop import LightningModule, Trainer
from srtrain.training.progress import ProgressLine
from srtrain.training.run_folder import RunFolder

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from srtrain.data.collection import Source

EMPTY, OWN, EMA = "Lightning's empty loop", "srtrain", "srtrain + EMA"
WARM = 50  # steps before the clock is started
IMAGES, SIDE = 16, 8  # so small that arithmetic is no part of it
# Beside them loss, grad_norm and skipped are kept at every step: six figures.
TERMS = ("pixel", "pixel_l1", "pixel_charbonnier")


def add_options(parser: argparse.ArgumentParser) -> None:
    """How long a turn is."""
    parser.add_argument("--steps", metavar="N", type=positive, default=500, help="steps a turn")


def measure(options: argparse.Namespace) -> Report:
    """Whole loops that train one parameter; CPU-seconds of the process, whatever the device."""
    from srtrain.inference.upscaler import pick_device

    quiet_libraries()
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
    device = pick_device(options.device).type
    with tempfile.TemporaryDirectory() as folder:
        arms = {
            EMPTY: partial(empty_loop, options.steps, device),
            OWN: partial(own_loop, options.steps, device, Path(folder), "callbacks.ema=null"),
            EMA: partial(own_loop, options.steps, device, Path(folder)),
        }
        costs = in_turn(arms, options.rounds)
    costs = {name: [1e3 * cost for cost in found] for name, found in costs.items()}
    beyond = [
        Arm(name, [own - base for own, base in zip(costs[name], costs[EMPTY], strict=True)])
        for name in (OWN, EMA)
    ]
    whole = [Arm(name, found) for name, found in costs.items()]
    about = {"steps": options.steps, "device": device, "images": IMAGES, "side": SIDE}
    tables = [
        Table(f"Beyond {EMPTY}, with six figures", "CPU-ms a step", beyond),
        Table("A step of one parameter", "CPU-ms a step", whole, EMPTY),
    ]
    return Report("The host's work in a step", about, tables)


class Batches:
    """One batch again and again. The clock is here: nothing is hooked into what is measured."""

    def __init__(self, steps: int, batch: Mapping[str, object]) -> None:
        self.steps = steps
        self.batch = batch
        self.cost = 0.0

    @property
    def total(self) -> int:
        """Steps that a loop takes; the last, whose end is not like that of others, is not timed."""
        return WARM + self.steps + 1

    def __iter__(self) -> Iterator[dict[str, object]]:
        """``cost`` is this process's CPU-seconds per step."""
        start = 0.0
        for number in range(self.total):
            if number == WARM:
                start = time.process_time()
            if number == WARM + self.steps:
                self.cost = (time.process_time() - start) / self.steps
            yield {**self.batch}


class Fed(SRData):
    """A run's data, without images."""

    def __init__(self, batches: Batches) -> None:
        nothing = cast("Source", None)
        super().__init__(
            train=nothing, val={}, scale=1, hr_patch_size=8, batch_size=1, num_workers=0, seed=0
        )
        self.batches = batches

    def prepare_data(self) -> None:
        """Nothing to decode."""

    def setup(self, stage: str | None = None) -> None:
        """Nothing to open."""

    def train_dataloader(self) -> Any:  # noqa: ANN401 - Lightning takes any iterable
        """The batch."""
        return self.batches


class Gain(nn.Module):
    """One parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, 1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Shapes: image (B, C, H, W) -> the same."""
        return image * self.gain


class Empty(LightningModule):
    """The least that manual optimisation is."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = Gain()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Forward, backward, step."""
        optimizer: Any = self.optimizers()
        loss = nn.functional.mse_loss(self.net(batch["lr"]), batch["hr"])
        self.manual_backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The one that srtrain has by default."""
        return torch.optim.Adam(self.parameters(), lr=1e-4, fused=True)


def pixels() -> Tensor:
    """Shapes: (IMAGES, 3, SIDE, SIDE), uint8."""
    levels = torch.arange(IMAGES * 3 * SIDE**2) % 256
    return levels.to(torch.uint8).view(IMAGES, 3, SIDE, SIDE)


def empty_loop(steps: int, device: str) -> float:
    """CPU-seconds of a step without callbacks, logger and figures."""
    batches = Batches(steps, {"hr": pixels() / 255, "lr": pixels() / 255})
    ask_for_gpus_as_a_run(uses_gpu=device != "cpu")
    trainer = Trainer(
        max_steps=batches.total,
        max_epochs=-1,
        accelerator=device,
        devices=1,
        callbacks=[],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Empty(), batches)
    return batches.cost


def own_loop(steps: int, device: str, folder: Path, *words: str) -> float:
    """CPU-seconds of a step with every callback of a run, as ``cli/train.py`` puts it together.

    A progress bar is drawn; figures go to ``metrics.csv``, and to no logger.
    """
    named = {"name": ["image"] * IMAGES, "sample": torch.arange(IMAGES)}
    batches = Batches(steps, {"hr": pixels(), "lr": pixels(), **named})
    data = Fed(batches)
    weights = [f"loss.weights.{name}=1" for name in TERMS]
    chosen = ["experiment=mse", "budget=paper", "logger=none", f"trainer.accelerator={device}"]
    run_dir = RunFolder(Path(tempfile.mkdtemp(dir=folder)))
    sizes = [f"trainer.max_steps={batches.total}", f"run_dir={run_dir.path}"]
    config = prepare([*chosen, *weights, *sizes, *words]).config
    run_dir.create()
    run = train.Run(
        config=config,
        options=instantiate(config.trainer),
        folder=run_dir,
        console=make_console(quiet=True),
        choices={},
    )
    generator = Generator(Gain(), scale=1, spec=Spec(_target_="Gain", kwargs={}))
    module = build.make_module(config, run.options, generator, None, data)
    parts = train.make_parts(run, module)
    files = OneFile(lambda _step: {}, parts.checkpointing)
    trainer = train.trainer_for(run, module, parts, files)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ProgressLine):
                callback.console = Console(file=nowhere, force_terminal=True)
        trainer.fit(module, datamodule=data)
    parts.checkpointing.flush(final=True)
    return batches.cost
