"""The page in headless Chromium: what mouse, fingers and keys change is what is seen."""

from __future__ import annotations

import io
import os
import re
import shutil
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from srtrain.evaluation import plots
from srtrain.evaluation.report.page import FigureOf, write_report
from tests.report import HOSTILE, example

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
LEVELS = {40: "bicubic", 80: "network", 120: "hr"}  # tests/report.py: of 8 levels each


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if BROWSER is None:
        pytest.skip("Chromium is not installed")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    # Nobody but root runs without Chromium's sandbox; root cannot run with it.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    report = example()
    psnr = next(one for one in report.differences if one.metric == "psnr_y")
    report.figures.append(
        FigureOf("Scatter", "Each point is an image.", plots.svg(plots.scatter(psnr)))
    )
    write_report(path, report)
    return path


class Visit:
    """An open page that has said nothing on the console and asked for nothing but itself."""

    def __init__(self, browser: Browser, path: Path, *, phone: bool = False, **how: str) -> None:
        size = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 900}
        small = {"has_touch": True, "is_mobile": True, "device_scale_factor": 2} if phone else {}
        self.context = browser.new_context(viewport=size, **small, **how)
        self.page = self.context.new_page()
        self.heard: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.heard.append(message.text))
        self.page.on("pageerror", lambda error: self.heard.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.path = path
        self.load()

    def load(self) -> None:
        """Anew."""
        self.page.goto(self.path.as_uri())
        self.page.locator("#image-left").evaluate("image => image.decode()")
        self.page.locator("#stage").scroll_into_view_if_needed()

    def check(self) -> None:
        """That nothing was said and nothing asked for."""
        assert self.heard == []
        allowed = ("data:", self.path.as_uri())
        assert [url[:40] for url in self.asked if not url.startswith(allowed)] == []

    def until(self, condition: str) -> None:
        """Playwright's own way evaluates words in the page, which its policy forbids."""
        end = time.monotonic() + 10
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    def pixels(self) -> np.ndarray:
        """The stage as it is seen."""
        with Image.open(io.BytesIO(self.page.locator("#stage").screenshot())) as image:
            return np.asarray(image.convert("RGB"))

    def layers(self, row: float = 0.75) -> str:
        """What is seen along a row of the stage, from left to right."""
        line = self.pixels()
        line = line[int(row * len(line))].astype(int)
        seen = []
        for pixel in line:
            name = LEVELS.get(int(pixel.min()) // 40 * 40)
            if name and pixel.max() < int(pixel.min()) // 40 * 40 + 8 and name not in seen[-1:]:
                seen.append(name)
        return " ".join(seen)

    def where(self) -> int:
        return int(self.page.locator("#handle").get_attribute("aria-valuenow"))

    def zoom(self) -> int:
        return int(self.page.locator("#percent").inner_text().split()[0])

    def box(self, place: str = "#stage") -> tuple[float, float, float, float]:
        box = self.page.locator(place).bounding_box()
        return box["x"], box["y"], box["width"], box["height"]


@pytest.fixture(scope="module")
def opened(chromium: Browser, written: Path) -> Visit:
    return Visit(chromium, written)


@pytest.fixture
def visit(opened: Visit) -> Iterator[Visit]:
    opened.load()
    yield opened
    opened.check()


def test_slider_follows_the_mouse(visit: Visit) -> None:
    assert visit.layers() == "bicubic network"
    x, y, width, height = visit.box("#handle")
    visit.page.mouse.move(x + width / 2, y + height / 2)
    visit.page.mouse.down()
    visit.page.mouse.move(x + 4000, y + height / 2)
    assert (visit.where(), visit.layers()) == (100, "bicubic")
    visit.page.mouse.move(0, y + height / 2)
    assert (visit.where(), visit.layers()) == (0, "network")
    visit.page.mouse.up()
    visit.page.mouse.move(x + 4000, y + height / 2)
    assert visit.where() == 0


def test_slider_follows_the_keys(visit: Visit) -> None:
    visit.page.locator("#handle").focus()
    before = visit.pixels()
    for key, expected in [
        ("ArrowRight", 52),
        ("Shift+ArrowLeft", 42),
        ("PageUp", 52),
        ("End", 100),
        ("ArrowRight", 100),
        ("Home", 0),
        ("Escape", 50),
    ]:
        visit.page.keyboard.press(key)
        assert visit.where() == expected, key
        if key == "End":
            assert visit.layers() == "bicubic"
    assert np.array_equal(visit.pixels(), before)


@pytest.mark.parametrize(
    ("left", "right"), [("hr", "sr network"), ("lr", "hr"), ("sr network", "hr")]
)
def test_any_two_can_be_chosen(visit: Visit, left: str, right: str) -> None:
    visit.page.select_option("#left", left)
    visit.page.select_option("#right", right)
    names = {"hr": "HR", "lr": "LR (nearest)", "sr network": "network"}
    assert visit.page.locator("#tag-left").inner_text() == names[left]
    assert visit.page.locator("#tag-right").inner_text() == names[right]
    expected = [name.removeprefix("sr ") for name in (left, right) if name != "lr"]
    assert visit.layers().split()[-len(expected) :] == expected
    visit.page.locator("#swap").click()
    assert visit.page.locator("#tag-left").inner_text() == names[right]


def test_a_difference_that_comes_late_changes_nothing(visit: Visit) -> None:
    """It waits for both pictures to be decoded; by then the reader may want the slider again."""
    keys = "for (const key of 'ds') at.dispatchEvent(new KeyboardEvent('keydown', {key}))"
    later = "await new Promise(done => setTimeout(done, 200))"
    visit.page.evaluate(
        f"async () => {{ const at = document.querySelector('#stage'); {keys}; {later} }}"
    )
    assert visit.page.locator("#tag-left").inner_text() == "bicubic"
    assert visit.page.locator("#tag-right").is_visible()


def test_enlarged_pixels_are_those_of_the_file(visit: Visit) -> None:
    """At 300 % each pixel is a square of 3 × 3 of its colour: nothing is smoothed."""
    hr = example().gallery[0].hr
    visit.page.select_option("#left", "hr")
    visit.page.locator("#handle").focus()
    visit.page.keyboard.press("End")
    visit.page.keyboard.press("1")
    for _ in range(2):
        visit.page.locator("#in").click()
    assert visit.zoom() == 300
    visit.page.evaluate("for (const of of document.querySelectorAll('.tag, .handle')) of.remove()")
    seen = visit.pixels()
    expected = hr.repeat(3, 0).repeat(3, 1)
    top, left = (len(seen) - len(expected)) // 2, (seen.shape[1] - expected.shape[1]) // 2
    places = ((top + dy, left + dx) for dy in (0, 1) for dx in (0, 1))
    height, width = expected.shape[:2]
    cuts = (seen[y : y + height, x : x + width] for y, x in places)
    assert any(np.array_equal(cut, expected) for cut in cuts)


def test_zoom_by_buttons_keys_wheel_and_double_click(visit: Visit) -> None:
    fitting = visit.zoom()
    visit.page.locator("#in").click()
    assert visit.zoom() > fitting
    visit.page.locator("#fit").click()
    assert visit.zoom() == fitting
    visit.page.locator("#stage").focus()
    visit.page.keyboard.press("+")
    closer = visit.zoom()
    assert closer > fitting
    visit.page.keyboard.press("-")
    assert visit.zoom() == fitting
    x, y, width, height = visit.box()
    visit.page.mouse.move(x + width / 2, y + height / 2)
    visit.page.mouse.wheel(0, -100)
    assert visit.zoom() == closer
    visit.page.keyboard.press("Escape")
    assert visit.zoom() == fitting
    visit.page.mouse.dblclick(x + width / 3, y + height / 2)
    assert visit.zoom() == 2 * fitting
    visit.page.mouse.dblclick(x + width / 3, y + height / 2)
    assert visit.zoom() == fitting


def test_wheel_scrolls_the_page_unless_the_picture_was_clicked(visit: Visit) -> None:
    fitting = visit.zoom()
    x, y, width, height = visit.box()
    visit.page.mouse.move(x + width / 2, y + height / 2)
    before = visit.page.evaluate("scrollY")
    visit.page.mouse.wheel(0, 120)
    visit.until(f"scrollY > {before}")
    assert visit.zoom() == fitting


def test_an_enlarged_picture_is_moved_on_both_sides_alike(visit: Visit) -> None:
    visit.page.locator("input[value=beside]").check(force=True)
    visit.page.locator("#stage").focus()
    for _ in range(8):
        visit.page.keyboard.press("+")
    places = "[...document.querySelectorAll('#stage img')].map(image => image.style.transform)"
    before = visit.page.evaluate(places)
    visit.page.keyboard.press("ArrowRight")
    keyed = visit.page.evaluate(places)
    x, y, width, height = visit.box()
    visit.page.mouse.move(x + width / 4, y + height / 2)
    visit.page.mouse.down()
    visit.page.mouse.move(x + width / 4 + 30, y + height / 2 + 9)
    visit.page.mouse.up()
    dragged = visit.page.evaluate(places)
    for both in (before, keyed, dragged):
        assert both[0] == both[1]
    assert len({before[0], keyed[0], dragged[0]}) == 3


def test_difference_is_that_of_the_pixels(visit: Visit) -> None:
    one = example().gallery[0]
    apart = np.abs(one.sr["bicubic"].astype(int) - one.sr["network"])
    visit.page.locator("#stage").focus()
    visit.page.keyboard.press("d")
    said = visit.page.locator("#apart-text")
    visit.until("document.getElementById('apart-text').textContent")
    assert f"mean {apart.mean():.2f}, largest {apart.max()} of 255" in said.inner_text()
    visit.page.select_option("#factor", "2")
    visit.until("document.getElementById('apart-text').textContent.startsWith('× 2')")
    drawn = visit.page.evaluate(
        "(() => { const of = document.getElementById('difference');"
        "return [...of.getContext('2d').getImageData(0, 0, of.width, of.height).data] })()"
    )
    drawn = np.array(drawn).reshape(*one.hr.shape[:2], 4)
    assert np.array_equal(drawn[..., :3], 2 * apart)
    assert visit.page.locator("#tag-left").inner_text() == "|bicubic − network| × 2"  # noqa: RUF001
    visit.page.keyboard.press("Escape")


def test_pictures_are_gone_through(visit: Visit) -> None:
    visit.page.locator("#stage").focus()
    caption = visit.page.locator("#caption b")
    assert caption.inner_text() == "image0"
    for key, expected in [("n", "image1"), ("n", "image2"), ("n", "image0"), ("p", "image2")]:
        visit.page.keyboard.press(key)
        assert caption.inner_text() == expected
    pressed = visit.page.locator("#strip button[aria-pressed=true]")
    assert pressed.inner_text().split() == ["image2", "worst"]
    visit.page.locator("#strip button").nth(1).click()
    assert caption.inner_text() == "image1"
    visit.page.keyboard.press("ArrowLeft")
    assert caption.inner_text() == "image0"
    row = visit.page.locator("#here tbody tr").nth(1)
    assert row.inner_text().split("\t") == ["network", "27.000", "0.2000", "−0.00300"]  # noqa: RUF001


def column(visit: Visit, index: int) -> list[str]:
    return [
        row.split("\t")[index] for row in visit.page.locator("#values tbody tr").all_inner_texts()
    ]


def test_images_are_filtered_and_sorted(visit: Visit) -> None:
    assert column(visit, 0) == [f"image{i}" for i in range(8)]
    assert column(visit, 1) == [f"{25 + i:.3f}" for i in range(8)]
    assert column(visit, 3) == ["+2.000"] * 8
    visit.page.locator("#values thead button").nth(2).click()
    visit.page.locator("#values thead button").nth(2).click()
    assert column(visit, 2) == [f"{34 - i:.3f}" for i in range(8)]
    assert visit.page.locator("#values thead th").nth(2).get_attribute("aria-sort") == "descending"
    visit.page.fill("#filter", "E5")
    assert column(visit, 0) == ["image5"]
    assert visit.page.locator("#count").inner_text() == "1 of 8 images"
    visit.page.keyboard.press("Escape")
    visit.page.select_option("#metric", "lpips_squeeze")
    assert set(column(visit, 3)) == {"−0.1000"}  # noqa: RUF001
    visit.page.fill("#filter", "2")
    visit.page.locator("#values tbody button").click()
    assert visit.page.locator("#caption b").inner_text() == "image2"


FOCUS = """(() => {
  const of = document.activeElement, knob = of.querySelector("i"), radio = of.type === "radio";
  const style = getComputedStyle(radio ? of.nextElementSibling : of);
  const ring = knob ? getComputedStyle(knob).boxShadow.includes("6px") : false;
  const name = of.id || of.name || of.textContent.trim().slice(0, 20) || of.tagName;
  return [name, style.outlineStyle !== "none" || ring, of.tagName];
})()"""  # what has the focus, and whether that is seen


def test_all_is_reached_and_seen_by_keyboard(visit: Visit) -> None:
    visit.page.evaluate("scrollTo(0, 0)")
    reached = []
    for _ in range(60):
        visit.page.keyboard.press("Tab")
        at = visit.page.evaluate(FOCUS)
        if at[2] == "BODY":
            break
        reached.append(at[0])
        assert at[1], f"{at[0]} has the focus and does not show it"
    wanted = {
        "left",
        "swap",
        "right",
        "mode",
        "out",
        "in",
        "fit",
        "stage",
        "handle",
        "metric",
        "filter",
    }
    assert wanted - set(reached) == set()


def test_everything_that_acts_has_a_name(visit: Visit) -> None:
    nameless = visit.page.evaluate(
        "[...document.querySelectorAll('button, select, input, [role=slider], [role=region]')]"
        ".filter(of => !(of.ariaLabel || of.labels?.length || of.textContent.trim()))"
        ".map(of => of.outerHTML)"
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(chromium: Browser, written: Path, scheme: str) -> None:
    visit = Visit(chromium, written, phone=True, color_scheme=scheme)
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
    for mode in ("beside", "difference", "slider"):
        visit.page.locator(f"input[value={mode}]").check(force=True)
        assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
    paper = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", paper)[:3])) > 384
    assert light == (scheme == "light")
    x, y, width, height = visit.box()
    visit.page.touchscreen.tap(x + width * 0.25, y + height / 2)
    assert 10 <= visit.where() <= 40
    visit.check()
    visit.context.close()


def test_two_fingers_enlarge(chromium: Browser, written: Path) -> None:
    visit = Visit(chromium, written, phone=True)
    fitting = visit.zoom()
    x, y, width, height = visit.box()
    touch = visit.context.new_cdp_session(visit.page)

    def fingers(kind: str, *apart: float) -> None:
        points = [
            {"x": x + width / 2 + d, "y": y + height / 2, "id": i} for i, d in enumerate(apart)
        ]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    fingers("touchStart", -20)
    fingers("touchStart", -20, 20)
    fingers("touchMove", -60, 60)
    fingers("touchEnd")
    assert 2.5 * fitting < visit.zoom() <= 3.1 * fitting
    visit.check()
    visit.context.close()


def test_hostile_names_do_nothing(chromium: Browser, tmp_path: Path) -> None:
    name = " ".join(HOSTILE)
    report = example(name)
    write_report(tmp_path / "report.html", report)
    visit = Visit(chromium, tmp_path / "report.html")
    visit.page.locator("#stage").focus()
    visit.page.keyboard.press("d")
    visit.page.keyboard.press("n")
    assert visit.page.title() == report.title
    assert visit.page.locator("#right option").all_inner_texts()[2] == name
    assert visit.page.locator("h1").inner_text() == report.title
    visit.check()
    visit.context.close()


def test_what_was_smuggled_in_does_not_run(chromium: Browser, tmp_path: Path) -> None:
    """Were escaping forgotten somewhere, the browser would still refuse."""
    path = tmp_path / "report.html"
    write_report(path, example())
    evil = (
        "<script>document.title='hacked'</script><img src=https://example.org/x onerror=alert(1)>"
    )
    path.write_text(path.read_text().replace("<main", f"{evil}<main"))
    visit = Visit(chromium, path)
    assert visit.page.title() != "hacked"
    assert any("Content Security Policy" in line for line in visit.heard)
    visit.context.close()


def test_without_scripts_the_tables_are_there(chromium: Browser, written: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(written.as_uri())
    assert "28.500" in page.locator("#summary").inner_text()
    assert "needs JavaScript" in page.locator("#pictures").inner_text()
    context.close()
