"""Kill a run at random moments, continue it each time, compare it with an undisturbed twin.

python scripts/chaos.py [--kills N] [--seed S] [--steps N] [--ranks N] [-o DIR] WORDS…

WORDS are those of ``srtrain``, such as ``experiment=patchgan``; without any, the smallest run.
Exits 0 only if the last checkpoint (weights, EMA, optimizers, schedules, all callbacks) and
``metrics.csv`` are bit-equal. Needs Linux's /proc.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from srtrain.networks.storage import checkpoint_name, read_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]
MARK = "SRTRAIN_CHAOS"  # in the environment of every process of a run, whoever started it
# Keys of a checkpoint that two equal runs do not share: clocks, the place, and how far Lightning's
# loops were within the step that wrote the file. (What hangs on them, when validation comes, is in
# metrics.csv.)
PASSED_OVER = {"seconds", "samples_per_second", "run_dir", "loops"}
CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}
HUNG_S = 300.0  # without a new line, or after a signal
# Intervals that share no factor: kills fall on, before and after each of them.
SMALL = (
    "budget=smoke",
    "data=demo",
    "logger=none",
    "callbacks.pictures.max_images=0",
    "trainer.progress=false",
    "trainer.log_every_n_steps=3",
    "checkpoint.every_n_steps=7",
    "trainer.val_every_n_steps=10",
)


@dataclass(frozen=True)
class Kill:
    """``number`` is sent ``delay`` seconds after a ``share`` of the steps left was taken.

    ``share`` None: after the start of the process.
    """

    number: signal.Signals
    share: float | None
    delay: float


@dataclass(frozen=True)
class Pace:
    """How fast the undisturbed run was: seconds before its first step, and per step."""

    start: float
    step: float


def plan(kills: int, *, pace: Pace, dice: random.Random) -> list[Kill]:
    """Seven of ten are SIGKILL; nine of ten come in training, evenly spread over its steps."""
    soft = sorted(CODES)
    chosen = []
    for left in range(kills, 0, -1):
        number = signal.SIGKILL if dice.random() < 0.7 else dice.choice(soft)
        share = None if dice.random() < 0.1 else dice.uniform(0, 2 / (left + 1))
        delay = dice.uniform(0, pace.start if share is None else 3 * pace.step)
        chosen.append(Kill(number, share, delay))
    return chosen


class Started:
    """One process of the run and its children, marked so that all of them can be found."""

    def __init__(self, words: Sequence[str], run_dir: Path) -> None:
        self.mark = uuid.uuid4().hex
        self.metrics = run_dir / "metrics.csv"
        self.out = run_dir.with_suffix(".log")
        self.began = time.monotonic()
        self._before = self._written()
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "srtrain", *words, f"run_dir={run_dir}"],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, MARK: self.mark, "PYTHONPATH": path},
                start_new_session=True,
            )

    def said(self) -> str:
        """All its output."""
        return self.out.read_text(encoding="utf-8", errors="replace")

    def resumed(self) -> int:
        """The step that it says it continues from; 0 where it begins."""
        found = re.search(r"(?:resumed from|finished before:) step (\d+)", self.said())
        return int(found[1]) if found else 0

    def step(self) -> int:
        """The newest step in ``metrics.csv``, once this process has written there."""
        if self._written() == self._before:
            return 0
        rows = self.metrics.read_bytes().rpartition(b"\n")[0].splitlines()
        newest = rows[-1].partition(b",")[0] if rows else b""
        return int(newest) if newest.isdigit() else 0

    def wait_for(self, share: float, *, steps: int) -> int | None:
        """Until it has trained this share of what was left of ``steps``; None if it ended before.

        Returns the step that it waited for.
        Raises: RuntimeError, when all its processes are killed, if it stands still.
        """
        moved, newest = time.monotonic(), -1
        while self.process.poll() is None:
            if (reached := self.step()) != newest:
                moved, newest = time.monotonic(), reached
            if time.monotonic() - moved > HUNG_S:
                self.send(signal.SIGKILL)
                raise RuntimeError(f"the run stood still:\n{self.said()[-3000:]}")
            if reached > (resumed := self.resumed()) or resumed >= steps:
                step = resumed + round(share * (steps - resumed))
                if reached >= step or resumed >= steps:
                    return step
            time.sleep(0.01)
        return None

    def send(self, number: signal.Signals) -> None:
        """SIGKILL goes to every process, SIGINT to the group as from a terminal."""
        if number == signal.SIGKILL:
            while self.alive():
                for pid in self.alive():
                    _kill(pid, number)
                self.process.poll()
        elif number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            _kill(self.process.pid, number)

    def alive(self) -> list[int]:
        """The processes that bear the mark and are no zombies."""
        mark = f"{MARK}={self.mark}".encode()
        return [int(p.name) for p in Path("/proc").glob("[0-9]*") if mark in _environment(p)]

    def _written(self) -> int:
        return self.metrics.stat().st_mtime_ns if self.metrics.exists() else 0


def _environment(process: Path) -> list[bytes]:
    try:
        return (process / "environ").read_bytes().split(b"\0")  # a zombie's is empty
    except OSError:  # another user's, or gone
        return []


def _kill(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def undisturbed(words: Sequence[str], run_dir: Path, *, steps: int) -> Pace:
    """Run to the end; returns its pace.

    Raises: RuntimeError with its last lines if it fails.
    """
    run = Started(words, run_dir)
    run.wait_for(0.0, steps=steps)
    first, begun = run.step(), time.monotonic()
    run.wait_for(1.0, steps=steps)
    per_step = (time.monotonic() - begun) / max(1, run.step() - first)
    left(run, expected={0})
    return Pace(start=begun - run.began, step=per_step)


def disturbed(kill: Kill, run: Started, *, steps: int) -> str:
    """Let ``run`` meet its kill, and end; returns a row of the table.

    Raises: RuntimeError if it ends otherwise than it should, or leaves a process behind.
    """
    step = None if kill.share is None else run.wait_for(kill.share, steps=steps)
    time.sleep(kill.delay)
    late = run.process.poll() is not None
    if not late:
        run.send(kill.number)
    # Before srtrain listens, in its first second, a signal does what it does to any program.
    code = left(run, expected={0, -kill.number, CODES.get(kill.number, 0)})
    moment = f"{kill.delay:.2f} s after {'its start' if step is None else f'step {step}'}"
    end = "came too late" if late else f"code {code}"
    reached = max(run.step(), run.resumed())
    return f"{kill.number.name:8} {moment:24} {run.resumed():12} {reached:8}  {end}"


def left(run: Started, *, expected: set[int]) -> int:
    """The exit code of ``run``, once it and all its processes are gone.

    Raises: RuntimeError with its last lines for another code, a hang, or a process left behind.
    """
    try:
        code = run.process.wait(timeout=HUNG_S)
        trouble = "" if code in expected else f"ended with code {code}"
    except subprocess.TimeoutExpired:
        code, trouble = -1, "did not end"
    deadline = time.monotonic() + 5
    while not trouble and run.alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    if run.alive():
        trouble = f"{trouble or 'ended'} and left processes {run.alive()} behind"
        run.send(signal.SIGKILL)
    if trouble:
        raise RuntimeError(f"the run {trouble}:\n{run.said()[-3000:]}")
    return code


def differences(twin: Path, killed: Path, *, step: int) -> list[str]:
    """What two run folders do not share, bit by bit; empty when they are equal."""
    name = checkpoint_name(step)
    ends = (read_checkpoint(folder / "checkpoints" / name) for folder in (twin, killed))
    found = list(unequal(*ends, at=name))
    one, other = ((folder / "metrics.csv").read_bytes() for folder in (twin, killed))
    if one != other:
        pairs = zip(one.splitlines(), other.splitlines(), strict=False)
        rows = [f"{a.decode()} | {b.decode()}" for a, b in pairs if a != b]
        found += [f"metrics.csv: {len(one)} | {len(other)} bytes, {len(rows)} rows differ"]
        found += rows[:5]
    return found


def unequal(one: object, other: object, *, at: str) -> Iterator[str]:
    """The paths of all leaves that differ; keys of ``PASSED_OVER`` are passed over."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            if key not in PASSED_OVER:
                yield from unequal(one.get(key), other.get(key), at=f"{at} {key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            yield f"{at}: {len(one)} | {len(other)} items"
        for k, (a, b) in enumerate(zip(one, other, strict=False)):
            yield from unequal(a, b, at=f"{at}[{k}]")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape or _bits(one) != _bits(other):
            yield f"{at}: tensors differ"
    elif repr(one) != repr(other):  # NaN is itself
        yield f"{at}: {one!r} | {other!r}"


def _bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def chaos(words: Sequence[str], *, steps: int, kills: int, seed: int, folder: Path) -> list[str]:
    """One undisturbed run, one that is killed, a table; returns the ``differences``."""
    pace = undisturbed(words, folder / "twin", steps=steps)
    print(f"undisturbed: {pace.start:.1f} s to its first steps, {pace.step:.2f} s for each")
    print(" #  signal   moment                   resumed from  reached")
    for number, kill in enumerate(plan(kills, pace=pace, dice=random.Random(seed)), 1):
        row = disturbed(kill, Started(words, folder / "killed"), steps=steps)
        print(f"{number:2}  {row}", flush=True)
    last = Started(words, folder / "killed")
    last.wait_for(1.0, steps=steps)
    left(last, expected={0})
    print(f"{'end':38}{last.resumed():12} {steps:8}  code 0")
    return differences(folder / "twin", folder / "killed", step=steps)


def main(argv: Sequence[str] | None = None) -> int:
    """0: equal, 1: not."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, help="a new folder for both runs")
    parser.add_argument("words", nargs="*", help="what srtrain shall train")
    asked = parser.parse_args(argv)
    ranks = ("trainer=ddp", f"trainer.devices={asked.ranks}") if asked.ranks > 1 else ()
    words = [*SMALL, *ranks, f"trainer.max_steps={asked.steps}", *asked.words]
    folder = asked.output or Path(tempfile.mkdtemp(prefix="srtrain-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        found = chaos(words, steps=asked.steps, kills=asked.kills, seed=asked.seed, folder=folder)
    except RuntimeError as error:
        found = [str(error)]
    print("\n".join(found) if found else "bit-equal: the last checkpoint and metrics.csv")
    print(f"both runs: {folder}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
