"""Which LR file belongs to which HR file."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass
class Pairs:
    """Matched files, and everything that could not be matched."""

    names: list[str] = field(default_factory=list)
    rows: list[tuple[Path, Path]] = field(default_factory=list)
    without_lr: list[Path] = field(default_factory=list)
    without_hr: list[Path] = field(default_factory=list)
    ambiguous: list[tuple[Path, ...]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every file has exactly one partner."""
        return not (self.without_lr or self.without_hr or self.ambiguous)


def match(
    hr_files: Sequence[Path], lr_files: Sequence[Path], *, hr: Path, lr: Path, scale: int
) -> Pairs:
    """Pair files of the folders ``hr`` and ``lr`` by their path below them, without suffix.

    An LR file named like an HR file belongs to it; any other may carry the scale: ``babyx4``,
    ``baby_x4``, ``babyX4`` belong to ``baby``, ``baby_LR`` to ``baby_HR``. Two candidates for one
    place are ambiguous, never chosen between.
    """
    hr_by_stem = _by_stem(hr_files, hr)
    short = {_without_role(stem, "HR"): stem for stem in hr_by_stem}
    partners: dict[str, list[Path]] = defaultdict(list)
    pairs = Pairs()
    for stem, paths in _by_stem(lr_files, lr).items():
        base = _without_role(_without_scale(stem, scale), "LR")
        owner = stem if stem in hr_by_stem else short.get(base)
        if owner is None:
            pairs.without_hr.extend(paths)
        else:
            partners[owner].extend(paths)
    for stem, own in hr_by_stem.items():
        lr_own = partners[stem]
        if len(own) > 1 or len(lr_own) > 1:
            pairs.ambiguous.append((*own, *lr_own))
        elif not lr_own:
            pairs.without_lr.append(own[0])
        else:
            pairs.names.append(stem)
            pairs.rows.append((own[0], lr_own[0]))
    return pairs


def _by_stem(files: Sequence[Path], folder: Path) -> dict[str, list[Path]]:
    stems: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        stems[path.relative_to(folder).with_suffix("").as_posix()].append(path)
    return stems


def _without_scale(stem: str, scale: int) -> str:
    return re.sub(rf"[ ._-]?[xX]{scale}$", "", stem)


def _without_role(stem: str, role: str) -> str:
    return re.sub(rf"[ ._-]{role}$", "", stem)
