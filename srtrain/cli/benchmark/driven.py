"""A process that takes its training steps when it is told to: ``driven.py SWITCHES WORDS…``.

Run as a file it is ``python -m srtrain WORDS…``, of whichever commit is on the path: so it imports
nothing of this package. ``SWITCHES`` names parts that have no key to switch them off, by commas.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from itertools import cycle, islice
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PIPES = "SRTRAIN_TURNS"  # the descriptors on which turns are asked for and answered
KEPT = 8  # batches of a preloaded loader
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Turns:
    """Turns of N steps each, asked for by `child.Child`; the answer is the seconds each took."""

    def __init__(self, wait_for_device: Callable[[], object]) -> None:
        asked, answers = map(int, os.environ.pop(PIPES).split(","))
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a stopped one hears no other
        self._asked: IO[str] = os.fdopen(asked, encoding="utf-8")
        self._answers: IO[str] = os.fdopen(answers, "w", encoding="utf-8")
        self._wait_for_device = wait_for_device
        self._left = 0
        self._since = 0.0

    def begin(self, **facts: object) -> None:
        """Say that all is ready; returns when the first turn is asked for."""
        self._tell(facts)

    def stepped(self) -> None:
        """One step is done; returns at once unless it was the turn's last."""
        self._left -= 1
        if self._left == 0:
            self._wait_for_device()
            self._tell({"seconds": time.perf_counter() - self._since})

    def _tell(self, content: dict[str, object]) -> None:
        self._answers.write(json.dumps(content) + "\n")
        self._answers.flush()
        self._left = int(self._asked.readline() or sys.exit("nobody asks for turns any more"))
        self._since = time.perf_counter()


def synchronize() -> None:
    """Wait until the GPU has done what it was asked to."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def ask_for_gpus_as_a_run(*, uses_gpu: bool) -> None:
    """Have Adam ask at every step as it does under `make_trainer`: Lightning's way is slower.

    Importing srtrain imports Lightning, in every arm.
    """
    from srtrain.training.loop import NVML

    if not uses_gpu:
        os.environ[NVML] = "0"


class Preloaded:
    """The first batches of a loader, for ever; those on their way to a GPU have arrived."""

    def __init__(self, loader: Any) -> None:  # noqa: ANN401 - of any commit
        batches = list(islice(iter(loader), KEPT))
        self.batches = [b.receive() if hasattr(b, "receive") else b for b in batches]

    def __iter__(self) -> Iterator[Any]:
        return cycle(self.batches)


def drive(turns: Turns, switches: set[str]) -> None:
    """Have every Trainer made from now on take turns, without the parts in ``switches``."""
    from srtrain.training.loop import Callback, Trainer

    class Driven(Callback):
        """The last to hear of the start and of each step."""

        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ANN401
            turns.begin(step=trainer.global_step)

        def on_train_batch_end(self, *_: object) -> None:
            turns.stepped()

    make = Trainer.__init__

    def made(self: Trainer, **given: Any) -> None:  # noqa: ANN401
        kept = [c for c in given.pop("callbacks") if type(c).__name__ not in switches]
        make(self, callbacks=[*kept, Driven()], **given)

    Trainer.__init__ = made  # type: ignore[method-assign]
    if "Guard" in switches:
        from srtrain.training.supervised import SupervisedSR

        SupervisedSR.guarded = False
    if "Loader" in switches:
        from srtrain.data.datamodule import SRData

        load = SRData.train_dataloader
        SRData.train_dataloader = lambda data: Preloaded(load(data))  # type: ignore[method-assign, assignment, return-value]


if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its modules have common names
    drive(Turns(synchronize), set(sys.argv[1].split(",")))
    from srtrain.cli.main import main

    sys.argv = ["srtrain", *sys.argv[2:]]
    sys.exit(main())
