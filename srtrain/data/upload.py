"""Batches on their way to a GPU, which meanwhile works on the one before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from srtrain.batch import Batch

IMAGES = ("hr", "lr")


class Arriving(NamedTuple):
    """A batch whose images are on the device once ``arrived`` has happened there."""

    batch: Batch
    arrived: Any
    upload: Upload

    def receive(self) -> Batch:
        """The batch, for what this thread launches from now on."""
        consumer = self.upload.cuda.current_stream(self.upload.device)
        consumer.wait_event(self.arrived)
        for name in IMAGES:
            if name in self.batch:  # its memory is not given out before `consumer` is through
                self.batch[name].record_stream(consumer)  # type: ignore[literal-required]
        return self.batch


class Upload:
    """Makes batches and copies their images to ``device`` on a stream of its own.

    The host waits for nothing, and neither does the device: its other streams wait for a batch
    when it is received. ``cuda``: `torch.cuda`, or what stands for it.
    """

    def __init__(self, device: torch.device, *, cuda: Any = torch.cuda) -> None:  # noqa: ANN401
        self.device = device
        self.cuda = cuda
        self.stream = cuda.Stream(device)

    def send(self, make: Callable[[], Batch]) -> Arriving:
        """``make()`` under way; from any thread, before its batch is needed."""
        with self.cuda.stream(self.stream):  # this thread's device too
            batch = make()
            for name in IMAGES:
                if name in batch:
                    batch[name] = self._copied(batch[name])  # type: ignore[literal-required]
            return Arriving(batch, self.stream.record_event(), self)

    def _copied(self, image: torch.Tensor) -> torch.Tensor:
        if image.device == self.device:
            return image
        pinned = image if image.is_pinned() else image.pin_memory()
        return pinned.to(self.device, non_blocking=True)
