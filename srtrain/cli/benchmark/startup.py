"""From the command line to the end of the first step; ``--help`` and a refused command beside it.

Every turn is a process of its own; its workers and other descendants are paid for too. The first
round, which does not count, leaves bytecode behind, as anybody's first run does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from srtrain.cli.benchmark import driven
from srtrain.cli.benchmark.child import Child
from srtrain.cli.benchmark.paired import in_turn
from srtrain.cli.benchmark.report import Arm, Report, Table
from srtrain.cli.benchmark.runs import CHECKOUT
from srtrain.cli.benchmark.workload import NETWORKS, draw_pictures

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

EARLY = {"--help": ["--help"], "a refused command": ["experiment=mse", "scael=3"]}
ONE, FIVE = "first step", "first step after five photos"
# Where the environment forbids to keep it, all of srtrain would be compiled anew in every turn.
KEEP_BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}
MODULES = ("torch", "lightning.pytorch", "hydra", "PIL.Image", "rich.console")
NOTES = {
    "a refused command": "a key that does not exist, told with the nearest one",
    ONE: "data=folder, its cache made before; one image of 96² is validated before",
    FIVE: "the same, validating what a run without data.val does",
}
# Imports first, so that what comes after them is measured in the same process.
PROGRAM = """
import runpy, sys, time
from pathlib import Path
import {modules}
Path(sys.argv.pop(1)).write_text(str(time.process_time()))
sys.argv[0] = {driven!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is started."""
    add = parser.add_argument
    add("--network", choices=NETWORKS, default="tiny", help="what is trained")
    add("--logger", choices=("wandb", "none"), default="wandb")
    add("--override", nargs="+", metavar="KEY=VALUE", default=[])


def measure(options: argparse.Namespace) -> Report:
    """Words that need no torch; the first step of a run, and what it takes beyond its imports."""
    with tempfile.TemporaryDirectory(prefix="srtrain-benchmark-") as name:
        starts = Starts(options, Path(name))
        draw_pictures(starts.folder / "pictures", count=8, scale=4, side=400)
        turns: dict[str, Callable[[], float]] = {
            name: partial(_process, ["-m", "srtrain", *words]) for name, words in EARLY.items()
        }
        found: dict[str, list[FirstStep]] = {ONE: [], FIVE: []}
        turns[ONE] = partial(starts.first_step, found[ONE], f"data.val={{one: {starts.val}}}")
        turns[FIVE] = partial(starts.first_step, found[FIVE])
        costs = in_turn(turns, options.rounds)
    early = [Arm(name, costs[name], NOTES.get(name, "")) for name in EARLY]
    imports = [step.imports for step in found[ONE][1:]]  # without the round that warmed up
    beyond = [
        Arm(name, [step.beyond for step in steps[1:]], NOTES[name]) for name, steps in found.items()
    ]
    modules = Arm("imports", imports, ", ".join(starts.modules))
    about = {"network": options.network, "logger": options.logger, "threads": options.threads or 1}
    first = Table("Until the first step has ended, beyond the imports", "CPU-s", beyond)
    words = Table("Words that need no torch", "CPU-s", [modules, *early], "imports")
    return Report("Start-up", about, [words, first])


class FirstStep(NamedTuple):
    """CPU-seconds of a run: until its libraries were imported, and from there to its first step."""

    imports: float
    beyond: float


@dataclass(frozen=True)
class Starts:
    """Starts fresh runs on the pictures in ``folder``."""

    options: argparse.Namespace
    folder: Path

    @property
    def val(self) -> Path:
        """One small picture."""
        return self.folder / "pictures" / "val"

    @property
    def modules(self) -> list[str]:
        """What every run of this kind imports from elsewhere."""
        return [*MODULES, *(["wandb"] if self.options.logger == "wandb" else [])]

    def first_step(self, found: list[FirstStep], *words: str) -> float:
        """A fresh run until its first step has ended; adds to ``found``, returns all CPU-s."""
        with tempfile.TemporaryDirectory(dir=self.folder) as fresh:
            mark = Path(fresh) / "imports"
            program = PROGRAM.format(modules=", ".join(self.modules), driven=driven.__file__)
            arguments = ["-c", program, str(mark), "", *self._words(fresh), *words]
            with Child(ONE, arguments, cwd=self.folder, environ=self._environ()) as child:
                spent = child.start() + child.turn(1).cpu
            imports = float(mark.read_text(encoding="utf-8"))
        found.append(FirstStep(imports, spent - imports))
        return spent

    def _words(self, fresh: str) -> list[str]:
        return [
            *NETWORKS[self.options.network].words,
            "budget=paper",
            "data=folder",
            f"data.train={self.folder / 'pictures' / 'hr'}",
            "data.hr_patch_size=96",
            "trainer.accelerator=cpu",
            f"logger={self.options.logger}",
            f"paths.cache={self.folder / 'cache'}",
            f"run_dir={fresh}/run",
            *self.options.override,
        ]

    def _environ(self) -> dict[str, str]:
        threads = str(self.options.threads or 1)
        own = {"PYTHONPATH": str(CHECKOUT), "WANDB_MODE": "offline", "OMP_NUM_THREADS": threads}
        return {**KEEP_BYTECODE, **own}


def _process(arguments: list[str]) -> float:
    """CPU-seconds of ``python ARGUMENTS``, whose output nobody reads."""
    environ = {**os.environ, **KEEP_BYTECODE, "PYTHONPATH": str(CHECKOUT)}
    null = subprocess.DEVNULL
    words = [sys.executable, *arguments]
    with subprocess.Popen(words, env=environ, stdin=null, stdout=null, stderr=null) as child:
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime
