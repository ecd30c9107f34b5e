"""Every run ends with its page: of the same figures as summary.json, at no further evaluation."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from srtrain.cli import run_report
from srtrain.evaluation import plots
from srtrain.evaluation.drawing import new_figure
from srtrain.evaluation.report import page
from srtrain.evaluation.results import ModelResult, Results, SetResult
from srtrain.training.validation import Validation
from tests import training
from tests.training import cut_back, draw_sets

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from srtrain.evaluation.tradeoff import Point
    from srtrain.training.run_folder import RunFolder


train = partial(training.train, drawn=True)


def data_of(run: RunFolder) -> dict[str, Any]:
    html = (run.path / "report.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(images, tmp_path_factory.mktemp("runs") / "run")


def test_it_holds_what_the_run_measured(run: RunFolder) -> None:
    summary = json.loads(run.summary.read_text())
    found = data_of(run)
    assert found["models"] == ["bicubic", "SR"]
    assert [row["name"] for row in found["images"]] == ["image0", "image1", "image2"]
    for model, means in (("SR", summary["val"]), ("bicubic", summary["bicubic"])):
        for metric in ("psnr_y", "ssim_rgb", "hf_truth"):
            values = [row["values"][model][metric] for row in found["images"]]
            assert sum(values) / 3 == pytest.approx(means["tiny"][metric], abs=1e-9)
    assert [picture["name"] for picture in found["pictures"]] == ["image0"]  # max_images=1
    assert found["pictures"][0]["size"] == [40, 40]
    html = (run.path / "report.html").read_text()
    for words in ("<h1>mse ×2</h1>", "num_features: 8", "PSNR-Y of the validation", "at step 6 "):
        assert words in html
    latest = {name: value for _, name, value in run.read_metrics()}
    cells = f"<td>1</td><td>{latest['train/pixel']:.6f}</td><td>100.0%</td><td>100.0%</td>"
    assert f'<th scope="row">pixel</th>{cells}' in html
    assert re.search("energy_gap|squared_error|finite", html) is None
    (command,) = re.findall(r"<dt>command</dt><dd>(.*?)</dd>", html)
    assert command.startswith("srtrain data=folder data.train=")  # not pytest's own
    assert command.endswith(f"run_dir={run.path}")
    assert "<h3>Perception and distortion, tiny</h3>" in html
    assert "never trained on" not in html


def test_of_weights_it_began_with_nothing_is_claimed(
    run: RunFolder, images: Path, tmp_path: Path
) -> None:
    assert "began with the weights" not in (run.path / "report.html").read_text()
    other = train(images, tmp_path / "run", f"init_from={run.path}", "trainer.max_steps=1")
    said = f"began with the weights of {run.path}: what those have seen is not known."
    assert said in (other.path / "report.html").read_text()


def test_a_run_names_it_and_evaluates_nothing_for_it(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rounds: list[int] = []
    finish = Validation.finish

    def counted(self: Validation, step: int) -> None:
        rounds.append(step)
        finish(self, step)

    monkeypatch.setattr(Validation, "finish", counted)
    monkeypatch.setattr(run_report, "ImageMetrics", lambda **_: lambda *_: pytest.fail("again"))
    train(images, tmp_path / "run")
    assert rounds == [0, 6]
    said = rf"^report +{tmp_path}/run/report.html$"
    assert re.search(said, capsys.readouterr().out, re.MULTILINE)


def test_a_continued_run_has_it_anew(run: RunFolder, images: Path, tmp_path: Path) -> None:
    before = data_of(run)
    again = cut_back(run, tmp_path / "again", 4)
    (again.path / "report.html").write_text("of yesterday")
    train(images, again.path)
    after = data_of(again)
    assert after["pictures"] == before["pictures"]
    for one, other in zip(before["images"], after["images"], strict=True):
        assert one["values"]["SR"] == pytest.approx(other["values"]["SR"], nan_ok=True)
    shown = after["images"][0]["values"]["bicubic"]  # of the one with a picture, measured again
    first = before["images"][0]["values"]["bicubic"]
    assert shown == pytest.approx({name: first[name] for name in shown}, nan_ok=True)
    assert "bicubic" not in after["images"][1]["values"]
    said = "bicubic has values of only the 1 image with a picture; bicubic and SR are compared on"
    assert said in (again.path / "report.html").read_text()
    assert said not in (run.path / "report.html").read_text()


def test_the_plane_of_a_continued_run_is_of_the_same_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bicubic's panels against all images of SR would be two different sets on one plane."""
    seen: list[Point] = []

    def plane(found: list[Point], *_: object, **__: object) -> Figure:
        seen.extend(found)
        return new_figure()[0]

    monkeypatch.setattr(plots, "plane", plane)
    means = {"psnr_y": 30.0, "hf_ratio": 0.75}
    rows = {"a": {"psnr_y": 29.0, "hf_ratio": 0.5}, "b": {"psnr_y": 31.0, "hf_ratio": 1.0}}
    few = {"a": rows["a"]}
    for images in (few, {}, rows):
        both = [("bicubic", images), ("SR", rows)]
        models = [ModelResult(name, "", {"s": SetResult(means, of)}) for name, of in both]
        seen.clear()
        assert len([*run_report._planes(Results(models))]) == 1
        assert [point.model for point in seen] == ["bicubic", "SR"]
        assert {point[1:] for point in seen} == {(30.0, 0.25, "hf_ratio")}


def test_a_finished_run_keeps_it(run: RunFolder, images: Path) -> None:
    before = (run.path / "report.html").read_bytes()
    train(images, run.path)
    assert (run.path / "report.html").read_bytes() == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ZeroDivisionError("x")])
def test_a_run_does_not_fail_for_want_of_it(
    error: Exception,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> str:
        raise error

    monkeypatch.setattr(page, "page", fail)
    run = train(images, tmp_path / "run")  # exit code 0
    assert not (run.path / "report.html").exists()
    assert f"report.html was not written: {type(error).__name__}" in caplog.text
    assert "report.html" not in capsys.readouterr().out
