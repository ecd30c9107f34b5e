"""A callback that makes steps last: a run that others shall stop half-way must not end before."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch.callbacks import Callback


class Pace(Callback):
    """Sleep after every step."""

    def __init__(self, *, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def on_train_batch_end(self, *_: Any) -> None:
        time.sleep(self.seconds)
