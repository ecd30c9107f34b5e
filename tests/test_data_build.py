from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from srtrain.cli.build import make_data
from srtrain.config.preflight import prepare
from srtrain.data.build import demo_data, val_sources
from srtrain.data.sources import Folder, Paired
from srtrain.errors import ConfigError, DataError
from srtrain.metrics.image_metrics import ImageMetrics, smallest_side

PAIR = {"hr": "/d/Set5/HR", "lr": "/d/Set5/x4"}


@pytest.mark.parametrize(
    ("val", "names"),
    [
        (None, ["photos"]),
        ("/d/Set5", ["Set5"]),
        ("/d/Set5/HR", ["Set5"]),
        ("/d/Set5/x4/..", ["Set5"]),
        ("/", ["val"]),
        (["/d/Set5", "/d/Set14"], ["Set5", "Set14"]),
        (["/d/Set5/x4", "/d/Set14/x4"], ["Set5_x4", "Set14_x4"]),
        (["/a/Set5/HR", "/b/Set5/GT", "/c/x"], ["a_Set5", "b_Set5", "x"]),
        (["/x4", "/a/x4"], ["x4", "a_x4"]),
        (["/d/a/x", "/e/b/x", "/d/b_x"], ["a_x", "e_b_x", "d_b_x"]),
        (PAIR, ["Set5"]),
        ([PAIR, "/d/Set14"], ["Set5", "Set14"]),
        ({"b": "/x", "a": PAIR}, ["b", "a"]),
    ],
)
def test_names_of_validation_sets(val: Any, names: list[str]) -> None:  # noqa: ANN401
    assert list(val_sources(val, scale=4)) == names


def test_every_listed_set_is_validated_on() -> None:
    found = val_sources([PAIR, "/d/Set14/HR"], scale=4)
    pair, folder = found["Set5"], found["Set14"]
    assert isinstance(pair, Paired)
    assert isinstance(folder, Folder)
    assert [str(pair.hr), str(pair.lr)] == list(PAIR.values())
    assert folder.folders == [(Path("/d/Set14/HR"), 1)]


@pytest.mark.parametrize(
    ("val", "problem"),
    [
        (["/d/Set5", "/d/x", "/d/../d/Set5"], "would be sets of one name"),
        (["/d/a/x", "/d/b/x", "/d/b_x"], "would be sets of one name"),
        (["/d/Set5/HR", "/d/Set5/GT"], "would be sets of one name"),
        ({"a": {"hr": "/d"}}, "must be {hr: DIR, lr: DIR}"),
        ([{"path": "/d"}], "must be {hr: DIR, lr: DIR}"),
    ],
)
def test_validation_sets_refused(val: Any, problem: str) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match=problem):
        val_sources(val, scale=4)


def test_a_photo_that_is_validated_on_is_not_trained_on(tmp_path: Path) -> None:
    train = {"leaves": 1, "leaf_size": 64, "photos": ["coffee"]}
    data = demo_data(
        train=train,
        val=None,
        scale=4,
        hr_patch_size=16,
        batch_size=1,
        num_workers=0,
        seed=0,
        cache_dir=tmp_path,
        accumulate=1,
    )
    with pytest.raises(DataError, match=r"1 in training and validation: .*coffee\.png"):
        data.prepare_data()


@pytest.mark.parametrize(
    ("scale", "net", "side"),
    # the 11 pixels of SSIM's window and the border, or LPIPS's 16, 17, 31, up to a multiple
    [
        *((1, None, 13), (2, None, 16), (3, None, 18), (4, None, 20), (8, None, 32)),
        *((2, "vgg", 16), (2, "squeeze", 18), (2, "alex", 32), (4, "alex", 32), (3, "alex", 33)),
    ],
)
def test_smallest_side(scale: int, net: str | None, side: int) -> None:
    assert smallest_side(scale=scale, lpips_net=net) == side
    lpips = [] if net is None else [f"metrics.lpips.net={net}"]
    config = prepare(["experiment=mse", f"scale={scale}", *lpips]).config
    data = make_data(config, SimpleNamespace(accumulate=1))  # type: ignore[arg-type]
    assert data.min_val_size == side


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_smallest_side_is_measurable_and_no_smaller_is(scale: int) -> None:
    metrics, side = ImageMetrics(scale=scale), smallest_side(scale=scale)
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    assert metrics(image, image)["ssim_y"].item() == pytest.approx(1)
    smaller = image[..., : side - scale, : side - scale]  # the next that is cut from side - 1
    with pytest.raises(ValueError, match="at least 11 x 11 pixels"):
        metrics(smaller, smaller)
