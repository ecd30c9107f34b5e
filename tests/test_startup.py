"""What a start imports, and how the suite `startup` counts it; seconds are for that suite alone."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from srtrain.cli.benchmark import startup
from srtrain.cli.benchmark.options import add_common
from srtrain.training import wandb
from tests.conftest import ROOT
from tests.training import draw_sets, words

if TYPE_CHECKING:
    from pathlib import Path

# Whoever needs one imports it: blind degradations, W&B, community files, export, the photos.
ON_DEMAND = {"kornia", "wandb", "spandrel", "onnx", "onnxruntime", "skimage", "imageio", "cv2"}

PLAIN_RUN = """
import json, sys
import torch, lightning.pytorch
before = set(sys.modules)
from srtrain.cli.main import main
code = main(sys.argv[1:])
found = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps([code, sorted(found)]))
"""


def test_a_plain_run_imports_what_it_uses(tmp_path: Path) -> None:
    """Beyond Lightning, which imports torchmetrics, and with it SciPy and matplotlib, by itself."""
    images = draw_sets(tmp_path)
    command = words(images, tmp_path / "run", "trainer.max_steps=2", "logger=none")
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_RUN, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    code, found = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    assert "srtrain" in found
    assert not ON_DEMAND & {*found}


def test_wandb_starts_without_its_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless this process has staged inputs for it, and so imported it."""
    from wandb import Run

    applied: list[Run] = []
    monkeypatch.setattr(Run, wandb.APPLY_INPUTS, lambda run: applied.append(run))
    for number, staged in enumerate((False, True)):
        if staged:
            monkeypatch.setitem(sys.modules, wandb.LAUNCH_INPUTS, sys)
        else:
            monkeypatch.delitem(sys.modules, wandb.LAUNCH_INPUTS, raising=False)
        logger = wandb.wandb_logger(
            run_dir=tmp_path / str(number),
            project="p",
            entity=None,
            name=None,
            tags=[],
            mode="offline",
        )
        assert logger is not None
        logger.close()
        assert len(applied) == number


def options_of(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_common(parser)
    startup.add_options(parser)
    return parser.parse_args([*given])


def test_what_a_start_takes_beyond_its_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: round 0 warms up; imports take 8, the first step 2 with one image, 5 with five."""

    def first_step(starts: startup.Starts, found: list[startup.FirstStep], *words: str) -> float:
        found.append(startup.FirstStep(8.0, (2.0 if words else 5.0) + 90 * (not found)))
        return 0.0

    monkeypatch.setattr(startup, "draw_pictures", lambda *_, **__: None)
    monkeypatch.setattr(startup, "_process", lambda words: 0.25 * ("--help" in words) or 1.0)
    monkeypatch.setattr(startup.Starts, "first_step", first_step)
    early, first = startup.measure(options_of("--rounds", "2")).tables
    assert {arm.name: arm.rounds for arm in first.arms} == {
        startup.ONE: [2.0, 2.0],
        startup.FIVE: [5.0, 5.0],
    }
    assert {arm.name: early.ratios(arm) for arm in early.arms} == {
        "imports": None,
        "--help": (0.03125, 0.03125, 0.03125),
        "a refused command": (0.125, 0.125, 0.125),
    }


@pytest.mark.slow
def test_starts_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    small = "data.hr_patch_size=16", "data.batch_size=2", "generator.num_blocks=1"
    options = options_of("--rounds", "1", "--logger", "none", "--override", *small)
    monkeypatch.setattr(startup, "EARLY", {"--help": ["--help"]})
    early, first = startup.measure(options).tables
    imports, words = (arm.rounds[0] for arm in early.arms)
    one, five = (arm.rounds[0] for arm in first.arms)
    assert 0 < words < imports
    assert 0 < one < five
