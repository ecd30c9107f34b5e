"""How failures are told."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from srtrain.config.problems import RefusedError

if TYPE_CHECKING:
    from srtrain.errors import SrtrainError


def tell(error: SrtrainError) -> None:
    """One line on stderr for each problem: what, where, how to fix."""
    problems = error.problems if isinstance(error, RefusedError) else (error,)
    for problem in problems:
        print(f"srtrain: error: {problem}", file=sys.stderr)
