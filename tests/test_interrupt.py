"""Signals while nothing is trained; those during training are tested on whole processes."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from srtrain.errors import InterruptedRunError, PreemptedError
from srtrain.training.interrupt import Interrupt
from srtrain.training.loop import SIGTERM_QUESTION


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGTERM, PreemptedError),
        (signal.SIGUSR1, PreemptedError),
        (signal.SIGINT, InterruptedRunError),
    ],
)
def test_measuring_is_left_at_once(number: signal.Signals, error: type[Exception]) -> None:
    before = signal.getsignal(number)
    interrupt, trainer = Interrupt(_anything()), _anything()
    interrupt.on_validation_start(trainer, _anything())
    with pytest.raises(error, match=f"stopped by {number.name} while measuring"):
        os.kill(os.getpid(), number)
    interrupt.on_exception(trainer, _anything(), error("left"))
    assert signal.getsignal(number) is before


def test_validation_within_training_keeps_the_handlers() -> None:
    before = signal.getsignal(signal.SIGTERM)
    trainer = _anything("fit")
    interrupt = Interrupt(_anything())
    interrupt.on_train_start(trainer, _anything())
    during = signal.getsignal(signal.SIGTERM)
    interrupt.on_validation_start(trainer, _anything())
    interrupt.on_validation_end(trainer, _anything())
    assert signal.getsignal(signal.SIGTERM) == during
    interrupt.on_train_end(trainer, _anything())
    assert signal.getsignal(signal.SIGTERM) is before


def test_lightning_still_asks_under_that_name() -> None:
    assert callable(getattr(_TrainingEpochLoop, SIGTERM_QUESTION))


def _anything(state: str = "validate") -> Any:  # noqa: ANN401
    return SimpleNamespace(state=SimpleNamespace(fn=state), world_size=1)
