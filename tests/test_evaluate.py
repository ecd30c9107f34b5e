"""Evaluations of tiny images: equal figures however they are computed, and what is left behind."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from srtrain.cli.evaluate.journal import Journal
from srtrain.cli.evaluate.work import Task, Work
from srtrain.degradation.resize import Bicubic, bicubic_uint8
from srtrain.evaluation.results import Results
from srtrain.images import read_rgb8
from srtrain.inference.upscaler import load_model
from srtrain.networks.storage import read_checkpoint, write_checkpoint
from tests.conftest import ROOT, ending
from tests.data import noise, save
from tests.evaluating import QUIET, evaluate, make_run, make_sets, results

IMAGES = [f"image{index}" for index in range(6)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("outputs") / "mine")


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def plain(run: Path, val: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT of the evaluation that others are held to: one image at a time, whole."""
    out = tmp_path_factory.mktemp("plain")
    evaluate(*whole(run, val, out), "--batch-pixels", 1, "--save-images")
    return out


def whole(run: Path, val: Path, out: Path) -> tuple[object, ...]:
    """Unrounded figures too: rounding to 8 bit would hide what differs."""
    return (run, "--data", f"tiny={val}", "-o", out, "--unrounded")


def assert_equal(
    found: Results, expected: Results, *, tolerance: float = 1e-6, ties: bool = False
) -> None:
    """``ties``: figures of images in 8 bit are only as near as a level or two in them allow."""
    assert [model.name for model in found.models] == [model.name for model in expected.models]
    for own, other in zip(found.models, expected.models, strict=True):
        assert own.sha256 == other.sha256
        assert own.data.keys() == other.data.keys()
        for data in own.data:
            rows = {"": own.data[data].means, **own.data[data].images}
            others = {"": other.data[data].means, **other.data[data].images}
            assert rows.keys() == others.keys()
            for name in rows:
                assert rows[name].keys() == others[name].keys()
                for metric, value in others[name].items():
                    exact = "_unrounded" in metric or not ties
                    allowed = tolerance if exact else 1e-3 if "psnr" in metric else 1e-4
                    relative = 0 if exact else 1e-4
                    near = pytest.approx(value, abs=allowed, rel=relative, nan_ok=True)
                    assert rows[name][metric] == near, (name, metric)


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


# Figures -------------------------------------------------------------------------------------


def test_results_say_what_was_measured(plain: Path, run: Path) -> None:
    found = results(plain)
    assert [model.name for model in found.models] == ["mine", "bicubic"]
    own = found.models[0].data["tiny"]
    assert list(own.images) == IMAGES
    for metric in ("psnr_y", "ssim_rgb", "lr_psnr", "hf_ratio", "bias"):
        values = [row[metric] for row in own.images.values()]
        assert own.means[metric] == pytest.approx(sum(values) / len(values), abs=1e-12)
    protocol = found.protocol
    assert (protocol["scale"], protocol["border"]) == (2, 2)
    assert protocol["variants"].keys() == {"unrounded"}
    assert protocol["inference"]["precision"] == "float32"
    assert protocol["data"]["tiny"]["images"] == 6
    assert "MATLAB" in protocol["data"]["tiny"]["lr"]
    assert torch.__version__.startswith(protocol["versions"]["torch"])
    checkpoint = read_checkpoint(run / "checkpoints" / "step-000001.ckpt")
    assert checkpoint["scale"] == 2
    assert len(found.models[0].sha256) == 64
    assert found.models[1].sha256 == ""


def test_figures_by_hand(plain: Path, run: Path, val: Path) -> None:
    """PSNR of the images on disk, by NumPy alone; they are what `infer` makes of MATLAB's LR."""
    upscaler = load_model(run, device="cpu")
    luma = np.array([65.481, 128.553, 24.966]) / 255
    for name, row in results(plain).models[0].data["tiny"].images.items():
        sr = read_rgb8(plain / "images" / "mine" / "tiny" / f"{name}.png")
        hr = read_rgb8(val / f"{name}.png")[: sr.shape[0], : sr.shape[1]]
        error = ((sr.astype(float) - hr) @ luma)[2:-2, 2:-2]
        assert row["psnr_y"] == pytest.approx(10 * math.log10(255**2 / (error**2).mean()), abs=1e-9)
        lr = bicubic_uint8(torch.from_numpy(hr.transpose(2, 0, 1).copy()), 2)
        expected = upscaler.upscale(lr.permute(1, 2, 0).numpy())
        np.testing.assert_array_equal(sr, expected)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param([], id="buckets"),
        pytest.param(["--tile", 16], id="tiled"),
        pytest.param(["--batch-pixels", 4000, "--tile", 12], id="both"),
    ],
)
def test_however_it_is_computed(
    run: Path, val: Path, plain: Path, tmp_path: Path, words: list[object]
) -> None:
    """Sums in another order differ by 1e-7, which on some CPUs rounds a tie otherwise."""
    evaluate(*whole(run, val, tmp_path), *words)
    assert_equal(results(tmp_path), results(plain), ties=True)


def test_two_ranks_share_the_images(
    run: Path, val: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchrun starts them, one after the other: rank 1 leaves its share, rank 0 the results."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    words = whole(run, val, tmp_path)
    evaluate(*words)
    assert not (tmp_path / "results.json").exists()
    assert lines(tmp_path / ".progress" / "rank-1.jsonl") == 6  # of 6 images by 2 models
    monkeypatch.setenv("RANK", "0")
    evaluate(*words)
    assert lines(tmp_path / ".progress" / "rank-0.jsonl") == 6
    assert_equal(results(tmp_path), results(plain))


def test_rank_0_does_what_a_dead_rank_left(
    run: Path, val: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    evaluate(*whole(run, val, tmp_path))
    assert_equal(results(tmp_path), results(plain))


@pytest.mark.slow
def test_two_processes(
    run: Path, val: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 begins when the process beside it has done its share."""
    other = tmp_path / ".progress" / "rank-1.jsonl"
    do = Work.do

    def later(self: Work, tasks: list[Task], *, on_done: Callable[[Task], None]) -> None:
        until = time.monotonic() + 100
        while time.monotonic() < until and lines(other) < 6:
            time.sleep(0.05)
        do(self, tasks, on_done=on_done)

    monkeypatch.setattr(Work, "do", later)
    evaluate(*whole(run, val, tmp_path), "--devices", 2)
    assert lines(other) == lines(other.with_name("rank-0.jsonl")) == 6
    assert_equal(results(tmp_path), results(plain))


def test_classics_and_variants(val: Path, tmp_path: Path) -> None:
    words = ("lanczos", "nearest", "--border", 0, "--border", 4, "--unrounded", "--ssim", "reflect")
    evaluate(*words, "--data", f"tiny={val}", "-o", tmp_path)
    found = results(tmp_path)
    assert [model.name for model in found.models] == ["lanczos", "nearest", "bicubic"]
    nearest = found.models[1].data["tiny"]
    luma = np.array([65.481, 128.553, 24.966]) / 255
    for name in IMAGES:
        hr = read_rgb8(val / f"{name}.png")
        hr = hr[: hr.shape[0] // 2 * 2, : hr.shape[1] // 2 * 2]
        lr = bicubic_uint8(torch.from_numpy(hr.transpose(2, 0, 1).copy()), 2)
        sr = lr.permute(1, 2, 0).numpy().repeat(2, 0).repeat(2, 1)
        for border in (0, 4):
            error = ((sr.astype(float) - hr) @ luma)[
                border : len(hr) - border, border : len(hr) - border
            ]
            expected = 10 * math.log10(255**2 / (error**2).mean())
            assert nearest.images[name][f"psnr_y_border{border}"] == pytest.approx(
                expected, abs=1e-9
            )
    suffixes = {"border0", "border4", "reflect"}  # 8-bit images: unrounded is no other rule
    assert {name.split("_")[2] for name in nearest.means if name.count("_") == 2} == suffixes
    assert found.protocol["variants"].keys() == {*suffixes, "unrounded"}


# LR ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bicubic", [True, False])
def test_lr_that_is_given(val: Path, run: Path, tmp_path: Path, bicubic: bool) -> None:
    """Bicubic or not is found out: the PSNR against LR bears another name where it is not."""
    shutil.copytree(val, tmp_path / "set" / "HR")
    for path in sorted(val.iterdir()):
        hr = torch.from_numpy(read_rgb8(path)).permute(2, 0, 1)[None] / 255
        hr = hr[..., : hr.shape[-2] // 2 * 2, : hr.shape[-1] // 2 * 2]
        lr = Bicubic(scale=2)(hr) if bicubic else hr[..., ::2, ::2]
        levels = lr[0].mul(255).round().byte().permute(1, 2, 0).numpy()
        save(tmp_path / "set" / "LR" / path.name, np.ascontiguousarray(levels))
    evaluate(run, "--data", tmp_path / "set", "-o", tmp_path / "out")
    found = results(tmp_path / "out")
    said = found.protocol["data"]["set"]["lr"]
    means = found.models[0].data["set"].means
    assert ("lr_psnr" in means, "lr_psnr_bicubic" in means) == (bicubic, not bicubic)
    assert ("all 6 equal MATLAB's" in said) == bicubic


# What is left behind -------------------------------------------------------------------------


def test_files_and_tables(
    plain: Path, run: Path, val: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(*whole(run, val, plain), "--batch-pixels", 1, "--save-images")
    said = capsys.readouterr().out
    assert "tiny ×2, 6 images" in said
    assert max(map(len, said.split("tiny: LR")[0].splitlines())) <= 100
    rows = list(csv.DictReader((plain / "images.csv").read_text().splitlines()))
    assert [(row["model"], row["image"]) for row in rows] == [
        (model, image) for model in ("mine", "bicubic") for image in IMAGES
    ]
    found = results(plain)
    value = found.models[1].data["tiny"].images["image3"]["psnr_y"]
    assert float(rows[9]["psnr_y"]) == value
    assert f"{found.models[0].data['tiny'].means['psnr_y']:.3f}" in said
    assert sorted(path.stem for path in (plain / "images" / "mine" / "tiny").iterdir()) == IMAGES
    pictures = sorted((plain / "pictures").iterdir())
    assert 3 <= len(pictures) <= 5
    picture = read_rgb8(pictures[0])
    assert picture.shape[1] == 4 * 320 + 3 * 6  # LR, mine, bicubic, HR
    assert picture.std() > 20


def test_comparison_figures_and_report(run: Path, val: Path, tmp_path: Path) -> None:
    """All of one run's checkpoints and another model; what each shows is tested elsewhere."""
    words = (run, "nearest", "--no-bicubic", "--data", f"tiny={val}", "-o", tmp_path)
    evaluate(*words, report=True)
    rows = list(csv.DictReader((tmp_path / "comparison.csv").read_text().splitlines()))
    assert {(row["model"], row["reference"]) for row in rows} == {("nearest", "mine")}
    own, other = (model.data["tiny"].means["psnr_y"] for model in results(tmp_path).models)
    (row,) = (row for row in rows if row["metric"] == "psnr_y")
    assert float(row["mean"]) == pytest.approx(other - own, abs=1e-9)
    assert row["verdict"] == "better"  # a network of random weights
    page = (tmp_path / "report.html").read_text()
    assert all(name in page for name in ("mine", "nearest", "image5", "<svg"))
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert [name for name in names if name.startswith("plane_tiny")]
    assert "scatter_tiny_psnr_y_nearest.png" in names
    evaluate(*words[:1], *words[3:], "--reference", "mine", "--overwrite")
    left = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("."))
    assert "report.html" not in left  # it was of two models
    assert not list((tmp_path / "figures").iterdir())


def test_lpips_that_is_missing_is_said(
    val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    words = ("bicubic", "--data", f"tiny={val}", "-o", tmp_path / "out")
    evaluate(*words, "--lpips", "auto", "--dists", "auto")
    said = capsys.readouterr().out
    assert "LPIPS is absent" in said
    assert "DISTS is absent" in said
    assert not any("lpips" in name for name in results(tmp_path / "out").metrics("tiny"))


def test_every_checkpoint_of_a_run(run: Path, val: Path, tmp_path: Path) -> None:
    evaluate(run, "--every-checkpoint", "--no-bicubic", "--data", val, "-o", tmp_path)
    assert [model.name for model in results(tmp_path).models] == ["mine/1"]
    assert results(tmp_path).sets == ["val"]


def test_finished_images_are_measured_as_the_model_that_made_them(
    plain: Path, val: Path, tmp_path: Path
) -> None:
    folder = plain / "images" / "mine"
    evaluate(f"again={folder}", "--data", f"tiny={val}", "-o", tmp_path)
    own, made = results(tmp_path).models[0], results(plain).models[0]
    assert own.name == "again"
    for name, row in made.data["tiny"].images.items():
        of_files = {k: v for k, v in row.items() if not k.endswith("_unrounded")}
        assert own.data["tiny"].images[name] == of_files
    assert own.sha256 != made.sha256


# Stopped, and gone on with -------------------------------------------------------------------


def count_measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    add = Journal.add

    def counting(self: Journal, key: str, values: dict[str, float]) -> None:
        seen.append(key)
        add(self, key, values)

    monkeypatch.setattr(Journal, "add", counting)
    return seen


def test_a_killed_evaluation_goes_on(
    run: Path, val: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*whole(run, val, tmp_path), "--batch-pixels", 1)
    add = Journal.add

    def killed(self: Journal, key: str, values: dict[str, float]) -> None:
        if len(self.rows) == 4:
            raise KeyboardInterrupt
        add(self, key, values)

    monkeypatch.setattr(Journal, "add", killed)
    evaluate(*words, code=130)
    monkeypatch.setattr(Journal, "add", add)
    journal = tmp_path / ".progress" / "rank-0.jsonl"
    kept = journal.read_bytes()
    journal.write_bytes(kept + kept[: len(kept) // 9])  # and the next line was torn
    seen = count_measured(monkeypatch)
    evaluate(*words)
    assert len(seen) == 12 - 4
    assert_equal(results(tmp_path), results(plain), tolerance=0)
    seen.clear()
    evaluate(*words)
    assert seen == []


def test_what_has_changed_is_measured_anew(
    run: Path, val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(val, tmp_path / "val")
    words = [run, "--data", tmp_path / "val", "-o", tmp_path / "out"]
    evaluate(*words)
    seen = count_measured(monkeypatch)
    save(tmp_path / "val" / "image2.png", noise(40, 40, seed=1))
    evaluate(*words, code=2)  # the results there are of other images
    assert seen == []
    evaluate(*words, "--overwrite")
    assert len(seen) == 2  # one image, two models
    seen.clear()
    evaluate(*words, "--border", 0, "--overwrite")
    assert len(seen) == 12
    seen.clear()
    evaluate(*words, "nearest", "--overwrite")  # one model more
    assert len(seen) == 6


@pytest.mark.slow
def test_sigkill_in_the_middle(run: Path, val: Path, plain: Path, tmp_path: Path) -> None:
    words = [str(word) for word in (*whole(run, val, tmp_path), "--batch-pixels", 1)]
    command = [sys.executable, "-m", "srtrain", "evaluate", "--scale", "2", *QUIET, *words]
    journal = tmp_path / ".progress" / "rank-0.jsonl"
    with ending(subprocess.Popen(command, cwd=ROOT, env=os.environ.copy(), text=True)) as process:
        while process.poll() is None and not (journal.exists() and journal.stat().st_size):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = journal.read_bytes()
    evaluate(*words)
    assert journal.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    assert_equal(results(tmp_path), results(plain), tolerance=0)


def test_results_of_something_else_are_not_touched(val: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("mine")
    evaluate("bicubic", "--data", val, "-o", tmp_path, code=2)
    assert (tmp_path / "results.json").read_text() == "mine"


# Bad images ----------------------------------------------------------------------------------


@pytest.fixture
def damaged(val: Path, tmp_path: Path) -> Path:
    """Of six images one is cut off, one too small, one no image."""
    folder = tmp_path / "damaged"
    shutil.copytree(val, folder)
    (folder / "image1.png").write_bytes((folder / "image1.png").read_bytes()[:400])
    save(folder / "image2.png", noise(12, 40, seed=0))
    (folder / "image3.png").write_bytes(b"<html>")
    return folder


def test_bad_images_are_named_and_the_others_measured(
    run: Path, damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(run, "--data", f"tiny={damaged}", "-o", tmp_path / "out", code=3)
    said = capsys.readouterr().err
    for name, reason in {"1": "damaged", "2": "40x12 pixels", "3": "not a readable"}.items():
        assert [line for line in said.splitlines() if f"image{name}" in line and reason in line]
    for model in results(tmp_path / "out").models:
        assert list(model.data["tiny"].images) == ["image0", "image4", "image5"]


def test_only_bad_images(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "set" / "a.png", noise(8, 8, seed=0))
    evaluate(run, "--data", tmp_path / "set", "-o", tmp_path / "out", code=3)
    assert "no image could be measured" in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()


def test_an_image_that_one_model_spoils_is_left_out_for_all(
    run: Path,
    val: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    measure = Work._measure

    def spoilt(self: Work, good: list[object]) -> None:
        names = [(task.model.name, task.item.name) for task, _ in good]  # type: ignore[attr-defined]
        if ("mine", "image4") in names:
            raise RuntimeError("no such luck")
        measure(self, good)  # type: ignore[arg-type]

    monkeypatch.setattr(Work, "_measure", spoilt)
    evaluate(run, "--data", f"tiny={val}", "-o", tmp_path, code=3)
    said = capsys.readouterr().err
    assert "no such luck" in said
    assert "1 image left out" in said
    for model in results(tmp_path).models:
        assert list(model.data["tiny"].images) == [n for n in IMAGES if n != "image4"]


def test_a_model_that_fails_on_all_images_is_left_out(
    run: Path, val: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its weights are NaN: the others' figures stay."""
    content = read_checkpoint(run / "checkpoints" / "step-000001.ckpt")
    state = {name: value * math.nan for name, value in content["state_dict"].items()}
    broken = tmp_path / "broken"
    broken.mkdir()
    write_checkpoint(broken / "step-000001.ckpt", {**content, "state_dict": state})
    words = (broken, "nearest", "--data", f"tiny={val}", "--reference", "broken")
    evaluate(*words, "-o", tmp_path / "out", code=3)
    said = capsys.readouterr().err
    assert "not finite" in said
    assert "note: broken is left out: none of its images could be measured" in said
    assert "every model's means" not in said
    found = results(tmp_path / "out")
    assert [model.name for model in found.models] == ["nearest", "bicubic"]
    assert list(found.models[0].data["tiny"].images) == IMAGES


def test_names_are_never_markup(run: Path, val: Path, tmp_path: Path) -> None:
    """Of models, sets and files: neither the terminal's, nor HTML, nor UTF-8."""
    folder = tmp_path / "set"
    folder.mkdir()
    for index, name in enumerate(
        (b"[red]\xff", b"[/b]<script>alert(1)</script>".replace(b"/", b"_"))
    ):
        shutil.copy(val / f"image{index}.png", os.fsencode(folder) + b"/" + name + b".png")
    words = (f"[bold]={run}", "a[b]=nearest", "--data", f"[x]={folder}")
    evaluate(*words, "-o", tmp_path / "out", "--save-images", report=True)
    found = results(tmp_path / "out")
    assert [model.name for model in found.models] == ["[bold]", "a[b]", "bicubic"]


def test_the_journal_is_json_lines(plain: Path) -> None:
    lines = (plain / ".progress" / "rank-0.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines if line]
    assert len({row["key"] for row in rows}) == 12
