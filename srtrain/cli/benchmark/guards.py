"""What guarding against divergence costs: steps of one module with the guards and without."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from hydra.utils import instantiate

from srtrain.cli import build
from srtrain.cli.benchmark.options import add_step, sizes
from srtrain.cli.benchmark.paired import Clock, take_turns
from srtrain.cli.benchmark.report import Arm, Report, Table
from srtrain.config.preflight import prepare
from srtrain.data.leaves import dead_leaves
from srtrain.training.guards import Guard
from srtrain.training.run_folder import RunFolder

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from srtrain.data.datamodule import SRData

GUARDS = " + guards"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The step's sizes and the discriminator of the adversarial one."""
    add_step(parser)
    parser.add_argument(
        "--discriminator", metavar="NAME", default="patchgan_lite", help="option of discriminator="
    )


def measure(options: argparse.Namespace) -> Report:
    """A supervised and an adversarial step, each without and with the guards."""
    from srtrain.inference.upscaler import pick_device

    clock = Clock(pick_device(options.device))
    costs = take_turns(guard_arms(options, clock.device), rounds=options.rounds, clock=clock)
    arms = {name: Arm(name, [c / options.steps for c in found]) for name, found in costs.items()}
    tables = [
        Table("A training step", f"{clock.unit} a step", [arms[base], arms[base + GUARDS]], base)
        for base in arms
        if base + GUARDS in arms
    ]
    return Report("Guards", sizes(options), tables)


def guard_arms(options: argparse.Namespace, device: torch.device) -> dict[str, Callable[[], None]]:
    """A supervised step and an adversarial one, each without and with the guards."""
    arms: dict[str, Callable[[], None]] = {}
    for name, words in (
        ("supervised", ["experiment=mse"]),
        (options.discriminator, ["experiment=mse", f"discriminator={options.discriminator}"]),
    ):
        steps = Steps(words, options, device)
        arms[name] = partial(steps.run, options.steps, guarded=False)
        arms[name + GUARDS] = partial(steps.run, options.steps, guarded=True)
    return arms


class Steps:
    """The training steps of an experiment on one batch of dead leaves, without Lightning's loop.

    What that adds to every step would hide what the guards do.
    """

    def __init__(self, words: list[str], options: argparse.Namespace, device: torch.device) -> None:
        side = options.scale * options.lr_patch
        sizes = [f"scale={options.scale}", f"data.hr_patch_size={side}", "budget=paper"]
        config = prepare([*words, *sizes, f"generator={options.generator}"]).config
        of_trainer = instantiate(config.trainer)
        generator = build.make_generator(config)
        judge = build.make_discriminator(config, of_trainer)
        nothing = cast("SRData", SimpleNamespace(val_names=()))
        self.module = build.make_module(config, of_trainer, generator, judge, nothing).to(device)
        self.trainer = cast(
            "Any",
            SimpleNamespace(
                global_step=0,
                global_rank=0,
                world_size=1,
                max_steps=of_trainer.max_steps,
                strategy=SimpleNamespace(reduce=lambda value, reduce_op: value),
            ),
        )
        self._attach()
        self.guard = Guard(RunFolder(Path()), {})
        self.guard.on_train_start(self.trainer, self.module)
        leaves = [dead_leaves(k, size=side, seed=0) for k in range(options.batch)]
        self.batch: Any = {
            "hr": torch.from_numpy(np.stack(leaves)).permute(0, 3, 1, 2).to(device),
            "sample": torch.arange(options.batch),
            "name": [""] * options.batch,
        }
        self.bf16 = device.type == "cuda"

    def run(self, count: int, *, guarded: bool) -> None:
        """``count`` steps on samples that were not there before."""
        module, trainer, guard = self.module, self.trainer, self.guard
        module.guarded = guarded
        for _ in range(count):
            self.batch["sample"] = self.batch["sample"] + len(self.batch["sample"])
            if guarded:
                guard.on_train_batch_start(trainer, module, self.batch, 0)
            with torch.autocast(module.device.type, torch.bfloat16, enabled=self.bf16):
                module.training_step(self.batch, 0)
            trainer.global_step += 1
            if guarded:
                guard.on_train_batch_end(trainer, module, None, self.batch, 0)

    def _attach(self) -> None:
        """What the module asks of Lightning."""
        module: Any = self.module
        module._trainer = self.trainer
        made = module.configure_optimizers()
        optimizers = [network["optimizer"] for network in made]
        schedulers = [network["lr_scheduler"] for network in made]
        module.optimizers = lambda: optimizers
        module.lr_schedulers = lambda: schedulers
        module.manual_backward = torch.Tensor.backward
        module.on_fit_start()
