"""Words into HTML: everything that comes from outside passes through here."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from srtrain.evaluation.titles import title

if TYPE_CHECKING:
    from collections.abc import Iterable

    from srtrain.evaluation.titles import Better

ARROWS: dict[Better, tuple[str, str]] = {
    "higher": ("↑", "higher is better"),
    "lower": ("↓", "lower is better"),
    "near 0": ("→0", "best near 0"),
    "near 1": ("→1", "best near 1"),
    "": ("", ""),
}


MINUS = "\N{MINUS SIGN}"


def text(words: object) -> str:
    """Escaped, for between tags and inside quotes."""
    return escape(str(words), quote=True)


def folded(words: str) -> str:
    """A model's or a metric's: where it is too long for its column, it is folded at ``_``."""
    return text(words).replace("_", "_<wbr>")


def minus(figures: str) -> str:
    """With the sign that is as wide as a plus."""
    return figures.replace("-", MINUS)


def number(metric: str, value: float) -> str:
    """As ``titles`` writes it; a dash where there is none, ∞ for images that are equal."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    return minus(title(metric).form.format(value))


def arrow(better: Better) -> str:
    """Which way is better, for eyes and for screen readers."""
    sign, words = ARROWS[better]
    return f'<span class="way" role="img" aria-label="{words}">{sign}</span>' if sign else ""


def heading(metric: str) -> str:
    """A column's head: name, which way is better, and on demand what it is."""
    said = title(metric)
    about = "; ".join(part for part in (said.about, ARROWS[said.better][1]) if part)
    return f'<span title="{text(about)}">{text(said.name)} {arrow(said.better)}</span>'


def best(metric: str, values: Iterable[float]) -> float | None:
    """The best of ``values``; None where no way is better, or none is a number."""
    known = [value for value in values if not math.isnan(value)]
    better = title(metric).better
    if not known or not better:
        return None
    if better == "higher":
        return max(known)
    if better == "lower":
        return min(known)
    goal = float(better.removeprefix("near "))
    return min(known, key=lambda value: abs(value - goal))


def table(head: Iterable[str], rows: Iterable[Iterable[str]], *, label: str) -> str:
    """A table that scrolls inside itself; ``head`` and the cells of ``rows`` are HTML already.

    The first cell of a row is its head.
    """
    columns = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = []
    for row in rows:
        first, *rest = row
        cells = "".join(f"<td>{cell}</td>" for cell in rest)
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{text(label)}">'
        f"<table><thead><tr>{columns}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )
