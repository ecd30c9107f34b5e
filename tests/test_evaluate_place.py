"""What lies in OUT is what the last command says, and nobody else's files are touched."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pytest
import torch

from srtrain.cli.evaluate import run as running
from srtrain.cli.evaluate import write
from srtrain.cli.evaluate.journal import Journal
from srtrain.cli.evaluate.models import Network
from srtrain.cli.evaluate.naming import LONGEST, Names
from srtrain.cli.evaluate.sets import open_sets
from srtrain.cli.evaluate.words import name_models
from srtrain.cli.evaluate.work import Work
from srtrain.cli.evaluate.workers import Share
from srtrain.errors import ConfigError
from srtrain.images import read_rgb8
from tests.data import noise, save
from tests.evaluating import evaluate, make_run, results

if TYPE_CHECKING:
    from srtrain.evaluation.results import Values


@pytest.fixture
def val(tmp_path: Path) -> Path:
    """Three images of 32²."""
    for index in range(3):
        save(tmp_path / "val" / f"image{index}.png", noise(32, 32, seed=index))
    return tmp_path / "val"


def fail(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("no such luck")


# SR images -----------------------------------------------------------------------------------


def test_saved_images_are_of_the_model_that_was_measured(val: Path, tmp_path: Path) -> None:
    """Of one name three times: bicubic, nearest, and bicubic again, whose figures are known."""
    out = tmp_path / "out"
    own = out / "images" / "m" / "val" / "image0.png"
    seen = []
    for word in ("bicubic", "nearest", "bicubic"):
        evaluate(f"m={word}", "--data", val, "-o", out, "--save-images", "--overwrite")
        seen.append(read_rgb8(own))
    assert (seen[0] != seen[1]).any()
    np.testing.assert_array_equal(seen[2], seen[0])
    assert [path.name for path in (out / "images").iterdir()] == ["m"]  # nearest's bicubic is gone


def test_two_names_of_one_model_have_images_each(val: Path, tmp_path: Path) -> None:
    evaluate("a=nearest", "b=nearest", "--data", val, "-o", tmp_path / "out", "--save-images")
    for name in ("a", "b", "bicubic"):
        assert len([*(tmp_path / "out" / "images" / name / "val").iterdir()]) == 3


def test_what_a_kill_left_among_saved_images_goes(val: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "images" / "nearest" / "val"
    folder.mkdir(parents=True)
    (folder / ".image1.png.0123abcd.tmp").touch()
    words = ("nearest", "--no-bicubic", "--data", val, "-o", tmp_path / "out")
    evaluate(*words, "--save-images")
    assert sorted(path.name for path in folder.iterdir()) == [f"image{k}.png" for k in range(3)]


# Whose files they are ------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize("name", ["results.json", "report.html", "images.csv", "comparison.json"])
def test_folders_of_something_else_are_not_touched(
    val: Path, tmp_path: Path, name: str, overwrite: list[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    evaluate("nearest", "--data", val, "-o", tmp_path / "run", *overwrite, code=2)
    assert {path.name: path.read_text() for path in (tmp_path / "run").iterdir()} == {name: "mine"}


def test_lists_in_out_name_nothing_outside_of_it(val: Path, tmp_path: Path) -> None:
    """OUT may come from anybody: what it says it made is removed only inside of it."""
    out = tmp_path / "out"
    victims = [tmp_path / "victim", out / "victim", out / "victims" / "victim"]
    evaluate("nearest", "--data", val, "-o", out, "--save-images")
    for victim in victims:
        victim.parent.mkdir(exist_ok=True)
        victim.touch()
    (out / "pictures" / "linked").symlink_to(tmp_path, target_is_directory=True)
    (out / "images" / "linked").symlink_to(tmp_path, target_is_directory=True)
    names = ["../victim", "victim", "victims/victim", str(victims[0]), "pictures/linked/victim"]
    names += ["pictures/../../victim", "images/linked/victim", "images/../victim"]
    said = {"evaluation": "another", "pictures": names}
    (out / ".progress" / "evaluation.json").write_text(json.dumps(said))
    for index, name in enumerate(names):
        mark = out / ".progress" / "images" / f"{index}.json"
        mark.write_text(json.dumps({"image": name, "key": "x"}))
    evaluate("lanczos", "--data", val, "-o", out, "--overwrite")
    assert all(victim.exists() for victim in victims)


def test_a_failed_evaluation_takes_nothing_away(
    val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    evaluate("nearest", "--no-bicubic", "--data", val, "-o", out, report=True)
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert {path.name for path in before} >= {"results.json", "report.html", "images.csv"}
    monkeypatch.setattr(Work, "_measure", fail)
    evaluate("lanczos", "--no-bicubic", "--data", val, "-o", out, "--overwrite", code=3)
    assert {path: path.read_bytes() for path in before} == before
    monkeypatch.undo()
    evaluate("nearest", "--no-bicubic", "--data", val, "-o", out)  # is still whose it was


def test_figures_and_report_are_of_the_last_command(
    val: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("nearest", "lanczos", "--data", val, "-o", tmp_path / "out")
    evaluate(*words, report=True)
    first = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    evaluate(*words, "--reference", "lanczos", report=True)
    second = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert any("psnr_y_lanczos" in name for name in first)
    assert not any("psnr_y_lanczos" in name for name in second)
    capsys.readouterr()
    evaluate(*words)  # --no-report
    assert not (tmp_path / "out" / "report.html").exists()
    assert "report.html" not in capsys.readouterr().out


# What fails beside the figures ---------------------------------------------------------------


@pytest.mark.parametrize("what", ["looks", "figures_of", "write_page", "draw_figures"])
def test_pictures_that_fail_cost_a_warning(
    val: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    what: str,
) -> None:
    words = ("nearest", "--data", val, "-o", tmp_path / "out")
    monkeypatch.setattr(write, what, fail)
    with caplog.at_level(logging.WARNING):
        evaluate(*words, report=True)
    assert "not written: RuntimeError: no such luck" in caplog.text
    assert [model.name for model in results(tmp_path / "out").models] == ["nearest", "bicubic"]
    assert (tmp_path / "out" / "report.html").exists() == (what != "write_page")


def test_names_are_no_formulas(val: Path, tmp_path: Path) -> None:
    for index, name in enumerate(("cost_$0_$5.png", "a\x1b[31mx.png", "ж" * 90 + ".png")):
        (val / f"image{index}.png").rename(val / name)
    words = ("q$\\x$=lanczos", "--data", f"$a$\t={val}", "-o", tmp_path / "out", "--save-images")
    evaluate(*words, report=True)
    assert (tmp_path / "out" / "report.html").exists()
    assert len([*(tmp_path / "out" / "pictures").iterdir()]) == 3


def test_a_process_that_cannot_be_started_is_told(
    val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    words = ("nearest", "--data", val, "-o", tmp_path / "out", "--devices", 2, "--device", "cpu")
    evaluate(*words, code=4)
    assert "cannot start a process: Resource" in capsys.readouterr().err


# Names of files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        [("s", "b c"), ("s", "b_c")],
        [("s", "a/b"), ("s", "a_b"), ("s_a", "b")],
        [("s", "Baby"), ("s", "baby")],
        [("s", "字" * 80 + "1"), ("s", "字" * 80 + "2")],
        [("s", "a\udcff"), ("s", "a\udcfe")],
    ],
)
def test_no_two_files_are_called_alike(parts: list[tuple[str, str]]) -> None:
    names = Names()
    found = [names.of(*own) for own in parts]
    assert len({name.casefold() for name in found}) == len(parts)
    assert all(len(name.encode()) <= LONGEST + 9 for name in found)
    assert not any("/" in name or " " in name for name in found)


def test_sets_and_models_have_names_of_folders(
    val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (val / "inside").mkdir()
    make_run(tmp_path / "mine")
    monkeypatch.chdir(val / "inside")
    (data,) = open_sets([".."], scale=2)
    assert data.name == "val"
    monkeypatch.chdir(tmp_path / "mine" / "checkpoints")
    (model,) = name_models([".."], baseline=False)
    assert model.name == "mine"


# Sentences -----------------------------------------------------------------------------------


def test_blended_images_are_said_to_be_in_every_later_evaluation(
    val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What blended them was another process: all comes from the journal."""
    words = (make_run(tmp_path / "mine"), "--data", val, "-o", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(Network, "approximate", True)
        upscale = Network.upscale

        def blending(self: Network, *given: object) -> torch.Tensor:
            sr = upscale(self, *given)  # type: ignore[arg-type]
            self.approximate = True
            return sr

        patch.setattr(Network, "upscale", blending)
        evaluate(*words)
    for _ in range(2):
        assert "mine: blended from tiles: approximate" in capsys.readouterr().out
        assert results(tmp_path / "out").protocol["models"] == {
            "mine": "blended from tiles: approximate"
        }
        evaluate(*words)


def test_a_model_that_fails_on_one_set_keeps_the_others(
    val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(3):  # other pixels: of the same it would be the same measurement
        save(tmp_path / "large" / f"image{index}.png", noise(32, 32, seed=9 + index))
    measure = Work._measure

    def spoilt(self: Work, good: list[object]) -> None:
        tasks = [(task.model.name, task.data.name) for task, _ in good]  # type: ignore[attr-defined]
        if ("lanczos", "large") in tasks:
            raise RuntimeError("out of memory")
        measure(self, good)  # type: ignore[arg-type]

    monkeypatch.setattr(Work, "_measure", spoilt)
    words = ("lanczos", "nearest", "--data", tmp_path / "large", val, "-o", tmp_path / "out")
    evaluate(*words, code=3, report=True)
    said = capsys.readouterr().err
    assert "lanczos is left out on large: none of its images could be measured" in said
    assert "every model's means" not in said
    found = {model.name: [*model.data] for model in results(tmp_path / "out").models}
    both = ["large", "val"]
    assert found == {"lanczos": ["val"], "nearest": both, "bicubic": both}
    assert "lanczos is left out on large" in (tmp_path / "out" / "report.html").read_text()


# Several processes ---------------------------------------------------------------------------


def test_a_rank_learns_what_the_others_have_done(
    val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 has done all while rank 1 was at its first image."""
    words = ("nearest", "--data", val, "--batch-pixels", 1, "-o")
    evaluate(*words, tmp_path / "whole")
    done = (tmp_path / "whole" / ".progress" / "rank-0.jsonl").read_bytes()
    seen: list[str] = []
    add = Journal.add

    def adding(self: Journal, key: str, values: Values) -> None:
        seen.append(key)
        (self.folder / "rank-0.jsonl").write_bytes(done)
        add(self, key, values)

    monkeypatch.setattr(Journal, "add", adding)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    evaluate(*words, tmp_path / "out")
    assert len(seen) == 1  # of three


def test_the_protocol_counts_all_ranks(
    val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    evaluate("nearest", "--data", val, "-o", tmp_path / "out")
    assert results(tmp_path / "out").protocol["devices"] == 3


@pytest.mark.parametrize(
    ("device", "share", "gpus", "own"),
    [
        ("cuda", Share(0, 2, 0), 2, "cuda:0"),
        ("cuda", Share(0, 4, 0), 2, "4 processes for 2 GPUs"),
        ("cuda:1", Share(0, 1, 0), 2, "cuda:1"),
        ("cuda:1", Share(0, 2, 0), 2, "one GPU for several processes"),
        ("cpu", Share(0, 8, 0), 0, "cpu"),
    ],
)
def test_each_process_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, device: str, share: Share, gpus: int, own: str
) -> None:
    monkeypatch.setattr(running, "pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    for name in ("RANK", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delitem(os.environ, name, raising=False)
    if " " in own:
        with pytest.raises(ConfigError, match=own):
            running._own_device(device, share)
    else:
        assert running._own_device(device, share) == torch.device(own)
