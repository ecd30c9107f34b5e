"""The perception–distortion plane: which figures, which point, which bound."""

from __future__ import annotations

import math

import pytest

from srtrain.evaluation.results import ModelResult, Results, SetResult
from srtrain.evaluation.tradeoff import (
    BOUND,
    Point,
    axis_title,
    mmse,
    perception_metric,
    points,
)

NAN = math.nan


def results(**models: dict[str, list[float]]) -> Results:
    """MODEL={METRIC: values of its images}."""
    made = []
    for name, columns in models.items():
        count = len(next(iter(columns.values())))
        rows = {f"image{k}": {m: column[k] for m, column in columns.items()} for k in range(count)}
        means = {m: sum(column) / count for m, column in columns.items()}
        made.append(ModelResult(name, "", {"Set5": SetResult(means, rows)}))
    return Results(made)


def test_the_bound_is_twice_the_least_squared_error() -> None:
    least, twice = (-10 * math.log10(error) for error in (0.001, 0.002))
    assert pytest.approx(least - twice) == BOUND
    assert f"{BOUND:.2f}" == "3.01"


@pytest.mark.parametrize(
    ("metrics", "chosen"),
    [
        (("psnr_y", "hf_ratio", "lpips_squeeze", "lpips_vgg", "lpips_alex", "dists"), "lpips_alex"),
        (("psnr_y", "hf_ratio", "lpips_squeeze", "lpips_vgg"), "lpips_vgg"),
        (("psnr_y", "hf_ratio", "lpips_squeeze", "dists"), "lpips_squeeze"),
        (("psnr_y", "hf_ratio", "dists"), "dists"),
        (("psnr_y", "hf_ratio", "ssim_y", "rtm"), "hf_ratio"),  # ssim is a distortion
        (("psnr_y", "ssim_y"), None),
    ],
)
def test_perception_is_the_best_measure_that_all_have(
    metrics: tuple[str, ...], chosen: str | None
) -> None:
    columns = {metric: [1.0] for metric in metrics}
    of = results(a=columns, b={**columns, "x": [1.0]})
    assert perception_metric([model.data["Set5"] for model in of.models]) == chosen
    assert {point.metric_name for point in points(of, "Set5")} == ({chosen} if chosen else set())


def test_one_model_without_lpips_and_none_is_judged_by_it() -> None:
    both = {"psnr_y": [30.0], "hf_ratio": [0.5]}
    of = results(a={**both, "lpips_alex": [0.2]}, b=both)
    assert [point.metric_name for point in points(of, "Set5")] == ["hf_ratio", "hf_ratio"]


def test_hf_ratio_counts_by_its_distance_from_1_image_by_image() -> None:
    """Too little here and too much there must not look like just right."""
    of = results(a={"psnr_y": [30.0, 32.0, 31.0], "hf_ratio": [0.5, 1.5, NAN]})
    (point,) = points(of, "Set5")
    assert point == Point("a", 31.0, 0.5, "hf_ratio")
    assert "LPIPS is absent" in axis_title("hf_ratio")
    assert axis_title("lpips_squeeze") == "LPIPS-sq"


def test_points_stand_in_the_order_of_the_models() -> None:
    of = results(
        b={"psnr_y": [29.0], "lpips_vgg": [0.2]},
        a={"psnr_y": [30.0], "lpips_vgg": [0.3]},
    )
    assert points(of, "Set5") == [
        Point("b", 29.0, 0.2, "lpips_vgg"),
        Point("a", 30.0, 0.3, "lpips_vgg"),
    ]
    assert points(of, "B100") == []
    assert mmse(points(of, "Set5")).model == "a"
