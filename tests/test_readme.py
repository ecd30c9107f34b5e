"""Every command and file of the README, every command of CLUSTER.md: composed, or run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from srtrain.cli.flags import read_flags
from srtrain.cli.main import SUBCOMMANDS
from srtrain.config.preflight import prepare

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Finished

ROOT = Path(__file__).resolve().parents[1]
README, CLUSTER = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CLUSTER.md")
)
PROGRAMS = ("srtrain", "python -m srtrain", ".venv/bin/python -m srtrain")


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = "".join([*blocks("sh"), *blocks("sh", CLUSTER)]).splitlines()
    parts = [part for line in lines for part in line.partition("#")[0].split("&&")]
    return [part.strip() for part in parts if part.strip()]


def trainings() -> list[str]:
    """The words of every command that trains, also through Slurm."""
    found = []
    for command in commands():
        words = (
            command.partition("train.sbatch ")[2]
            if command.startswith("sbatch")
            else next((command[len(p) + 1 :] for p in PROGRAMS if command.startswith(p + " ")), "")
        )
        if words and words.split()[0] not in SUBCOMMANDS:
            found.append(words)
    return found


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the README's own package and configuration, and the photos that it names."""
    for text in (*blocks("python"), *blocks("yaml")):
        for file, content in re.findall(r"^# (my\S+)\n(.*?)(?=^# my|\Z)", text, re.M | re.S):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(content, encoding="utf-8")
    noise = np.random.default_rng(0).integers(0, 256, (3, 120, 130, 3), np.uint8)
    for folder in ("photos", "more", "bench/Set5/HR"):
        (tmp_path / folder).mkdir(parents=True)
        for number, pixels in enumerate(noise):
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    (tmp_path / "outputs/mse/2026-01-01_12-00-00").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def here(words: str, folder: Path) -> list[str]:
    """The words with /photos, /more and /bench below ``folder``, as a first task's."""
    words = re.sub(r"(?<![\w/])/(?=photos|more|bench)", f"{folder}/", words)
    return shlex.split(words.replace("%a", "1").replace("@runs.txt", ""))


def test_the_readme_is_short() -> None:
    assert README.count("\n") <= 150
    assert len(trainings()) >= 7


@pytest.mark.parametrize("command", commands())
def test_command_exists(command: str, run_srtrain: Callable[..., Finished]) -> None:
    program, *words = shlex.split(command)
    if program == "make":
        subprocess.run(["make", "-n", *words], cwd=ROOT, check=True, capture_output=True)
    elif program in {"sh", "sbatch"}:
        script = next(word for word in words if not word.startswith("-"))
        assert (ROOT / script).is_file()
    elif program == "srtrain" and words[0] in SUBCOMMANDS:
        told = run_srtrain(words[0], "--help")
        assert told.rc == 0, told.stderr
        options = [word for word in words if re.match(r"--?[a-z]", word)]
        assert [option for option in options if option not in told.stdout] == []
    else:
        assert command.startswith(PROGRAMS), "a command that no test knows"


@pytest.mark.parametrize("words", trainings())
def test_training_composes(words: str, example: Path) -> None:
    request = read_flags(here(words, example))
    assert prepare(request.words, config_dirs=request.config_dirs).config.scale in {2, 4}


def test_the_tour_leads_to_files() -> None:
    tour = README.partition("## Read these files first")[2]
    files = re.findall(r"`([\w/]+\.\w+)`", tour)
    assert len(files) > 6
    assert [file for file in files if not (ROOT / file).is_file()] == []


@pytest.mark.slow
def test_own_package_trains_and_upscales(
    example: Path, run_srtrain: Callable[..., Finished]
) -> None:
    """The README's parts, as printed there: trained, saved, and rebuilt from the checkpoint."""
    (command,) = (words for words in trainings() if "--config-dir" in words)
    small = ["trainer.max_steps=2", "trainer.val_every_n_steps=2", "logger=none", "run_dir=run"]
    done = run_srtrain(*here(command, example), *small, cwd=example)
    assert done.rc == 0, done.stderr
    photo = example / "photos" / "0.png"
    refused = run_srtrain("infer", "run", photo, "-o", "out", cwd=example)
    assert (refused.rc, "--trust mypkg" in refused.stderr) == (4, True), refused.stderr
    done = run_srtrain("infer", "run", photo, "-o", "out", "--trust", "mypkg", cwd=example)
    assert done.rc == 0, done.stderr
    with Image.open(example / "out" / "0.png") as upscaled:
        assert upscaled.size == (4 * 130, 4 * 120)


@pytest.mark.slow
def test_load_model_as_printed(example: Path, run_srtrain: Callable[..., Finished]) -> None:
    small = ("budget=smoke", "trainer.max_steps=2", "logger=none", "run_dir=run")
    done = run_srtrain("experiment=mse", *small, cwd=example)
    assert done.rc == 0, done.stderr
    (code,) = (text for text in blocks("python") if "load_model" in text)
    code = re.sub(r'load_model\(".*?"\)', 'load_model("run")', code)
    prologue = "import numpy; image = numpy.zeros((5, 6, 3), numpy.uint8)\n"
    epilogue = "\nassert model.upscale(image).shape == (20, 24, 3)"
    subprocess.run([sys.executable, "-c", prologue + code + epilogue], cwd=example, check=True)
