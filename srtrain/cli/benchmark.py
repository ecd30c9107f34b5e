"""``srtrain benchmark``: what the parts of a training step cost, as shares of the step."""

from __future__ import annotations

import argparse
import json
import os
import platform
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srtrain.cli.paired import Clock, Spread, over, take_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from omegaconf import DictConfig
    from torch import Tensor

    from srtrain.cli.paired import Costs
    from srtrain.networks.generator import Generator

BARE = "bare"
DEGRADATIONS = ("bicubic", "real_esrgan")
SHARPENED = "real_esrgan + target"  # what experiment=real_esrgan pays


def main(argv: list[str]) -> int:
    """Time the arms in turn; prints a table, writes JSON where asked."""
    options = _parser().parse_args(argv)
    import torch

    from srtrain.inference.upscaler import pick_device

    if options.threads:
        torch.set_num_threads(options.threads)
    clock = Clock(pick_device(options.device))
    if options.guards:
        from srtrain.cli.guarded import GUARDS, guard_arms

        arms = guard_arms(options, clock.device)
        bases = {name: name.removesuffix(GUARDS) for name in arms if name.endswith(GUARDS)}
    else:
        arms = step_arms(options, clock.device)
        bases = {name: BARE for name in arms if name != BARE}
    costs = take_turns(arms, rounds=options.rounds, clock=clock)
    result = report(options, costs, clock, bases)
    print_table(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


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


def report(
    options: argparse.Namespace, costs: Costs, clock: Clock, bases: Mapping[str, str]
) -> dict[str, Any]:
    """All that is needed to read the figures later, and to measure them again.

    ``bases``: for every arm that is compared, the bare one that it is compared with.
    """
    import torch

    per_step = {name: [cost / options.steps for cost in found] for name, found in costs.items()}
    beyond = {name: over(costs, base)[name] for name, base in bases.items()}
    cuda = clock.device.type == "cuda"
    return {
        "what": "training step",
        "unit": clock.unit,
        "generator": options.generator,
        "scale": options.scale,
        "batch": options.batch,
        "lr_patch": options.lr_patch,
        "device": torch.cuda.get_device_name(clock.device) if cuda else platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "arms": {
            name: {
                **Spread.of(found)._asdict(),
                "beyond_bare": beyond[name]._asdict() if name in beyond else None,
                "rounds": found,
            }
            for name, found in per_step.items()
        },
    }


def print_table(result: dict[str, Any]) -> None:
    """Median [lowest, highest] of each arm, and what it adds to the bare step."""
    from rich import box
    from rich.table import Table

    from srtrain.cli.quiet import make_console

    size = f"×{result['scale']}, {result['batch']} patches of {result['lr_patch']}² LR pixels"
    title = f"{result['generator']} {size} on {result['device']}, {result['threads']} threads"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("training step")
    table.add_column(f"{result['unit']} a step", justify="right")
    table.add_column("beyond bare", justify="right")
    for name, arm in result["arms"].items():
        beyond = arm["beyond_bare"]
        cost = "{median:.3f} [{low:.3f}, {high:.3f}]".format(**arm)
        share = "{median:+.1%} [{low:+.1%}, {high:+.1%}]".format(**beyond) if beyond else "-"
        table.add_row(name, cost, share)
    make_console(quiet=False).print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="srtrain benchmark",
        description="What degradation, and Real-ESRGAN's sharpened target, add to a training step;"
        " or with --guards, what guarding it against losses and gradients that are not finite does."
        " The arms take turns, so that their ratios hold on a busy machine too; CPU-seconds on a"
        " CPU, seconds on a GPU.",
    )
    parser.add_argument("--generator", metavar="NAME", default="edsr", help="option of generator=")
    parser.add_argument("--guards", action="store_true", help="measure the guards instead")
    parser.add_argument(
        "--discriminator",
        metavar="NAME",
        default="patchgan_lite",
        help="option of discriminator=, for the adversarial arms of --guards",
    )
    parser.add_argument("--scale", type=_positive, default=4)
    parser.add_argument("--batch", metavar="N", type=_positive, default=16)
    parser.add_argument("--lr-patch", metavar="P", type=_positive, default=48, help="LR pixels")
    parser.add_argument(
        "--degradation",
        nargs="+",
        default=DEGRADATIONS,
        metavar="NAME",
        help=f"options of degradation= ({' '.join(DEGRADATIONS)})",
    )
    parser.add_argument("--rounds", metavar="N", type=_positive, default=5)
    parser.add_argument(
        "--steps", metavar="N", type=_positive, default=1, help="steps a turn; some 20 on a GPU"
    )
    parser.add_argument("--threads", metavar="N", type=_positive, help="of torch (its own choice)")
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value
