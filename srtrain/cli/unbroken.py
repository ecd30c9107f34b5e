"""Output that nobody reads any more does not end a run: ``srtrain … | head``, a closed terminal."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO


class Unbroken:
    """A stream that writes to nowhere from the moment when its reader is gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._deaf = False

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream's own, whose reader may be gone."""
        if not self._deaf:
            try:
                self._stream.write(text)
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """As the stream's own, whose reader may be gone."""
        if not self._deaf:
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError) and error.errno != errno.EIO:  # a dead terminal
            raise error
        try:
            descriptor = self._stream.fileno()
        except (AttributeError, OSError, ValueError):  # one that lives in memory
            self._deaf = True
            return
        # What the stream still holds goes there too, and what others write to this descriptor.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


@contextmanager
def unbroken_output() -> Iterator[None]:
    """Standard output and error may lose their readers, and what is written to them is flushed."""
    ours: dict[str, Unbroken] = {}
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Unbroken):
            ours[name] = Unbroken(stream)
            setattr(sys, name, ours[name])
    try:
        yield
    finally:
        for name, stream in ours.items():
            stream.flush()
            if getattr(sys, name) is stream:
                setattr(sys, name, stream._stream)
