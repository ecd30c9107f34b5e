"""A run that predicts bands, from outside: figures, pictures, checkpoint, resuming, use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from srtrain import load_model
from srtrain.cli.table import band_lines
from srtrain.errors import ConfigError
from srtrain.files import read_json
from srtrain.networks.storage import read_checkpoint
from tests.training import cut_back, draw_sets, train, weights

if TYPE_CHECKING:
    from pathlib import Path

    from srtrain.training.run_folder import RunFolder

LIKELIHOODS = ["gaussian_nll", "laplace_nll"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def quantile(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(images, tmp_path_factory.mktemp("runs") / "quantile", "experiment=quantile")


def test_the_report_says_what_the_band_holds() -> None:
    row = {"coverage_raw": 0.8612, "band_width_raw": 23.81}
    both = {**row, "coverage": 0.9004, "band_width": 25.67}
    lines = band_lines({"a": both, "b": row}, {"level": 0.9})
    assert lines == [
        "The 90% band of a holds 86.1% as trained, 23.8 levels wide;"
        " 90.0% calibrated on the other images, 25.7 levels wide",
        "The 90% band of b holds 86.1% as trained, 23.8 levels wide",
    ]


def test_figures_and_pictures_of_the_band(quantile: RunFolder) -> None:
    row = read_json(quantile.summary)["val"]["tiny"]
    assert {"coverage_raw", "coverage", "band_width_raw", "band_width"} <= row.keys()
    assert 0 < row["coverage"] <= 1
    assert "coverage" not in read_json(quantile.summary)["bicubic"]["tiny"]
    assert (quantile.samples / "tiny_image0_band.png").exists()


def test_the_checkpoint_gives_the_median_and_its_band(quantile: RunFolder) -> None:
    content = read_checkpoint(quantile.checkpoints / "step-000006.ckpt")
    assert content["head"]["kwargs"] == {"taus": [0.05, 0.5, 0.95]}
    assert content["calibration"]["images"] == 3
    assert content["calibration"]["step"] == 6
    model = load_model(quantile.path, device="cpu")
    image = torch.rand(3, 12, 9)
    lower, upper = model.bands(image, level=0.9)
    sr = model.upscale(image)
    assert lower.shape == upper.shape == sr.shape == (3, 24, 18)
    assert ((lower <= sr) & (sr <= upper)).all()
    assert 0 <= lower.min() < upper.max() <= 1
    model.tile = 5
    for bound, tiled in zip((lower, upper), model.bands(image), strict=True):
        torch.testing.assert_close(tiled, bound, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"band of 0\.5"):
        model.bands(image, level=0.5)
    with pytest.raises(ValueError, match="RGB"):
        model.bands(image[:1])


@pytest.mark.parametrize(
    "kind", ["PIL", "uint8", "uint16", "float32", "float64", "tensor uint8", "tensor float16"]
)
def test_bounds_are_of_the_kind_given(quantile: RunFolder, kind: str) -> None:
    """And those of the plain tensor, rounded as that kind is; ``upscale`` lies between."""
    model = load_model(quantile.path, device="cpu")
    levels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    plain = torch.from_numpy(levels).permute(2, 0, 1)
    image: Any = {
        "PIL": Image.fromarray(levels),
        "uint8": levels,
        "uint16": levels.astype(np.uint16) * 257,
        "float32": levels.astype(np.float32) / 255,
        "float64": levels / 255,
        "tensor uint8": plain,
        "tensor float16": (plain / 255).half(),
    }[kind]
    sr = model.upscale(image)
    found = model.bands(image)
    for bound, expected in zip(found, model.bands(plain / 255), strict=True):
        assert type(bound) is type(sr)
        array, top = np.asarray(bound), {"uint16": 65535}.get(kind, 255)
        assert array.dtype == np.asarray(sr).dtype
        unit = array / top if array.dtype.kind == "u" else array.astype(np.float64)
        hwc = unit.transpose(1, 2, 0) if kind.startswith("tensor") else unit
        np.testing.assert_allclose(hwc, expected.permute(1, 2, 0), rtol=0, atol=0.501 / 255)
    lower, middle, upper = (np.asarray(part) for part in (found.lower, sr, found.upper))
    assert ((lower <= middle) & (middle <= upper)).all()
    assert (lower < upper).any()


@pytest.mark.parametrize(
    ("image", "error", "said"),
    [
        (Image.new("L", (8, 8)), ValueError, "mode L"),
        (Image.new("RGBA", (8, 8)), ValueError, "mode RGBA"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, r"RGB \(H, W, 3\), got \(3, 8, 8\)"),
        (np.zeros((8, 8, 3), np.int64), TypeError, "got int64: cast to uint8"),
        (np.full((8, 8, 3), 255.0), ValueError, "divide by 255"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), TypeError, "int64: cast to uint8"),
        ("image.png", TypeError, "got str"),
    ],
)
def test_other_images_have_no_bounds(
    quantile: RunFolder, image: object, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        load_model(quantile.path, device="cpu").bands(cast("Any", image))


def test_a_self_ensemble_has_bands_of_its_own(quantile: RunFolder) -> None:
    """Of the mean maps: an image turned has its band turned, around the ensemble's median."""
    model = load_model(quantile.path, device="cpu")
    image = torch.rand(3, 9, 9)
    single = model.bands(image)
    model.self_ensemble = True
    band = model.bands(image)
    for bound, turned, alone in zip(band, model.bands(image.rot90(1, (1, 2))), single, strict=True):
        torch.testing.assert_close(turned, bound.rot90(1, (1, 2)), rtol=0, atol=1e-5)
        assert not torch.allclose(bound, alone, rtol=0, atol=1e-4)
    sr = model.upscale(image)
    assert ((band.lower <= sr) & (sr <= band.upper)).all()


def test_the_kept_band_is_the_one_that_was_measured(quantile: RunFolder, images: Path) -> None:
    """All three images calibrated it: together they hold 90 % in it, and what clipping adds."""
    from srtrain.degradation.resize import Bicubic
    from srtrain.images import read_rgb8

    model = load_model(quantile.path, device="cpu")
    held = []
    for path in sorted((images / "val").glob("*.png")):
        hr = torch.from_numpy(read_rgb8(path)).permute(2, 0, 1)[None].float() / 255
        lower, upper = model.bands(Bicubic(scale=2)(hr, None))
        held.append(float(((lower <= hr) & (hr <= upper)).float().mean()))
    assert sum(held) / len(held) == pytest.approx(0.9, abs=0.005)


def test_resumed_bands_are_the_same(quantile: RunFolder, images: Path, tmp_path: Path) -> None:
    part = cut_back(quantile, tmp_path / "part", 4)
    resumed = train(images, part.path, "experiment=quantile")
    straight = weights(quantile, 6)
    assert straight.keys() == weights(resumed, 6).keys()
    assert all(torch.equal(value, straight[name]) for name, value in weights(resumed, 6).items())
    ends = (read_checkpoint(run.checkpoints / "step-000006.ckpt") for run in (quantile, resumed))
    before, after = (content["calibration"] for content in ends)
    assert before == after


def test_another_head_is_another_run(quantile: RunFolder, images: Path) -> None:
    train(images, quantile.path, "experiment=gaussian_nll", "trainer.max_steps=9", code=2)


@pytest.mark.parametrize("experiment", LIKELIHOODS)
def test_likelihoods_train(experiment: str, images: Path, tmp_path: Path) -> None:
    run = train(images, tmp_path, f"experiment={experiment}", "trainer.max_steps=2")
    assert read_json(run.summary)["val"]["tiny"]["band_width"] > 0
    lower, upper = load_model(run.path, device="cpu").bands(torch.rand(3, 8, 8), level=0.5)
    assert (lower <= upper).all()
    assert (upper - lower).mean() > 1 / 255


@pytest.mark.parametrize(
    "experiment",
    ["quantile", *(pytest.param(name, marks=pytest.mark.slow) for name in LIKELIHOODS)],
)
def test_the_adversary_judges_the_point(experiment: str, images: Path, tmp_path: Path) -> None:
    words = ["discriminator=patchgan_lite", "data.hr_patch_size=36", "trainer.max_steps=2"]
    run = train(images, tmp_path, f"experiment={experiment}", *words)
    summary = read_json(run.summary)
    assert summary["discriminator_steps"] == 2
    assert "coverage" in summary["val"]["tiny"]


def test_models_of_one_image_have_no_band(images: Path, tmp_path: Path) -> None:
    run = train(images, tmp_path, "trainer.max_steps=1")
    assert not {"coverage", "coverage_raw"} & read_json(run.summary)["val"]["tiny"].keys()
    assert not list(run.samples.glob("*_band.png"))
    with pytest.raises(ConfigError, match="no band"):
        load_model(run.path, device="cpu").bands(torch.rand(3, 8, 8))


def test_a_network_of_one_image_is_refused(images: Path, tmp_path: Path) -> None:
    train(images, tmp_path, "experiment=quantile", "generator=span", code=2)
