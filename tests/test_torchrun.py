"""Two ranks under torchrun itself: one folder, a start from a file, and a resumed half."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from srtrain.files import read_json
from srtrain.training.run_folder import RunFolder
from tests.training import draw_sets, train, weights, words

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Finished

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "srtrain")


@pytest.mark.slow
def test_torchrun_from_a_file_then_resumed_is_one_rank(
    tmp_path: Path, run_srtrain: Callable[..., Finished]
) -> None:
    images = draw_sets(tmp_path / "images")
    trained = train(images, tmp_path / "trained").checkpoints / "step-000006.ckpt"
    one = train(images, tmp_path / "one", f"init_from={trained}", "seed=1")

    asked = words(images, Path(), f"init_from={trained}", "seed=1", "trainer=ddp")
    asked = [word for word in asked if not word.startswith("run_dir=")]
    done = run_srtrain(*asked, module=TORCHRUN, cwd=tmp_path)
    assert done.rc == 0, done.stderr
    (path,) = (tmp_path / "outputs").glob("*/*")  # each rank's clock would have named its own
    two = RunFolder(path)
    assert _measured(two, 0) == pytest.approx(_measured(one, 0), rel=1e-6, abs=1e-6)
    assert _measured(two, 0)["val/tiny/psnr_y"] != _measured(two, 0)["bicubic/tiny/psnr_y"]

    _cut_back(two, step=4)
    done = run_srtrain(f"resume={path}")
    assert done.rc == 0, done.stderr
    assert "resumed from step 4" in done.stdout
    for name, value in weights(one, 6).items():
        torch.testing.assert_close(weights(two, 6)[name], value, atol=1e-6, rtol=0)
    assert _measured(two, 6) == pytest.approx(_measured(one, 6), rel=1e-5)
    rows = [[(step, name) for step, name, _ in run.read_metrics()] for run in (one, two)]
    assert rows[0] == rows[1]
    assert read_json(two.summary)["bicubic"] == read_json(one.summary)["bicubic"]


def _measured(run: RunFolder, step: int) -> dict[str, float]:
    return {
        name: value
        for at, name, value in run.read_metrics()
        if at == step and name.startswith(("val/", "bicubic/"))
    }


def _cut_back(run: RunFolder, *, step: int) -> None:
    """As a kill soon after ``step`` would have left it."""
    for path in run.checkpoints.glob("step-*.ckpt"):
        if int(path.stem.removeprefix("step-")) > step:
            path.unlink()
