"""A figure on paper, on a light page and on a dark one; labels that keep out of each other's way.

Matplotlib's object interface: no global state, no display. Ink is ``INK`` everywhere: an SVG takes
the colour of the text around it.
"""

from __future__ import annotations

import hashlib
import io
import re
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

INK = "#111213"  # no other element may have this colour: see `svg`
BETTER, WORSE = "#1c98a3", "#d1495b"  # of one lightness; readable on white and on black
PALETTE = ("#3b82c4", "#d9822b", "#8b6fc0", "#3f9c6b", "#c9577f", "#9a8b2f", "#7a7f87")
FAMILY = "system-ui, -apple-system, 'Segoe UI', sans-serif"
_RADII = (9, 14, 21, 30, 44, 62)  # points from a mark to its label
_BEADS = tuple(k / 8 for k in range(2, 9))  # along a line, where it is looked at
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_ANCHORS = {1: "left", 0: "center", -1: "right"}, {1: "bottom", 0: "center", -1: "top"}


def new_figure(width: float = 5.6, height: float = 3.9, *, rows: int = 1) -> tuple[Figure, Any]:
    """A figure of ``width`` × ``height`` inches and its axes, quiet lines, nothing drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for panel in axes:
        panel.set_facecolor("none")
        panel.set_axisbelow(True)
        panel.grid(color=INK, alpha=0.12, linewidth=0.7)
        panel.spines[["top", "right"]].set_visible(False)
        for spine in panel.spines.values():
            spine.set(color=INK, alpha=0.4)
        panel.tick_params(colors=INK, labelsize=9, length=3)
        for text in (panel.title, panel.xaxis.label, panel.yaxis.label):
            text.set(color=INK, fontsize=10)
    return figure, axes[0] if rows == 1 else axes


def drawable(name: str) -> str:
    """``name`` as matplotlib and XML take it: no formula between dollars, no control characters."""
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return printable.replace("$", r"\$")


def _settle(figure: Figure) -> None:
    """Lay it out, once: every drawing would do so again, at the cost of a drawing."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element for HTML: text as text, no background, nothing external.

    Scales to the page's width, up to its own. Ids are unique to its content, so that one page can
    hold many.
    """
    import matplotlib as mpl

    _settle(figure)
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "srtrain"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = text.replace(INK, "currentColor").replace("'DejaVu Sans'", FAMILY)
    width = figure.get_size_inches()[0] * 96
    size = f'style="width:100%;max-width:{width:.0f}px;height:auto" role="img"'
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', rf"\1 {size}", text, count=1)
    return _own_ids(re.sub(r">\s+<", "><", text)).strip()


def _own_ids(text: str) -> str:
    """Ids that nothing refers to are dropped, the others made unique to ``text``."""
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]

    def renamed(found: re.Match[str]) -> str:
        return f' id="{digest}-{found[1]}"' if found[1] in used else ""

    text = re.sub(r' id="([^"]+)"', renamed, text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{digest}-\1)", text)
    return re.sub(r'href="#([^"]+)"', rf'href="#{digest}-\1"', text)


def png(figure: Figure, *, dpi: int = 150) -> bytes:
    """The figure as PNG on white."""
    _settle(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def put_labels(axes: Axes, places: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """A label beside each of ``places``, in data coordinates; an empty name gets none.

    Each takes the place that covers least of marks and earlier labels, near before far; a far one
    gets a line to its mark. Call it when limits and titles are final.
    """
    figure: Any = axes.get_figure(root=True)
    _settle(figure)
    inside = axes.get_window_extent()
    middles = [tuple(axes.transData.transform(place)) for place in places]
    marks = [_around(*middle) for middle in middles]
    taken = [text.get_window_extent() for text in axes.texts]
    for place, name, middle, mark in zip(places, names, middles, marks, strict=True):
        if not name:
            continue
        line = {"arrowstyle": "-", "color": INK, "alpha": 0.35, "linewidth": 0.7}
        words: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9, "color": INK}
        size = _size(axes, name)
        others = [other for other in marks if other is not mark]
        radius, side, box, beads = min(
            _candidates(middle, size, figure.dpi / 72),
            key=lambda option: _cost(option[2], option[3], inside, others, taken, option[0]),
        )
        words |= {"ha": _ANCHORS[0][side[0]], "va": _ANCHORS[1][side[1]]}
        length = _length(radius, side)
        offset = length * side[0], length * side[1]
        far = line if radius > _RADII[1] else None
        axes.annotate(name, place, xytext=offset, arrowprops=far, **words).set_in_layout(False)
        taken += [box, *beads]


def _size(axes: Axes, name: str) -> tuple[float, float]:
    """Pixels across and up."""
    text = axes.text(0, 0, name, fontsize=9)
    box = text.get_window_extent()
    text.remove()
    return box.width, box.height


def _length(radius: float, side: tuple[int, int]) -> float:
    """Along each axis."""
    return radius * 0.75 if side[0] and side[1] else radius


def _candidates(
    middle: tuple[float, ...], size: tuple[float, float], pixels: float
) -> Iterator[tuple[float, tuple[int, int], Bbox, list[Bbox]]]:
    """Radius, side, box and the line's beads of each place that a label of ``size`` may have."""
    from matplotlib.transforms import Bbox

    for radius, side in product(_RADII, _SIDES):
        length = _length(radius, side) * pixels
        # Of the anchor; the box then lies to its right, to both sides, or to its left.
        x, y = (m + length * part for m, part in zip(middle, side, strict=True))
        left, low = (
            at - extent * (1 - part) / 2
            for at, extent, part in zip((x, y), size, side, strict=True)
        )
        far = radius > _RADII[1]
        beads = [
            _around(middle[0] + part * (x - middle[0]), middle[1] + part * (y - middle[1]), 2)
            for part in (_BEADS if far else ())
        ]
        yield radius, side, Bbox.from_bounds(left, low, *size), beads


def _cost(
    box: Bbox,
    beads: list[Bbox],
    inside: Bbox,
    marks: list[Bbox],
    taken: list[Bbox],
    radius: float,
) -> float:
    """Pixels covered, those beyond the axes and of labels dearest; of equals the nearer."""
    outside = box.width * box.height - _shared(box, inside)
    on_words = sum(_shared(part, other) for part in (box, *beads) for other in taken)
    on_marks = sum(_shared(part, mark) for part in (box, *beads) for mark in marks)
    return 30 * outside + 20 * on_words + 10 * on_marks + radius


def _shared(one: Bbox, other: Bbox) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return float(max(0.0, width) * max(0.0, height))


def _around(x: float, y: float, margin: float = 6) -> Bbox:
    from matplotlib.transforms import Bbox

    return Bbox.from_extents(x - margin, y - margin, x + margin, y + margin)
