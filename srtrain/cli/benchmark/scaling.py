"""Two ranks beside one: each pinned to a core, with as many samples per rank.

Ranks work at the same time, so that the clock counts, not CPU-seconds: wants an idle machine.
"""

from __future__ import annotations

import os
import socket
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from srtrain.cli.benchmark import child, driven
from srtrain.cli.benchmark.child import Child
from srtrain.cli.benchmark.options import positive
from srtrain.cli.benchmark.paired import in_turn
from srtrain.cli.benchmark.report import Arm, Report, Table
from srtrain.cli.benchmark.runs import CHECKOUT
from srtrain.cli.benchmark.workload import NETWORKS, draw_pictures
from srtrain.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from srtrain.cli.benchmark.child import Turn

ONE, APART, FLAT, STOCK = "one rank", "two runs at once", "two ranks", "two ranks, stock DDP"
NOTES = {
    APART: "nothing in common but the machine: what it allows two ranks at most",
    FLAT: "one flat all-reduce a step for each network",
    STOCK: "Lightning's: reduces in buckets, during the backward pass",
}
# Pinned before anything starts a thread; a stock strategy in the place of ours where asked.
PROGRAM = """
import os, runpy, sys
os.sched_setaffinity(0, {{{core}}})
if {stock}:
    from lightning.pytorch.strategies import DDPStrategy
    from srtrain.training import loop

    class Stock(DDPStrategy):
        def setup_distributed(self):
            os.environ["MASTER_PORT"] = "{stock}"  # at the other one our ranks have met
            super().setup_distributed()

    loop._strategy = lambda _: Stock(process_group_backend="gloo")
sys.argv[0] = {driven!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is trained."""
    add = parser.add_argument
    add("--network", choices=NETWORKS, default="compact")
    add("--batch", metavar="N", type=positive, default=8, help="samples per rank")
    add("--hr-patch", metavar="P", type=positive, default=96, help="HR pixels")
    add("--steps", metavar="N", type=positive, default=10, help="a turn")
    add("--override", nargs="+", metavar="KEY=VALUE", default=[])


def measure(options: argparse.Namespace) -> Report:
    """Samples per second of each arm over those of one rank and of two runs at once.

    Raises: ConfigError where two processes have no core each.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        raise ConfigError(
            "a core for each of two processes", where="scaling", fix="another machine"
        )
    with tempfile.TemporaryDirectory(prefix="srtrain-benchmark-") as name, ExitStack() as stack:
        pinned = Pinned(options, Path(name), cores, stack)
        draw_pictures(pinned.folder / "pictures", count=8, scale=4, side=400)
        groups = {
            ONE: Group([pinned.child("one")]),
            APART: Group([pinned.child(f"apart-{core}", core=core) for core in (0, 1)]),
            FLAT: Group(pinned.ranks("flat")),
            STOCK: Group(pinned.ranks("stock", stock=True)),
        }
        for group in groups.values():
            group.start()
        turns = {name: partial(group.turn, options.steps) for name, group in groups.items()}
        in_turn(turns, options.rounds)
    samples = options.steps * options.batch
    title = f"{options.network}, {options.batch} samples of {options.hr_patch}² per rank and step"
    facts = {"cores": cores[:2], "rounds": options.rounds, "steps a turn": options.steps}
    return Report("Scaling", facts, _tables(title, samples, groups))


def _tables(title: str, samples: int, groups: dict[str, Group]) -> list[Table]:
    """Per rank, so that a ratio to one rank is the efficiency of two."""
    walls = [
        Arm(name, [samples / wall for wall in group.walls], NOTES.get(name, ""))
        for name, group in groups.items()
    ]
    costs = [Arm(name, [samples / cpu for cpu in group.cpus]) for name, group in groups.items()]
    two = [arm for arm in walls if arm.name != ONE]
    return [
        Table(f"{title}: efficiency", "samples / s and rank", walls, ONE, "more"),
        Table(
            "What communication and waiting leave of it", "samples / s and rank", two, APART, "more"
        ),
        Table("The same by CPU time", "samples / CPU-s", costs, ONE, "more"),
    ]


@dataclass
class Group:
    """Processes that take their turns together; of each measured turn, its cost per rank."""

    children: list[Child]
    walls: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)
    _warm: bool = False

    def start(self) -> None:
        """Wait until all are ready."""
        child.start(self.children)

    def turn(self, steps: int) -> float:
        """Seconds of the slowest; the first turn is not kept."""
        took: list[Turn] = child.turns(self.children, steps)
        wall = max(turn.seconds for turn in took)
        if self._warm:
            self.walls.append(wall)
            self.cpus.append(sum(turn.cpu for turn in took) / len(took))
        self._warm = True
        return wall


@dataclass(frozen=True)
class Pinned:
    """Starts runs on the pictures in ``folder``, each on one core; ``stack`` ends them."""

    options: argparse.Namespace
    folder: Path
    cores: list[int]
    stack: ExitStack

    def ranks(self, name: str, *, stock: bool = False) -> list[Child]:
        """Two ranks of one run."""
        world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_port()), "WORLD_SIZE": "2"}
        other = _port() if stock else 0
        return [
            self.child(
                name,
                "trainer=ddp",
                core=rank,
                stock=other,
                world={**world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in (0, 1)
        ]

    def child(
        self,
        name: str,
        *words: str,
        core: int = 0,
        stock: int = 0,
        world: dict[str, str] | None = None,
    ) -> Child:
        """One process on the ``core``-th core."""
        world = world or {}
        count = self.options.batch * int(world.get("WORLD_SIZE", "1"))
        program = PROGRAM.format(core=self.cores[core], stock=stock, driven=driven.__file__)
        arguments = ["-c", program, "", *self._words(name, count), *words]
        environ = {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
        made = Child(name, arguments, cwd=self.folder, environ={**environ, **world})
        return self.stack.enter_context(made)

    def _words(self, name: str, batch: int) -> list[str]:
        pictures, options = self.folder / "pictures", self.options
        return [
            *NETWORKS[options.network].words,
            "budget=paper",
            "data=folder",
            f"data.train={pictures / 'hr'}",
            f"data.val={{one: {pictures / 'val'}}}",
            f"data.batch_size={batch}",
            f"data.hr_patch_size={options.hr_patch}",
            "trainer.accelerator=cpu",
            f"paths.cache={self.folder / 'cache'}",
            f"run_dir={self.folder / 'runs' / name}",
            *options.override,
        ]


def _port() -> int:
    """One that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
