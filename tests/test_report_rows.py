"""Rows of tiles in headless Chromium: the same part of every layer, by mouse, finger and keys."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from srtrain.evaluation.report.page import Report, RowOf, page, write_report
from srtrain.evaluation.report.pictures import TILE, gallery
from srtrain.evaluation.shown import Shown, cropped, telling
from tests.report import HOSTILE, example, noise
from tests.test_report import Page
from tests.test_report_browser import Visit, chromium

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

__all__ = ["chromium"]

SIZE = 96, 128
NAMES = [f"network, sample {k}" for k in range(1, 6)]


def flow(shown: Shown, name: str = "network", extra: list[str] = NAMES) -> Shown:
    """A larger picture with further samples; where the models differ is its lower right corner."""
    height, width = SIZE
    base = noise(height, width, 1) // 4
    other = base.copy()
    other[height // 2 :, width // 2 :] += 100
    values = {name: {"psnr_y": 27.0, "lpips_squeeze": 0.2}, extra[0]: {"psnr_y": 26.5}}
    return replace(
        shown,
        lr=noise(height // 4, width // 4),
        hr=base + 20,
        sr={"bicubic": base, name: other, "mse": base + 1},
        extra={each: noise(height, width, 7 + k) for k, each in enumerate(extra)},
        values=values,
    )


def many(name: str = "network", extra: list[str] = NAMES) -> Report:
    """The second picture has no further samples."""
    report = example(name)
    gallery = [flow(report.gallery[0], name, extra), *report.gallery[1:]]
    rows = [
        RowOf("Answers", "One of each.", {"photo": "HR", "bicubic": "bicubic", "network": name}),
        RowOf(
            "Samples",
            "",
            {"sample 0": name} | {f"sample {k + 1}": each for k, each in enumerate(extra)},
            "32 gray levels",
        ),
        RowOf("Others", "", {"one": "a layer that no picture has"}),
    ]
    return replace(report, gallery=gallery, rows=rows)


@pytest.fixture(scope="module")
def opened(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    path = tmp_path_factory.mktemp("rows") / "report.html"
    write_report(path, many())
    return Visit(chromium, path)


@pytest.fixture
def visit(opened: Visit) -> Iterator[Visit]:
    opened.load()
    yield opened
    opened.check()


def test_tiles_show_the_same_part_of_every_layer(visit: Visit) -> None:
    """Twice as large, pixel by pixel, from where the models differ; bicubic has no say in that."""
    shown = many().gallery[0]
    box = telling(shown, TILE, baseline="bicubic")
    assert box.top + box.height > 0.9 * SIZE[0]
    assert box.left + box.width > 0.9 * SIZE[1]
    layers = {"hr": shown.hr, **{f"extra {name}": image for name, image in shown.extra.items()}}
    visit.page.evaluate(
        "for (const of of document.querySelectorAll('.cut')) of.style.borderRadius = 0"
    )
    for key, image in layers.items():
        tile = visit.page.locator(f'#rows button[data-key="{key}"] .cut').first
        tile.scroll_into_view_if_needed()
        with Image.open(io.BytesIO(tile.screenshot())) as seen:
            pixels = np.asarray(seen.convert("RGB"))
        expected = box.of(image).repeat(2, 0).repeat(2, 1)
        assert np.array_equal(pixels[: len(expected), : expected.shape[1]], expected), key


def test_figures_stand_below_their_tiles(visit: Visit) -> None:
    said = visit.page.locator("#rows .row").nth(1).locator("button").all_inner_texts()
    assert [words.split("\n") for words in said[:3]] == [
        ["sample 0", "27.00 dB · 0.200"],
        ["sample 1", "26.50 dB"],
        ["sample 2"],
    ]


def test_a_tile_is_looked_at_on_the_right_at_the_same_place(visit: Visit) -> None:
    tile = visit.page.locator("#rows .row").nth(1).locator("button").nth(2)
    fitting = visit.zoom()
    tile.click()
    assert visit.page.locator("#tag-right").inner_text() == NAMES[1]
    assert visit.zoom() >= fitting
    assert tile.get_attribute("aria-pressed") == "true"
    assert visit.page.locator("#rows button[aria-pressed=true]").count() == 1
    assert visit.page.evaluate("document.activeElement.id") == "handle"
    assert visit.page.locator("#stage").bounding_box()["y"] >= 0


def test_rows_are_gone_through_by_keys(visit: Visit) -> None:
    visit.page.locator("#strip button").first.focus()
    labels = "document.activeElement.querySelector?.('small')?.textContent"
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate(labels) == "photo"
    visit.page.keyboard.press("Tab")  # one stop for each row
    assert visit.page.evaluate(labels) == "sample 0"
    for key, expected in [
        ("ArrowRight", "sample 1"), ("End", "sample 5"), ("ArrowRight", "sample 5"),
        ("ArrowLeft", "sample 4"), ("Home", "sample 0"), ("ArrowRight", "sample 1"),
    ]:  # fmt: skip
        visit.page.keyboard.press(key)
        assert visit.page.evaluate(labels) == expected, key
    assert visit.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    visit.page.keyboard.press("Enter")
    assert visit.page.locator("#tag-right").inner_text() == NAMES[0]
    for key, expected in [(".", NAMES[1]), (".", NAMES[2]), (",", NAMES[1])]:
        visit.page.keyboard.press(key)
        assert visit.page.locator("#tag-right").inner_text() == expected, key
    visit.page.locator("#rows .row").nth(1).locator("button").nth(1).focus()
    visit.page.keyboard.press("Shift+Tab")
    assert visit.page.evaluate(labels) == "photo"


def test_of_another_picture_there_are_the_layers_that_it_has(visit: Visit) -> None:
    rows = visit.page.locator("#rows > div")
    assert [rows.nth(k).is_visible() for k in range(3)] == [True, True, False]
    visit.page.locator("#strip button").nth(1).click()
    assert visit.page.locator("#rows .row").nth(1).locator("button").count() == 1
    assert visit.page.locator("#right option").all_inner_texts().count(NAMES[0]) == 0
    visit.page.locator("#strip button").nth(0).click()
    assert visit.page.locator("#rows .row").nth(1).locator("button").count() == 6


def test_maps_have_their_scale(visit: Visit) -> None:
    scales = visit.page.locator("#rows .scale").all_inner_texts()
    assert [" ".join(words.split()) for words in scales] == ["maps: 0 32 gray levels or more"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_rows_scroll_and_the_page_does_not(
    chromium: Browser, opened: Visit, scheme: str
) -> None:
    visit = Visit(chromium, opened.path, phone=True, color_scheme=scheme)
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
    row = visit.page.locator("#rows .row").nth(1)
    assert row.evaluate("of => of.scrollWidth > of.clientWidth")
    tile = row.locator("button").nth(3)
    tile.scroll_into_view_if_needed()
    tile.tap()
    assert visit.page.locator("#tag-right").inner_text() == NAMES[2]
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
    visit.check()
    visit.context.close()


def test_hostile_names_do_nothing(chromium: Browser, tmp_path: Path) -> None:
    name = " ".join(HOSTILE)
    report = many(name, [f"{name} {k}" for k in range(5)])
    write_report(tmp_path / "report.html", report)
    visit = Visit(chromium, tmp_path / "report.html")
    visit.page.locator("#rows .row").nth(1).locator("button").nth(2).click()
    assert visit.page.title() == report.title
    assert visit.page.locator("#tag-right").inner_text() == f"{name} 1"
    visit.check()
    visit.context.close()


def test_the_page_without_rows_has_none() -> None:
    found = Page(page(example()))
    assert found.data["rows"] == []
    (place,) = [about for tag, about in found.tags if about.get("id") == "rows"]
    assert "hidden" in place


def test_layers_are_cut_alike_and_counted() -> None:
    """A page of bounded size cuts all layers to one box, and the further ones cost their bytes."""
    extra = {"one": noise(300, 300, 3), "other": noise(300, 300, 4)}
    shown = Shown("set", "a", "", None, noise(300, 300), {"m": noise(300, 300, 2)}, {}, extra)
    (made,) = gallery([shown], most=400_000)  # four layers of 128²: 4 × 66 kB; of 192²: 590 kB
    assert made["size"] == [128, 128]
    part, box = cropped(shown, 128)
    assert (box.height, box.width) == (128, 128)
    for name, uri in made["extra"].items():
        with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
            assert np.array_equal(np.asarray(image), box.of(extra[name])), name
    assert np.array_equal(part.extra["one"], box.of(extra["one"]))
    left, top, width, height = made["crop"]
    assert (width, height) == (TILE, TILE)
    assert 0 <= left <= 128 - TILE
    assert 0 <= top <= 128 - TILE


def test_a_further_layer_must_fit() -> None:
    with pytest.raises(ValueError, match=r"one of a: \(8, 8, 3\), HR: \(4, 8, 3\)"):
        Shown("set", "a", "", None, noise(4, 8), {}, {}, {"one": noise(8, 8)})
