"""The plane of each data set, as PNG and SVG."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from srtrain.errors import DataError
from srtrain.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from srtrain.evaluation.results import Results
    from srtrain.evaluation.tradeoff import Cloud


def draw_planes(
    output: Path,
    results: Results,
    *,
    path: Sequence[str] = (),
    clouds: Callable[[str], list[Cloud]] = lambda _: [],
) -> int:
    """``plane.png`` and ``.svg`` in ``output``, one of each set if there are several.

    ``path``: models that are joined by a line; ``clouds``: of a data set.

    Raises: DataError where there is nothing to draw.
    """
    drawn = [
        one for data in results.sets for one in _draw(output, results, data, path, clouds(data))
    ]
    if not drawn:
        what = "no data set has PSNR and a perceptual metric for all models"
        raise DataError(what, where=str(output / "evaluation"), fix="evaluate larger images")
    for one in drawn:
        print(f"{'plane':<11} {one}")
    return 0


def _draw(
    output: Path, results: Results, data: str, path: Sequence[str], clouds: list[Cloud]
) -> list[Path]:
    from srtrain.evaluation import plots
    from srtrain.evaluation.plane import is_close
    from srtrain.evaluation.tradeoff import points

    found = points(results, data)
    if len(found) < 2:
        return []
    safe = re.sub(r"[^\w.-]+", "_", data)
    stem = "plane" if len(results.sets) == 1 else f"plane_{safe}"
    views = {stem: True} | ({f"{stem}_enlarged": False} if is_close(found) else {})
    drawn = []
    for name, whole in views.items():
        figure = plots.plane(found, [path], whole=whole, clouds=clouds)
        files = {f"{name}.png": plots.png(figure), f"{name}.svg": plots.svg(figure).encode()}
        for file, content in files.items():
            write_atomic(output / file, content)
        drawn.append(output / f"{name}.png")
    return drawn
