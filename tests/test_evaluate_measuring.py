"""What is measured beside the standard protocol, what is shown of it, and by which names."""

from __future__ import annotations

import math
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from srtrain.cli.evaluate.choice import choose, gallery
from srtrain.cli.evaluate.looks import of_pictures
from srtrain.cli.evaluate.measuring import Measuring, by_its_name
from srtrain.cli.evaluate.pictures import COLUMN, GAP, draw
from srtrain.cli.evaluate.tables import best_of, set_tables
from srtrain.color import luma
from srtrain.evaluation.results import ModelResult, Results, SetResult
from srtrain.evaluation.shown import Shown
from srtrain.metrics.image_metrics import ImageMetrics
from srtrain.metrics.variants import Variants

if TYPE_CHECKING:
    from srtrain.evaluation.results import Values


def pair(side: int = 40, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """SR with values beyond [0, 1] and between the levels, HR of whole levels; (2, 3, H, W)."""
    dice = torch.Generator().manual_seed(seed)
    hr = torch.rand(2, 3, side, side, generator=dice).mul(255).round() / 255
    return hr + 0.1 * torch.randn(hr.shape, generator=dice), hr


def test_ssim_over_reflected_borders_is_torchmetrics() -> None:
    sr, hr = pair()
    found = Variants(2, reflect=True)(sr, hr, whole_levels=False)
    assert found.keys() == {"ssim_y_reflect", "ssim_rgb_reflect"}
    rounded = sr.clamp(0, 1).mul(255).add(0.5).floor() / 255
    cut = [image[..., 2:-2, 2:-2].double() for image in (rounded, hr)]
    options = {"data_range": 1.0, "sigma": 1.5, "kernel_size": 11, "reduction": "none"}
    for name, pictures in {"y": [luma(image) for image in cut], "rgb": cut}.items():
        expected = structural_similarity_index_measure(*pictures, **options)
        torch.testing.assert_close(found[f"ssim_{name}_reflect"], expected, atol=1e-6, rtol=0)


def test_unrounded_and_borders_by_hand() -> None:
    sr, hr = pair()
    found = Variants(2, borders=(0, 5), unrounded=True)(sr, hr, whole_levels=False)
    levels = sr.clamp(0, 1).mul(255).add(0.5).floor() / 255
    for image in range(2):
        for name, own, border in (
            ("unrounded", sr.clamp(0, 1), 2),
            ("border0", levels, 0),
            ("border5", levels, 5),
        ):
            error = (own - hr)[image, :, border : 40 - border, border : 40 - border].double()
            expected = -10 * math.log10(float(error.square().mean()))
            assert float(found[f"psnr_rgb_{name}"][image]) == pytest.approx(expected, abs=1e-5)
    of_files = Variants(2, unrounded=True)(sr, hr, whole_levels=True)
    assert of_files == {}


def test_gray_images_are_their_own_y_by_every_rule() -> None:
    sr, hr = (image[:, :1].expand(-1, 3, -1, -1) for image in pair())
    found = Variants(2, borders=(0,))(sr, hr, whole_levels=True)
    torch.testing.assert_close(found["psnr_y_border0"], found["psnr_rgb_border0"])


class Constant(nn.Module):
    """Stands for DISTS, whose weights are not here."""

    features_sha256 = heads_sha256 = "abc"
    min_size = 16

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        assert float(sr.min()) >= 0
        assert float(hr.max()) <= 1
        return torch.arange(len(sr)) / 4


def test_dists_is_a_column_and_in_the_protocol() -> None:
    metrics = ImageMetrics(scale=2, dists=Constant())  # type: ignore[arg-type]
    assert metrics(*pair())["dists"].tolist() == [0.0, 0.25]
    assert metrics.protocol["dists"] == {
        "net": "vgg",
        "features_sha256": "abc",
        "heads_sha256": "abc",
        "region": "whole RGB image",
    }
    assert "dists" not in ImageMetrics(scale=2).protocol


def test_means_are_of_double_precision_and_names_tell_the_lr() -> None:
    measuring = Measuring(scale=2, variants=Variants(2))
    sr, hr = pair()
    lr = measuring.lr_of(hr)
    rows = measuring(sr, hr, lr, whole_levels=False)
    assert measuring.means(rows)["psnr_y"] == pytest.approx(
        (rows[0]["psnr_y"] + rows[1]["psnr_y"]) / 2, abs=1e-13
    )
    own = by_its_name(rows[0], lr_is_bicubic=True)
    assert own.keys() == {
        *("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb"),
        *("rtm", "hf_ratio", "hf_truth", "bias", "lr_psnr"),
    }
    other = by_its_name({**rows[0], "lr_psnr_left_out": 1.0}, lr_is_bicubic=False)
    assert {"lr_psnr_bicubic", "lr_psnr_bicubic_left_out"} < other.keys()
    assert "lr_psnr" not in other
    changed = measuring(sr, hr, (lr + 1 / 255).clamp(0, 1), whole_levels=False)
    assert [row["lr_is_bicubic"] for row in (*rows, *changed)] == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("psnr_y", [30.0, 31.0, 29.0], {1}),
        ("psnr_y", [30.0001, 30.0002, 29.0], {0, 1}),  # equal as they are written
        ("psnr_y", [30.0, math.nan], {0}),
        ("lpips_alex", [0.2, 0.1], {1}),
        ("hf_ratio", [0.5, 1.2, 1.9], {1}),
        ("bias", [-0.1, 0.01], {1}),
        ("rtm", [1.0, 0.5], set()),
        ("psnr_y_border0", [30.0, 31.0], {1}),
        ("psnr_y", [30.0], set()),  # alone
        ("psnr_y", [math.nan, math.nan], set()),
    ],
)
def test_best_of(metric: str, values: list[float], best: set[int]) -> None:
    assert best_of(metric, values) == best


def made_up(values: dict[str, dict[str, float]], **more: float) -> Results:
    """MODEL → IMAGE → PSNR-Y, of one set."""
    models = []
    for name, images in values.items():
        rows: dict[str, Values] = {image: {"psnr_y": psnr} for image, psnr in images.items()}
        mean = float(np.mean(list(images.values())))
        models.append(ModelResult(name, "", {"Set": SetResult({"psnr_y": mean, **more}, rows)}))
    return Results(models, {"scale": 4})


def test_tables_mark_the_best_and_name_every_rule() -> None:
    found = made_up(
        {"[mine]": {"a": 30.0}, "bicubic": {"a": 28.0}}, psnr_y_border0=29.0, psnr_y_left_out=1.0
    )
    stream = StringIO()
    console = Console(file=stream, width=80, force_terminal=True, color_system="standard")
    tables = [*set_tables(found, "Set", baseline="bicubic")]
    for table in tables:
        console.print(table)
    said = stream.getvalue()
    assert len(tables) == 2
    assert "[mine]" in said  # no markup
    assert "\x1b[1m30.000" in said
    assert "\x1b[1m28.000" not in said
    assert "border0" in said
    assert "left_out" not in said


A = {"a": 30.0, "b": 31.0, "c": 32.0, "d": 33.0, "e": 34.0}


@pytest.mark.parametrize(
    ("models", "chosen"),
    [
        ({"m": A}, {"a": "worst", "c": "median", "e": "best"}),
        ({"m": {"a": 30.0}}, {"a": "worst"}),
        ({"m": {"a": 30.0, "b": 31.0}}, {"a": "worst", "b": "median"}),
        (
            {"m": A, "n": {**A, "b": 29.0}},
            {"a": "worst", "b": "models differ by 2.00 dB", "c": "median", "e": "best"},
        ),
        (  # bicubic differs everywhere, which says nothing where there are two others
            {"m": A, "n": {**A, "d": 33.5}, "bicubic": {**A, "b": 20.0}},
            {"a": "worst", "c": "median", "d": "models differ by 0.50 dB", "e": "best"},
        ),
        ({"m": {"a": math.inf, "b": 31.0}}, {"b": "worst"}),
    ],
)
def test_what_is_worth_looking_at(
    models: dict[str, dict[str, float]], chosen: dict[str, str]
) -> None:
    found = choose(made_up(models), "Set", baseline="bicubic")
    assert {name: why.partition(" (")[0] for name, why in sorted(found.items())} == chosen


def test_small_sets_are_shown_whole() -> None:
    why = {"b": "worst"}
    assert list(gallery(why, ["a", "b", "c"])) == ["b", "a", "c"]
    assert list(gallery(why, [f"{k}" for k in range(7)] + ["b"])) == ["b"]


def test_of_very_many_models_the_first_are_shown_and_bicubic() -> None:
    names = [f"m{k}" for k in range(20)]
    found = of_pictures(made_up({name: {"a": 30.0} for name in [*names, "bicubic"]}))
    assert found == [*names[:11], "bicubic"]
    assert of_pictures(made_up({name: {"a": 30.0} for name in names[:12]})) == names[:12]
    assert of_pictures(made_up({name: {"a": 30.0} for name in names})) == names[:11]


@pytest.mark.parametrize("size", [(64, 96), (24, 24), (300, 200)])
def test_pictures_show_where_models_differ(size: tuple[int, int]) -> None:
    hr = np.full((*size, 3), 128, np.uint8)
    one, other = hr.copy(), hr.copy()
    other[4:12, 8:16] = (0, 0, 255)  # blue, in the upper left
    lr = hr[::4, ::4].copy()
    seen = Shown("Set", "image", "worst", lr, hr, {"one": one, "other": other, "bicubic": hr}, {})
    picture = np.asarray(draw(seen)).astype(int)
    assert picture.shape[1] == 5 * COLUMN + 4 * GAP
    below = picture[-round(COLUMN * min(80, size[0]) / min(80, size[1])) :]
    blue = (below[..., 2] - below[..., 0] > 100).any(axis=0)
    column = slice(2 * (COLUMN + GAP), 2 * (COLUMN + GAP) + COLUMN)
    assert blue[column].any()  # enlarged, in the column of "other"
    blue[column] = False
    assert not blue.any()
