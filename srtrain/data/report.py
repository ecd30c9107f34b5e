"""What was found about the images of a run, told in lines of bounded length."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from srtrain.checks import counted
from srtrain.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

UNREADABLE = "unreadable"
SMALL = "too small"
SIZES = "LR and HR sizes do not fit"
WITHOUT_LR = "HR without LR"
WITHOUT_HR = "LR without HR"
AMBIGUOUS = "several files for one name"
NOT_BICUBIC = "LR is not MATLAB's bicubic of HR"
LEAKED = "in training and validation"

LISTED = 10
"""So many files are named per kind of problem; the rest is counted."""


class Report:
    """Problems by kind, each a place and a reason; and how many images were looked at."""

    def __init__(self) -> None:
        self.images = 0
        self.cut = 0  # no multiple of the scale: their last rows or columns make no LR pixel
        self.problems: dict[str, list[tuple[str, str]]] = defaultdict(list)

    def add(self, kind: str, where: str, reason: str = "") -> None:
        """One more offender."""
        self.problems[kind].append((where, reason))

    @property
    def total(self) -> int:
        """Number of problems of all kinds."""
        return sum(len(found) for found in self.problems.values())

    def raise_if_any(self) -> None:
        """Raises DataError that names the first ten offenders of each kind."""
        if not self.total:
            return
        kinds = []
        for kind, found in self.problems.items():
            named = ", ".join(f"{at} ({why})" if why else at for at, why in found[:LISTED])
            more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
            kinds.append(f"{len(found)} {kind}: {named}{more}")
        raise DataError(
            f"{counted(self.total, 'problem')} in the data",
            where="; ".join(kinds),
            fix="`srtrain check-data` shows them as a table",
        )


def cut_line(sets: Mapping[str, Report], *, scale: int) -> str:
    """How many images of each set lose rows or columns to ``scale``; empty if none does."""
    said = [
        f"{report.cut} of {counted(report.images, 'image')} in {name}"
        for name, report in sets.items()
        if report.cut
    ]
    return f"{', '.join(said)}: no multiple of {scale}, cut at the right and bottom" if said else ""
