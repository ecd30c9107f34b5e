"""The perception–distortion plane, drawn: models, the MMSE point among them, and the bound."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from srtrain.evaluation.drawing import INK, PALETTE, WORSE, drawable, new_figure, put_labels
from srtrain.evaluation.tradeoff import BOUND, WITHOUT_WEIGHTS, axis_title, mmse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from srtrain.evaluation.tradeoff import Cloud, Point

FEW = 3  # points beside which bicubic is drawn enlarged too
LONGEST = 44  # characters of a label
CLOSE = 0.6  # of the plane's width: points nearer together than that are drawn enlarged too
PLANE = (
    "Right is nearer to the photo, down looks more like one. The ring is the best PSNR here, which "
    "stands for the MMSE point; the line lies 3.01 dB below it: perfect perceptual quality need "
    "cost no more (Freirich et al. 2021). What is shaded gives up more than that. "
)
CLOUDS = (
    "Faint dots are further samples of the same network, the diamond is their mean: where samples "
    "are honest it returns to the MMSE point, and is blurred as that is. "
)
STANDS_FOR = (
    "LPIPS and DISTS compare with the very photo: they are partly distortions too, and stand for "
    "perception as well as any measure of single images.",
    "Where LPIPS is absent, perception is the distance of hf_ratio from 1: how much texture is "
    "missing or too much, not whether it is right, or pleasant.",
)


def plane_caption(metric: str, *, clouds: bool = False) -> str:
    """What the plane shows, and what its perception axis is worth."""
    return PLANE + (CLOUDS if clouds else "") + STANDS_FOR[metric == WITHOUT_WEIGHTS]


def is_close(found: Sequence[Point]) -> bool:
    """Whether all points lie in a small part of the plane that shows the bound."""
    psnrs = [point.psnr for point in found]
    return max(psnrs) - min(psnrs) < CLOSE * BOUND


def plane(
    found: Sequence[Point],
    paths: Sequence[Sequence[str]] = (),
    *,
    whole: bool = True,
    clouds: Sequence[Cloud] = (),
) -> Figure:
    """PSNR to the right, perceptual distance upwards: lower right is best.

    ``whole`` shows the bound too; without it the points fill the figure, bicubic only among few.
    ``clouds``: samples as faint dots, their mean as a diamond, of models that are ``found``.
    """
    figure, axes = new_figure()
    best = mmse(list(found))
    if not whole and len(found) > FEW:
        found = [point for point in found if point.model != "bicubic" or point is best]
    colours = _colours([point.model for point in found], paths)
    by_name = {point.model: point for point in found}
    for path in paths:
        line = [by_name[name] for name in path if name in by_name]
        xs, ys = [p.psnr for p in line], [p.perception for p in line]
        axes.plot(xs, ys, color=colours[line[0].model] if line else INK, alpha=0.5, linewidth=1.4)
    for point in found:
        axes.plot(point.psnr, point.perception, "o", color=colours[point.model], markersize=7)
    ring = {"markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 1.3}
    axes.plot(best.psnr, best.perception, "o", markersize=13, alpha=0.8, **ring)
    for cloud in clouds:
        _cloud(axes, cloud, by_name[cloud.model], colours[cloud.model])
    further = [point for cloud in clouds for point in (*cloud.samples, cloud.mean)]
    _limits(axes, [*found, *further], left=best.psnr - BOUND if whole else None)
    _bound(axes, best.psnr - BOUND)
    ring_is = "○ best PSNR: stands for the MMSE point"
    axes.set_title(ring_is, fontsize=8, loc="right", color=INK, alpha=0.8)
    axes.set_xlabel("PSNR-Y [dB] · better →")
    axes.set_ylabel(f"← better · {axis_title(best.metric_name)}", fontsize=9)
    means = {cloud.mean.model for cloud in clouds}
    names = [_label(point.model, paths) for point in found]
    names += [_label(p.model, ()) if p.model in means else "" for p in further]
    put_labels(axes, [(p.psnr, p.perception) for p in (*found, *further)], names)
    return figure


def _cloud(axes: Axes, cloud: Cloud, own: Point, colour: str) -> None:
    """Behind the models' own points."""
    for sample in cloud.samples:
        where = sample.psnr, sample.perception
        axes.plot(*where, "o", color=colour, alpha=0.3, markersize=5, zorder=1)
    mean = cloud.mean
    along = [own.psnr, mean.psnr], [own.perception, mean.perception]
    axes.plot(*along, color=colour, alpha=0.5, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    axes.plot(mean.psnr, mean.perception, "D", color=colour, markersize=6, markerfacecolor="none")


def _limits(axes: Axes, found: Sequence[Point], left: float | None) -> None:
    xs = [*(p.psnr for p in found), *([left] if left is not None else [])]
    ys = [p.perception for p in found]
    wide, high = max(max(xs) - min(xs), 0.02), max(max(ys) - min(ys), 1e-3)
    axes.set_xlim(min(xs) - 0.14 * wide, max(xs) + 0.14 * wide)
    axes.set_ylim(min(ys) - 0.18 * high, max(ys) + 0.18 * high)


def _bound(axes: Axes, at: float) -> None:
    """What lies left of the bound is shaded; where it is out of sight, that is said."""
    left, right = axes.get_xlim()
    said: dict[str, Any] = {"fontsize": 8, "color": INK, "alpha": 0.75, "va": "top"}
    if at < left:
        axes.text(0.01, 0.985, f"← bound of 3.01 dB: {at:.2f}", transform=axes.transAxes, **said)
        return
    axes.axvspan(left, at, color=WORSE, alpha=0.1, linewidth=0)
    axes.axvline(at, color=WORSE, linewidth=1.2, linestyle=(0, (5, 3)))
    text = "3.01 dB below: perfect perception\nneed cost no more"
    said |= {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points"}
    on_the_left = at > left + 0.65 * (right - left)  # where there is room for words
    said["ha"] = "right" if on_the_left else "left"
    axes.annotate(text, (at, 0.985), xytext=(-4 if on_the_left else 4, 0), **said)


def _colours(names: Sequence[str], paths: Sequence[Sequence[str]]) -> dict[str, str]:
    """One per path, and one for each model that is of none."""
    of_path = {name: tuple(path) for path in paths for name in path}
    groups = list(dict.fromkeys(of_path.get(name, name) for name in names))
    return {name: PALETTE[groups.index(of_path.get(name, name)) % len(PALETTE)] for name in names}


def _label(name: str, paths: Sequence[Sequence[str]]) -> str:
    """The whole name at the ends of a path, between them what is its own; of many only some."""
    path = next((list(path) for path in paths if name in path), [name])
    place = path.index(name)
    if len(path) > 10 and place % (len(path) // 5) and name != path[-1]:
        return ""
    if 0 < place < len(path) - 1:
        same = os.path.commonprefix(path)  # noqa: RUF071 - of any names, not of paths
        name = name[max(same.rfind(end) for end in " /-") + 1 :]
    return drawable(name if len(name) <= LONGEST else f"…{name[-LONGEST:]}")
