"""Published images and models give the figures that others measured of them.

Who computed the expected values: an implementation of the protocol independent of this project
(``published/reference.json`` and the READMEs of the shared material), on Set5.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from srtrain.cli.evaluate.sets import open_sets
from srtrain.cli.main import main
from srtrain.degradation.resize import bicubic_uint8
from srtrain.evaluation.results import Results, read_results
from srtrain.images import read_rgb8

if TYPE_CHECKING:
    from pathlib import Path

DECIBEL, SIMILARITY = 0.001, 0.0001


def evaluated(shared: Path, out: Path, *words: object, scale: int) -> Results:
    data = f"Set5={shared / 'data' / 'Set5'}"
    options = ["--scale", scale, "--data", data, "-o", out, "--dists", "none", "--no-report"]
    assert main(["evaluate", *map(str, [*words, *options])]) == 0
    return read_results(out / "results.json")


@pytest.mark.parametrize(
    ("scale", "bicubic"),
    [(2, (33.673, 0.9303)), (3, (30.403, 0.8689)), (4, (28.429, 0.8111))],
)
def test_finished_images_image_by_image(
    shared: Path, tmp_path: Path, scale: int, bicubic: tuple[float, float]
) -> None:
    name = f"BSRN_x{scale}"
    folder = shared / "data" / "published" / name
    found = evaluated(shared, tmp_path, folder, "--lpips", "none", scale=scale)
    assert [model.name for model in found.models] == [name, "bicubic"]
    own, baseline = (model.data["Set5"] for model in found.models)
    reference = json.loads((folder.parent / "reference.json").read_text())[name]["Set5"]
    assert own.images.keys() == reference["images"].keys()
    rows = {"mean": own.means, **own.images}
    for image, expected in {"mean": reference, **reference["images"]}.items():
        row = rows[image]
        assert row["psnr_y"] == pytest.approx(expected["psnr_y"], abs=DECIBEL), image
        assert row["ssim_y"] == pytest.approx(expected["ssim_y"], abs=SIMILARITY), image
    means = baseline.means["psnr_y"], baseline.means["ssim_y"]
    assert means == pytest.approx(bicubic, abs=DECIBEL)
    assert means[1] == pytest.approx(bicubic[1], abs=SIMILARITY)


def test_lpips_of_bicubic(shared: Path, tmp_path: Path) -> None:
    weights = shared / "weights" / "squeezenet1_1_features.safetensors"
    words = ("bicubic", "--lpips", "squeeze", "--features", weights)
    found = evaluated(shared, tmp_path, *words, scale=4)
    assert len(found.models) == 1
    assert found.models[0].data["Set5"].means["lpips_squeeze"] == pytest.approx(0.2859, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scale", "psnr", "ssim"),
    [(2, 38.246, 0.96135), (3, 34.697, 0.92940), (4, 32.523, 0.89902)],
)
def test_community_model(
    shared: Path, tmp_path: Path, scale: int, psnr: float, ssim: float
) -> None:
    file = shared / "models" / f"DCTLSA_x{scale}.safetensors"
    found = evaluated(shared, tmp_path, file, "--lpips", "none", "--no-bicubic", scale=scale)
    assert [model.name for model in found.models] == [f"DCTLSA_x{scale}"]
    means = found.models[0].data["Set5"].means
    assert means["psnr_y"] == pytest.approx(psnr, abs=DECIBEL)
    assert means["ssim_y"] == pytest.approx(ssim, abs=SIMILARITY)
    assert found.protocol["models"] == {}  # nothing was approximate


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_lr_that_is_made_is_matlabs(shared: Path, scale: int) -> None:
    (data,) = open_sets([str(shared / "data" / "Set5")], scale=scale)
    assert len(data.items) == 5
    for item in data.items:
        hr = torch.from_numpy(read_rgb8(item.hr)).permute(2, 0, 1)
        assert item.lr is not None
        made = bicubic_uint8(hr[:, : item.size[0], : item.size[1]], scale).permute(1, 2, 0)
        np.testing.assert_array_equal(made.numpy(), read_rgb8(item.lr))
