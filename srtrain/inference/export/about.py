"""What a checkpoint says of itself, safe to print and to write: a stranger's says anything."""

from __future__ import annotations

import math
from itertools import takewhile
from typing import Any

_MOST, _DEEPEST, _LONGEST, _LARGEST = 20_000, 12, 10_000, 2**63


def plain(said: object) -> dict[str, Any]:
    """Mappings by text, lists, one-line text, finite numbers; empty if ``said`` is no mapping.

    What is of another kind or lies deeper than any configuration is None, and what comes after the
    first 20 000 values is left out: a pickle may contain itself.
    """
    left = _MOST

    def tamed(value: object, depth: int) -> Any:  # noqa: ANN401 - JSON's types
        nonlocal left
        left -= 1
        if isinstance(value, str):
            return _one_line(value)
        if isinstance(value, int):
            return value if abs(value) < _LARGEST else None
        if isinstance(value, dict | list | tuple) and depth < _DEEPEST:
            among = takewhile(lambda _: left > 0, value)
            if isinstance(value, dict):
                return {
                    _one_line(key): tamed(value[key], depth + 1)
                    for key in among
                    if isinstance(key, str)
                }
            return [tamed(item, depth + 1) for item in among]
        return value if isinstance(value, float) and math.isfinite(value) else None

    return mapping(tamed(said, 0))


def mapping(value: object) -> dict[str, Any]:
    """``value``, or an empty one in the place of what is none."""
    return value if isinstance(value, dict) else {}


def _one_line(text: str) -> str:
    """Blanks for its ends of lines, U+FFFD for whatever else cannot be seen."""
    return "".join(
        it if it.isprintable() else " " if it.isspace() else "\ufffd" for it in text[:_LONGEST]
    )
