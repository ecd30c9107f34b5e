"""The page: what stands in it is what was measured, whatever the names are; its size is bounded."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from srtrain.evaluation.comparison import compare
from srtrain.evaluation.report import pictures, svg
from srtrain.evaluation.report.finding import finding
from srtrain.evaluation.report.page import Report, TableOf, page, write_report
from srtrain.evaluation.results import ModelResult, Results, SetResult
from srtrain.evaluation.shown import Shown, cropped, disagreement, largest
from srtrain.evaluation.titles import ordered
from tests.report import HOSTILE, example, noise, shown

if TYPE_CHECKING:
    from pathlib import Path


class Page(HTMLParser):
    """Tags with attributes, the text outside of scripts, and the cells of each table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in {"th", "td"} and self.tables:
            self.tables[-1][-1].append("")
        elif tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.scripts[-1] += data
        elif "style" not in self._open:
            self.text.append(data)
            if "table" in self._open and ("td" in self._open or "th" in self._open):
                self.tables[-1][-1][-1] += data

    @property
    def data(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.scripts[0])
        return content


def results(*models: tuple[str, dict[str, float]]) -> Results:
    return Results([ModelResult(name, "", {"set": SetResult(row, {})}) for name, row in models])


def test_tables_hold_what_was_measured() -> None:
    report = example()
    found = Page(page(report))
    summary = found.tables[0]
    assert [cell.strip() for cell in summary[0]] == ["model", "PSNR-Y ↑", "LPIPS-sq ↓", "bias →0"]
    # Means of the figures that tests/report.py states: (25 + 27 + … + 39) / 8 and so on.
    assert summary[1] == ["bicubic", "28.500", "0.3000", "+0.00010"]
    assert summary[2] == ["network", "30.500", "0.2000", "\N{MINUS SIGN}0.00300"]
    assert "network" in "".join(found.text)
    assert found.data["metrics"][0]["key"] == "psnr_y"
    assert [row["name"] for row in found.data["images"]] == [f"image{i}" for i in range(8)]
    assert found.data["images"][0]["values"]["network"]["psnr_y"] == 27.0


def test_best_is_bold_where_a_way_is_better() -> None:
    html = page(
        Report(
            "t",
            results(
                ("one", {"psnr_y": 30.0001, "lpips_vgg": 0.3, "hf_ratio": 1.3, "rtm": 0.9}),
                ("two", {"psnr_y": 30.0002, "lpips_vgg": 0.2, "hf_ratio": 0.8, "rtm": 1.0}),
            ),
        )
    )
    bold = re.findall(r"<b>(.*?)</b>", html.split("</main>")[0])
    # 30.0001 and 30.0002 are one figure as it is written; rtm has no better way.
    assert bold == ["30.000", "30.000", "0.2000", "0.800"]


def test_verdicts_are_those_of_the_comparison() -> None:
    report = example()
    found = Page(page(report))
    rows = {row[0].strip(): row for row in found.tables[1][1:]}
    assert rows["PSNR-Y ↑"][2] == "+2.000"
    assert rows["PSNR-Y ↑"][1].strip() == "▲ better"
    assert rows["LPIPS-sq ↓"][1].strip() == "▲ better"
    assert rows["|bias| ↓"][1].strip() == "▼ worse"
    assert rows["PSNR-Y ↑"][-1] == "8"
    by_metric = {one.metric: one for one in report.differences}
    assert by_metric["psnr_y"].verdict == "better"


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        (
            [30.0] * 8,
            "8 images), b reaches 30.000 dB PSNR-Y, a 29.000. Image by image, b lies 1.000",
        ),
        ([30.0] * 3, "3 images are too few for a verdict."),
        ([29.1, 28.9] * 4, "no evidence of a difference."),
    ],
)
def test_the_line_above_is_no_stronger_than_the_figures(figures: list[float], says: str) -> None:
    def model(name: str, values: list[float]) -> ModelResult:
        images = {f"{i}": {"psnr_y": value} for i, value in enumerate(values)}
        return ModelResult(name, "", {"set": SetResult({"psnr_y": float(np.mean(values))}, images)})

    both = Results([model("a", [29.0] * len(figures)), model("b", figures)])
    assert says in finding(both, compare(both))


def test_of_some_images_the_line_says_of_how_many() -> None:
    """A continued run has bicubic's values of its pictures alone, and its mean of all images."""
    rows = {f"{i}": {"psnr_y": 30.5} for i in range(100)}
    some = {f"{i}": {"psnr_y": 28.5 + i / 1000} for i in range(7)}
    models = [
        ModelResult(name, "", {"set": SetResult({"psnr_y": 30.5}, images)})
        for name, images in (("bicubic", some), ("SR", rows))
    ]
    said = finding(Results(models), compare(Results(models)))
    assert "On set (100 images), bicubic reaches 30.500 dB PSNR-Y, SR 30.500." in said
    assert "Image by image, on 7 of them, SR lies 1.997 dB above bicubic (95" in said


def test_few_images_without_an_interval_are_said_to_be_few() -> None:
    """Whether or not so few have one."""
    report = example(count=3)
    assert report.results is not None
    bare = [replace(one, low=math.nan, high=math.nan) for one in report.differences]
    said = finding(report.results, bare)
    assert "network lies 2.000 dB above bicubic: 3 images are too few for a verdict." in said


def test_of_one_model_without_images_the_line_says_what_there_is() -> None:
    assert (
        finding(results(("one", {"psnr_y": 31.5})), []) == "On set, one reaches 31.500 dB PSNR-Y."
    )
    assert finding(Results([]), []) == ""
    assert finding(results(("one", {"rtm": 1.0})), []) == ""


@pytest.mark.parametrize("name", HOSTILE)
def test_names_stay_words(name: str) -> None:
    plain = Page(page(example("network")))
    found = Page(page(example(name)))
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in plain.tags]
    handlers = [key for _, attributes in found.tags for key in attributes if key.startswith("on")]
    assert handlers == []
    assert len(found.scripts) == 2
    assert found.scripts[1] == plain.scripts[1]
    assert name in found.data["models"]
    assert name in "".join(found.text)


def test_names_that_utf8_cannot_hold_are_written(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", example("b\udcffd"))
    assert b"b&#56575;d" in (tmp_path / "report.html").read_bytes()


def test_the_page_loads_nothing() -> None:
    html = page(example())
    found = Page(html)
    (policy,) = [a["content"] for t, a in found.tags if "content-security" in str(a).lower()]
    assert policy is not None
    assert policy.startswith(
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-"
    )
    for tag, attributes in found.tags:
        for key in ("src", "href", "action", "poster", "srcset", "xlink:href"):
            value = attributes.get(key) or "#"
            assert value.startswith(("#", "data:")), f"{tag} {key}={value[:60]}"
    assert not re.search(r"@import|url\((?!#)", html)


def test_values_that_json_lacks() -> None:
    row = {"psnr_y": math.inf, "rtm": math.nan, "bias": -math.inf}
    of = Results([ModelResult("one", "", {"s": SetResult(row, {"black": row})})])
    found = Page(page(Report("t", of)))
    assert found.tables[0][1] == ["one", "∞", "–", "\N{MINUS SIGN}∞"]
    (image,) = found.data["images"]
    assert image["values"]["one"] == {"psnr_y": "∞", "rtm": None, "bias": "\N{MINUS SIGN}∞"}


def test_further_tables_are_words() -> None:
    html = page(Report("t", tables=[TableOf("<b>", "a & b", ["<i>"], [["x_<y>", "<z>"]])]))
    assert "<h3>&lt;b&gt;</h3>" in html
    assert '<th scope="col">&lt;i&gt;</th>' in html
    assert '<th scope="row">x_<wbr>&lt;y&gt;</th><td>&lt;z&gt;</td>' in html
    assert "a &amp; b" in html


def test_what_is_empty_is_absent() -> None:
    html = page(Report("nothing"))
    assert "<section" not in html
    assert 'href="#' not in html.split("</nav>")[0].split("<nav")[1]


def test_left_out_images_are_said() -> None:
    html = page(Report("t", results(("one", {"psnr_y": 31.0, "psnr_y_left_out": 2.0}))))
    assert "one: PSNR-Y without 2." in html
    assert "left_out" not in html.split("</main>")[0]


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (["rtm", "psnr_y"], ["psnr_y", "rtm"]),
        (["new", "bias", "psnr_y_border0"], ["psnr_y_border0", "bias", "new"]),
        (["lr_psnr_bicubic", "lr_psnr"], ["lr_psnr", "lr_psnr_bicubic"]),
    ],
)
def test_order_of_columns(metrics: list[str], expected: list[str]) -> None:
    assert ordered(metrics) == expected


def decoded(uri: str) -> np.ndarray:
    assert uri.startswith("data:image/png;base64,")
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("gray", [False, True])
def test_pictures_are_exact(gray: bool) -> None:
    one = shown("a", gray=gray)
    (made,) = pictures.gallery([one])
    assert made["size"] == [48, 32]
    assert np.array_equal(decoded(made["hr"][0]), one.hr)
    assert one.lr is not None
    assert np.array_equal(decoded(made["lr"][0]), one.lr)
    for name, image in one.sr.items():
        assert np.array_equal(decoded(made["sr"][name]), image)


def test_size_is_bounded_and_the_cut_is_said() -> None:
    large = [shown(f"{i}", height=300, width=280) for i in range(3)]  # noise: PNG cannot shrink it
    whole = pictures.gallery(large)  # of noise the middle is as busy as the rest
    assert [made["size"] for made in whole] == [[280, 300]] * 3
    most = sum(
        len(uri) for made in whole for uri in [*made["lr"], *made["hr"], *made["sr"].values()]
    )
    cut = pictures.gallery(large, most=most - 1)
    assert [made["size"] for made in cut] == [[256, 256]] * 3
    assert re.match(
        r"256 × 256 of 280 × 300, from \(\d+, \d+\), where models differ most", cut[0]["note"]
    )
    assert len(pictures.gallery(large, most=most // 8)) == 1  # the smallest size, as many as fit
    assert pictures.gallery(large, most=10) == []


def test_pictures_that_do_not_fit_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    report = example(pictures=3)
    assert "are not here" not in page(report)
    assert "1 of 13 pictures are not here" in page(example(count=13, pictures=13))
    size = len(json.dumps(pictures.gallery(report.gallery)[0]))
    monkeypatch.setattr(pictures, "MOST", size)
    assert "2 of 3 pictures are not here: the page holds 12 of a set and" in page(report)
    monkeypatch.setattr(pictures, "MOST", 10)
    html = page(report)
    assert "3 of 3 pictures are not here" in html
    assert 'id="viewer"' not in html  # a stage without anything on it


def test_at_most_twelve_of_a_set() -> None:
    many = [shown(f"{i}") for i in range(20)]
    assert [made["name"] for made in pictures.gallery(many)] == [f"{i}" for i in range(12)]


def test_cut_where_models_differ_most_and_lr_alike() -> None:
    one = shown("a", height=64, width=96)
    other = one.sr["network"].copy()
    other[40:44, 70:74] ^= 255
    part, box = cropped(
        Shown("s", "a", "", one.lr, one.hr, {"x": one.sr["network"], "y": other}, {}), 24
    )
    assert (box.top % 4, box.left % 4, box.height, box.width) == (0, 0, 24, 24)
    assert box.top <= 40 <= box.top + 20
    assert box.left <= 70 <= box.left + 20
    assert part.lr is not None
    assert one.lr is not None
    assert np.array_equal(part.hr, one.hr[box.top : box.top + 24, box.left : box.left + 24])
    top, left = box.top // 4, box.left // 4
    assert np.array_equal(part.lr, one.lr[top : top + 6, left : left + 6])


def test_largest_sum_by_hand() -> None:
    values = np.zeros((6, 8), np.float32)
    values[3, 5] = 1
    assert largest(values, height=1, width=1) == (3, 5, 1, 1)
    assert largest(values, height=4, width=4, step=2) == (0, 2, 4, 4)  # the first that holds it


def test_disagreement_of_one_model_is_its_error() -> None:
    hr = np.zeros((4, 4, 3), np.uint8)
    sr = hr.copy()
    sr[1, 2] = [3, 0, 6]
    apart = disagreement(Shown("s", "a", "", None, hr, {"one": sr}, {}))
    assert apart[1, 2] == 3
    assert apart.sum() == 3


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_what_is_no_picture_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"hr of a must be uint8 \(H, W, 3\)"):
        Shown("s", "a", "", None, bad, {}, {})
    with pytest.raises(ValueError, match=r"one of a: \(4, 4, 3\), HR: \(8, 8, 3\)"):
        Shown("s", "a", "", None, noise(8, 8), {"one": noise(4, 4)}, {})


def test_figures_cannot_act() -> None:
    words = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'width="9pt" onload="alert(1)"><script>alert(2)</script><style>*{color:red}</style>'
        '<a xlink:href="https://example.org"><text style="fill: #000000">x &lt;b&gt;</text></a>'
        '<g id="m"/><use xlink:href="#m" clip-path="url(#m)"/><!-- c --></svg>'
    )
    inlined = svg.inline(words, label='"l"', prefix="f0-")
    assert not re.search(r"script|alert|example\.org|color:red|<!--|width=", inlined)
    assert 'id="f0-m"' in inlined
    assert 'href="#f0-m"' in inlined
    assert "url(#f0-m)" in inlined
    assert "fill: currentColor" in inlined
    assert "x &lt;b&gt;" in inlined
    assert 'aria-label="&quot;l&quot;"' in inlined


def test_the_line_above_tells_perception_too() -> None:
    report = example()
    assert report.results is not None
    said = finding(report.results, report.differences)
    assert said.startswith("On set (8 images), network reaches 30.500 dB PSNR-Y, bicubic 28.500.")
    assert said.endswith("By LPIPS-sq, network reaches 0.2000, bicubic 0.3000.")


def test_the_line_above_is_of_the_largest_set() -> None:
    images = {"a": {"psnr_y": 30.0}, "b": {"psnr_y": 32.0}}
    few, many = SetResult({"psnr_y": 40.0}, {}), SetResult({"psnr_y": 31.0}, images)
    of = Results([ModelResult("one", "", {"few": few, "many": many})])
    assert finding(of, []) == "On many (2 images), one reaches 31.000 dB PSNR-Y."
