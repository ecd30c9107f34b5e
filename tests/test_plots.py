"""Figures: what is in them, that labels do not collide, and that SVG fits into any page."""

from __future__ import annotations

import io
import re
from itertools import combinations
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Annotation, Text
from PIL import Image

from srtrain.evaluation import plots
from srtrain.evaluation.comparison import compare
from srtrain.evaluation.drawing import BETTER, INK, WORSE
from srtrain.evaluation.results import SetResult
from srtrain.evaluation.tradeoff import BOUND, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

from tests.test_comparison import measured, results

CLUSTER = [
    Point("bicubic", 28.35, 0.299, "lpips_squeeze"),
    Point("mse", 29.25, 0.2101, "lpips_squeeze"),
    Point("mse again, another seed", 29.251, 0.2102, "lpips_squeeze"),
    Point("mse_plus_perceptual", 29.16, 0.2005, "lpips_squeeze"),
    Point("perceptual <b>0.033</b>", 29.12, 0.1998, "lpips_squeeze"),
]


def words(figure: Figure) -> str:
    found = [t.get_text() for t in figure.findobj(Text)]
    return "\n".join(found)


def labels(axes: Axes) -> list[Annotation]:
    return [t for t in axes.texts if isinstance(t, Annotation) and "perfect" not in t.get_text()]


@pytest.mark.parametrize("whole", [True, False])
def test_labels_keep_out_of_each_other_and_inside(whole: bool) -> None:
    figure = plots.plane(CLUSTER, whole=whole)
    figure.canvas.draw()
    (axes,) = figure.axes
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = {t.get_text(): Text.get_window_extent(t, renderer) for t in labels(axes)}
    shown = CLUSTER if whole else CLUSTER[1:]  # without bicubic, far from all others
    assert sorted(boxes) == sorted(point.model for point in shown)
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        assert not a.overlaps(b), f"{one} | {other}"
    outer = axes.get_window_extent()
    for name, box in boxes.items():
        assert outer.x0 <= box.x0, name
        assert box.x1 <= outer.x1, name


def test_plane_shows_the_bound_or_says_where_it_is() -> None:
    (axes,) = plots.plane(CLUSTER).axes
    lines = [line.get_xdata()[0] for line in axes.lines if line.get_color() == WORSE]
    assert lines == [pytest.approx(29.251 - BOUND)]
    assert axes.get_xlim()[0] < 29.251 - BOUND
    enlarged = plots.plane(CLUSTER, whole=False)
    assert "bound of 3.01 dB: 26.24" in words(enlarged)
    assert enlarged.axes[0].get_xlim()[0] > 29
    few = plots.plane(CLUSTER[:3], whole=False)
    assert few.axes[0].get_xlim()[0] < 28.35  # beside few, bicubic is what they are held to


@pytest.mark.parametrize("lowest", [10.0, 26.0, 29.0])
def test_words_of_the_bound_stay_inside(lowest: float) -> None:
    """Where models are far below it, the bound lies at the right, and its words to its left."""
    found = [Point("far", lowest, 0.3, "dists"), Point("mse", 29.2, 0.2, "dists")]
    figure = plots.plane(found)
    figure.canvas.draw()
    (axes,) = figure.axes
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    (said,) = [t for t in axes.texts if "perfect" in t.get_text()]
    box, outer = Text.get_window_extent(said, renderer), axes.get_window_extent()
    assert outer.x0 <= box.x0 <= box.x1 <= outer.x1 + 1
    assert (said.get_ha() == "right") == (lowest == 10.0)


@pytest.mark.parametrize(
    ("metric", "axis"),
    [("lpips_alex", "← better · LPIPS-alex"), ("hf_ratio", "LPIPS is absent")],
)
def test_axes_say_what_they_are_and_which_way_is_better(metric: str, axis: str) -> None:
    figure = plots.plane([Point("a", 30.0, 0.3, metric), Point("b", 29.0, 0.2, metric)])
    assert figure.axes[0].get_xlabel() == "PSNR-Y [dB] · better →"
    assert axis in figure.axes[0].get_ylabel()


def test_one_colour_per_path() -> None:
    found = [Point(f"run/step-{k:06d}", 28 + k / 10, 0.3, "dists") for k in range(14)]
    found.append(Point("other", 29.0, 0.2, "dists"))
    (axes,) = plots.plane(found, [[p.model for p in found[:-1]]]).axes
    marks = [line for line in axes.lines if line.get_marker() == "o" and line.get_markersize() == 7]
    assert len({to_hex(line.get_color()) for line in marks[:-1]}) == 1
    assert marks[-1].get_color() != marks[0].get_color()
    said = [label.get_text() for label in labels(axes)]
    assert said == [  # of many on a path some are named, between its ends by what is their own
        "run/step-000000", "000002", "000004", "000006", "000008", "000010", "000012",
        "run/step-000013", "other",
    ]  # fmt: skip


SHIFTED = results(base=measured(0, 0.0), model=measured(1, 0.4))


def test_bars_are_sorted_and_coloured_by_who_wins() -> None:
    psnr, _, lpips, *_ = compare(SHIFTED)
    for difference, gain in ((psnr, 1), (lpips, -1)):
        (axes,) = plots.bars(difference).axes
        drawn = [(bar.get_width(), to_hex(bar.get_facecolor())) for bar in axes.patches[1:]]
        assert [width for width, _ in drawn] == sorted(difference.values)
        assert all(colour == (BETTER if width * gain > 0 else WORSE) for width, colour in drawn)
        band = axes.patches[0].get_extents().transformed(axes.transData.inverted())
        assert (band.x0, band.x1) == pytest.approx((difference.low, difference.high))
        assert len(axes.get_yticklabels()) == len(difference.values)


def test_bars_of_many_images_have_no_names() -> None:
    of = results(base={"psnr_y": [30.0] * 200}, model={"psnr_y": [30.0 + k for k in range(200)]})
    figure = plots.bars(compare(of)[0])
    assert figure.get_size_inches()[1] < 5
    assert "200 images, sorted" in words(figure)


def test_scatter_says_who_wins() -> None:
    psnr, _, lpips, *_ = compare(SHIFTED)
    for difference in (psnr, lpips):
        figure = plots.scatter(difference)
        assert f"model is better: {difference.wins} of 12" in words(figure)
        points = figure.axes[0].collections[0].get_offsets()
        assert np.asarray(points)[:, 0].tolist() == difference.references
        assert figure.axes[0].get_xlim() == figure.axes[0].get_ylim()


def test_all_figures_of_an_evaluation() -> None:
    differences = compare(SHIFTED)
    drawn = {one.name: one for one in plots.figures(SHIFTED, differences)}
    assert list(drawn) == [
        "plane_Set5", "plane_Set5_enlarged",
        "scatter_Set5_psnr_y_model", "bars_Set5_psnr_y_model",
        "scatter_Set5_lpips_squeeze_model", "bars_Set5_lpips_squeeze_model",
    ]  # fmt: skip
    assert "95 %" in drawn["bars_Set5_psnr_y_model"].caption
    assert list(plots.figures(results(only=measured(0, 0.0)), [])) == []
    three = results(mse=measured(0, 0.0), gan=measured(1, 0.3), bicubic=measured(2, -1.0))
    drawn = {one.name: one for one in plots.figures(three, compare(three))}
    assert "bars_Set5_psnr_y_gan" in drawn
    assert not [name for name in drawn if "bicubic" in name]  # it is on the plane


def test_no_word_is_black_on_a_dark_page() -> None:
    differences = compare(SHIFTED)
    drawn = [one.figure for one in plots.figures(SHIFTED, differences)]
    drawn.append(plots.curves({"val/photos/psnr_y": [(0, 20.0), (100, 29.0)]}))
    for figure in drawn:
        texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text()]
        assert {to_hex(t.get_color()) for t in texts} <= {INK, BETTER}
        assert not [t.get_text() for t in texts if "  " in t.get_text()]  # SVG folds spaces


def test_curves() -> None:
    series = {
        "train/loss": [(k, 1 / k) for k in range(1, 101)],
        "train/pixel": [(k, 1 / k) for k in range(1, 101)],
        "train/share/pixel": [(1, 1.0)],
        "train/lr": [(1, 1.0)],
        "val/photos/psnr_y": [(0, 20.0), (100, 29.0)],
        "bicubic/photos/psnr_y": [(0, 28.0)],
    }
    figure = plots.curves(series)
    assert "pixel, running mean" in words(figure)
    assert "train/loss" not in words(figure)
    assert "lr" not in words(figure).split()
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "log"]
    with pytest.raises(ValueError, match="was logged"):
        plots.curves({"train/lr": [(1, 1.0)]})


def test_svg_is_a_part_of_any_page() -> None:
    one, other = plots.svg(plots.plane(CLUSTER)), plots.svg(plots.plane(CLUSTER[:3]))
    assert one == plots.svg(plots.plane(CLUSTER))  # the same figure, the same bytes
    root = ElementTree.fromstring(one)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "width" not in root.attrib
    assert "<text" in one
    assert "perceptual &lt;b&gt;0.033&lt;/b&gt;" in one
    assert INK not in one
    assert "currentColor" in one
    assert not re.search(r"#ffffff|<metadata|<!--|https?://(?!www\.w3\.org/)", one)
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (one, other)]
    assert ids[0].isdisjoint(ids[1])
    used = set(re.findall(r"url\(#([^)]+)\)", one)) | set(re.findall(r'href="#([^"]+)"', one))
    assert used == ids[0]
    assert len(one) < 30_000


NAMES = ["cost_$0_$5", "q$\\x$", "a\\$b", "a\x1b[31mx", "\udcff\uffff"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_no_formulas_and_svg_stays_xml(name: str) -> None:
    """Of models, images, sets: dollars are dollars, what cannot be printed is replaced."""
    of = results(a=measured(0, 0.0, 6), **{name: measured(1, 1.0, 6)})
    for model in of.models:
        found = model.data["Set5"]
        rows = {name if key == "a" else key: row for key, row in found.images.items()}
        model.data["Set5"] = SetResult(found.means, rows)
    drawn = {one.name.partition("_")[0]: one.figure for one in plots.figures(of, compare(of))}
    drawn["curves"] = plots.curves({f"val/{name}/psnr_y": [(0, 1.0), (1, 2.0)]})
    expected = "".join(c if c.isprintable() else "�" for c in name)
    for kind in ("plane", "scatter", "bars", "curves"):
        element = ElementTree.fromstring(plots.svg(drawn[kind]))
        assert expected in " ".join(element.itertext()), kind


def test_png() -> None:
    image = Image.open(io.BytesIO(plots.png(plots.plane(CLUSTER))))
    assert image.size == (840, 585)
    assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
