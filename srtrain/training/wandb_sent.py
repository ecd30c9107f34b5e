"""What a W&B run was given already: a continued run repeats steps, and nothing is told twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Sent:
    """The highest step and its names, kept in a file of the run folder.

    Names too, because the figures of a step come in several rows: a run that is stopped during a
    validation has told that step's loss, and tells its quality when it goes on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.step, self.names = _read(path)

    def new(self, names: Iterable[str], step: int) -> set[str]:
        """Those of ``names`` that were not told at ``step`` or later; from now on they count."""
        if step < self.step:
            return set()
        told = self.names if step == self.step else set()
        fresh = set(names) - told
        if fresh:
            self.step, self.names = step, told | fresh
            # Not fsynced: after a power failure some points may be told twice, no more.
            content = json.dumps({"step": self.step, "names": sorted(self.names)})
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text(content, encoding="utf-8")
            temporary.replace(self.path)
        return fresh


def _read(path: Path) -> tuple[int, set[str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return int(content["step"]), set(content["names"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or damaged
        return -1, set()
