"""What making LR from HR, and Real-ESRGAN's sharpened target, add to a training step."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from srtrain.cli.benchmark.options import add_step, sizes
from srtrain.cli.benchmark.paired import Clock, take_turns
from srtrain.cli.benchmark.report import Arm, Report, Table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    import torch
    from omegaconf import DictConfig
    from torch import Tensor

    from srtrain.networks.generator import Generator

BARE = "bare"
DEGRADATIONS = ("bicubic", "real_esrgan")
SHARPENED = "real_esrgan + target"  # what experiment=real_esrgan pays


def add_options(parser: argparse.ArgumentParser) -> None:
    """The step's sizes and the degradations to compare."""
    add_step(parser)
    parser.add_argument(
        "--degradation",
        nargs="+",
        default=DEGRADATIONS,
        metavar="NAME",
        help=f"options of degradation= ({' '.join(DEGRADATIONS)})",
    )


def measure(options: argparse.Namespace) -> Report:
    """A step with LR given beside steps that make it."""
    from srtrain.inference.upscaler import pick_device

    clock = Clock(pick_device(options.device))
    costs = take_turns(step_arms(options, clock.device), rounds=options.rounds, clock=clock)
    arms = [Arm(name, [c / options.steps for c in found]) for name, found in costs.items()]
    table = Table("A training step", f"{clock.unit} a step", arms, base=BARE)
    return Report("Degradation", sizes(options), [table])


def step_arms(options: argparse.Namespace, device: torch.device) -> dict[str, Callable[[], None]]:
    """A training step with LR given, and with LR made from HR by each degradation.

    Beside Real-ESRGAN's, one whose loss compares with the sharpened HR, as its experiment does.
    """
    from hydra.utils import instantiate

    from srtrain.cli.build import make_generator
    from srtrain.config.preflight import prepare
    from srtrain.degradation.sharpen import USM

    chosen = ["experiment=mse", "budget=paper", f"scale={options.scale}"]
    arms: dict[str, Callable[[], None]] = {}
    step: Step | None = None
    for name in options.degradation:
        words = [*chosen, f"generator={options.generator}", f"degradation={name}"]
        config: DictConfig = prepare(words).config
        if step is None:
            step = Step(make_generator(config), options, device)
            arms[BARE] = partial(step.run, options.steps)
        degradation = instantiate(config.degradation, _convert_="all").to(device)
        arms[name] = partial(step.run, options.steps, degradation)
        if name == "real_esrgan":
            arms[SHARPENED] = partial(step.run, options.steps, degradation, USM())
    return arms


class Step:
    """Generator, L1, gradients, Adam on one batch of dead leaves: new sample numbers each time."""

    def __init__(
        self, generator: Generator, options: argparse.Namespace, device: torch.device
    ) -> None:
        import numpy as np
        import torch

        from srtrain.batch import to_float
        from srtrain.data.leaves import dead_leaves
        from srtrain.degradation.resize import Bicubic

        size = options.scale * options.lr_patch
        leaves = [dead_leaves(k, size=size, seed=0) for k in range(options.batch)]
        layout = torch.channels_last
        pixels = torch.from_numpy(np.stack(leaves)).permute(0, 3, 1, 2)
        self.hr = to_float(pixels.to(device)).contiguous(memory_format=layout)
        self.lr = Bicubic(scale=options.scale)(self.hr).contiguous(memory_format=layout)
        self.generator = generator.to(device).to(memory_format=layout)
        self.optimizer = torch.optim.Adam(generator.parameters(), lr=1e-4)
        self.samples = torch.arange(options.batch)  # on the CPU, as a run's are
        self.bf16 = device.type == "cuda"

    def run(
        self,
        count: int,
        degradation: Callable[[Tensor, Tensor], Tensor] | None = None,
        target: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """``count`` steps; the loss compares with ``target(hr)``."""
        import torch

        for _ in range(count):
            self.samples = self.samples + len(self.samples)
            lr = self.lr if degradation is None else degradation(self.hr, self.samples)
            lr = lr.contiguous(memory_format=torch.channels_last)
            hr = self.hr if target is None else target(self.hr)
            with torch.autocast(lr.device.type, torch.bfloat16, enabled=self.bf16):
                sr = self.generator(lr)
            torch.nn.functional.l1_loss(sr.float(), hr).backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
