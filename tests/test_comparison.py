"""Paired differences: intervals, p and verdicts, held to what can be worked out by hand."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from srtrain.errors import ConfigError
from srtrain.evaluation import comparison
from srtrain.evaluation.comparison import compare, interval, signed_rank
from srtrain.evaluation.comparison_table import (
    comparison_table,
    p_value,
    remarks,
    to_csv,
    to_rows,
)
from srtrain.evaluation.results import ModelResult, Results, SetResult

NAN, INF = math.nan, math.inf


def results(
    protocol: dict[str, Any] | None = None, data: str = "Set5", **models: dict[str, list[float]]
) -> Results:
    """MODEL={METRIC: values of images a, b, c …}."""
    made = []
    for name, metrics in models.items():
        count = max(map(len, metrics.values()))
        rows = {
            chr(97 + k): {
                metric: column[k] for metric, column in metrics.items() if k < len(column)
            }
            for k in range(count)
        }
        means = {m: float(np.sum(column)) / len(column) for m, column in metrics.items()}
        made.append(ModelResult(name, f"sha of {name}", {data: SetResult(means, rows)}))
    return Results(made, protocol or {"scale": 4})


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        # 5 in 1/3125 = .03 %, less than Φ(-√(5/4) · 2.776) = .096 %; 4 in 20/3125 = .64 % is more.
        ([0.0, 0.0, 0.0, 0.0, 5.0], 0.0, 4.0),
        # Of ten, k of 1 in Binomial(10, .1): 6 or more .015 %, 5 or more .16 %, 4 or more 1.3 %;
        # the tail is Φ(-√(10/9) · 2.262) = .85 %.
        ([0.0] * 9 + [10.0], 0.0, 4.0),
        ([0.5] * 5, 0.5, 0.5),
    ],
)
def test_interval_by_hand(values: list[float], low: float, high: float) -> None:
    assert interval(values) == (low, high)


def test_interval_of_many_is_that_of_the_normal_law() -> None:
    low, high = interval([float(k) for k in range(400)])
    half = 1.959964 * math.sqrt((400**2 - 1) / 12 / 400)  # population variance of 0 … 399, n = 400
    assert low == pytest.approx(199.5 - half, abs=0.3)
    assert high == pytest.approx(199.5 + half, abs=0.3)


@pytest.mark.parametrize("count", [1, 2, 4])  # of 4 normal samples, resampling held 87 %
def test_too_few_images_show_no_spread(count: int) -> None:
    assert all(map(math.isnan, interval([float(k) for k in range(count)])))
    of = results(base={"psnr_y": UP[:count]}, model={"psnr_y": UP[1 : count + 1]})
    (row,) = to_rows(compare(of))
    assert (row["low"], row["high"]) == (None, None)
    text = io.StringIO()
    table = comparison_table(compare(of))
    assert table is not None
    Console(width=80, file=text).print(table)
    assert "no interval is told below 5 images" in " ".join(text.getvalue().split())


@pytest.mark.parametrize("count", [5, 30])  # of 5, plain percentiles hold it in 85 %
def test_interval_holds_the_mean_in_19_of_20_cases(count: int) -> None:
    dice = np.random.default_rng(1)
    held = 0
    for seed in range(600):
        low, high = interval(dice.normal(0.3, 1.0, count).tolist(), seed=seed, resamples=2000)
        held += low <= 0.3 <= high
    assert 0.90 <= held / 600 <= 0.97


def test_resamples_drawn_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=37).tolist()
    whole = interval(values)
    monkeypatch.setattr(comparison, "_AT_ONCE", 37 * 999)
    assert interval(values) == whole
    assert interval(values, seed=1) != whole


@pytest.mark.parametrize(
    ("values", "p"),
    [
        ([1, 2, 3, 4, 5], 2 / 2**5),  # one of 32 signs on either side
        ([1, 2, 3, 4, 5, 6], 2 / 2**6),
        ([1, 2, 3, 4, 5, -6], 2 * 14 / 2**6),  # 14 sets of ranks sum to 6 or less
        ([1, -1, 2, -2], 1.0),  # ties
        ([0, 0, 0], 1.0),
        ([0, 0, 1, 2, 3, 4, 5], 2 / 2**5),  # zeros say nothing
        ([1e-9, -1e-12, 1, 2, 3, 4, 5], 2 / 2**5),  # nor does what is less than evaluations promise
        ([6, 1, 8, -3, 2, 7, 5, -4, 10, 9], 2 * 19 / 2**10),  # 19 sets of ranks sum to 7 or less
    ],
)
def test_signed_rank(values: list[float], p: float) -> None:
    assert signed_rank(values) == pytest.approx(p, rel=1e-12)
    assert signed_rank([-value for value in values]) == pytest.approx(p, rel=1e-12)


UP = [30.1, 31.4, 29.2, 28.3, 33.6, 30.8, 27.9, 32.0]


@pytest.mark.parametrize(
    ("metric", "ours", "theirs", "verdict"),
    [
        ("psnr_y", [x + 0.1 + x / 100 for x in UP], UP, "better"),
        ("psnr_y", [x - 0.1 - x / 100 for x in UP], UP, "worse"),
        ("psnr_y_border0", [x + 0.1 + x / 100 for x in UP], UP, "better"),  # judged as psnr_y is
        (
            "lpips_alex",
            [0.1 + k / 90 for k in range(8)],
            [0.2 + k / 99 for k in range(8)],
            "better",
        ),
        ("psnr_y", UP, UP, "no evidence"),
        ("psnr_y", [x + (-1) ** k * k for k, x in enumerate(UP)], UP, "no evidence"),
        ("hf_ratio", [0.9 + k / 900 for k in range(8)], [0.5] * 8, "better"),
        ("hf_ratio", [1.5 + k / 900 for k in range(8)], [0.6] * 8, "worse"),  # .5 away, not .4
        ("hf_ratio", [1.2 + k / 900 for k in range(8)], [0.6] * 8, "better"),
        ("bias", [-0.01 - k / 900 for k in range(8)], [0.005] * 8, "worse"),
        ("rtm", [0.8 + k / 90 for k in range(8)], [0.9 + k / 99 for k in range(8)], ""),
        ("psnr_y", [x + 1 for x in UP[:5]], UP[:5], "no evidence"),  # p of five is .0625 at least
        ("psnr_y", [31.0], [30.0], "no evidence"),
    ],
)
def test_verdict(metric: str, ours: list[float], theirs: list[float], verdict: str) -> None:
    (found,) = compare(results(base={metric: theirs}, model={metric: ours}))
    assert (found.reference, found.model) == ("base", "model")
    assert found.verdict == verdict


def test_values_are_model_minus_reference() -> None:
    of = results(
        base={"psnr_y": [1.0, 2.0, 4.0], "hf_ratio": [0.5, 0.5, 0.5]},
        model={"psnr_y": [2.0, 1.5, 4.0], "hf_ratio": [0.75, 1.25, 1.75]},
    )
    psnr, ratio = compare(of)
    assert (psnr.values, psnr.references, psnr.wins) == ([1.0, -0.5, 0.0], [1.0, 2.0, 4.0], 1)
    assert psnr.mean == pytest.approx(1 / 6)
    assert not psnr.distance
    assert (ratio.values, ratio.references) == ([-0.25, -0.25, 0.25], [0.5, 0.5, 0.5])
    assert (ratio.name, ratio.distance, ratio.wins) == ("|hf_ratio - 1|", True, 2)
    (other, _) = compare(of, reference="model")
    assert other.values == [-value for value in psnr.values]


def test_pairs_that_are_finite_in_both() -> None:
    of = results(base={"psnr_y": [1.0, 2.0, NAN, 4.0]}, model={"psnr_y": [2.0, INF, 3.0, 5.0, 6.0]})
    (found,) = compare(of)
    assert (found.images, found.values) == (["a", "d"], [1.0, 1.0])
    assert compare(results(base={"psnr_y": [NAN]}, model={"psnr_y": [1.0]})) == []


def test_what_else_is_compared_changes_nothing() -> None:
    dice = np.random.default_rng(3)
    one, two, three = dice.normal(size=(3, 12)).tolist()
    few = results(base={"psnr_y": one}, model={"psnr_y": two})
    more = results(
        base={"ssim_y": three, "psnr_y": one}, x={"psnr_y": three}, model={"psnr_y": two}
    )
    (found,) = compare(few)
    assert found in compare(more)


def test_metrics_stand_in_the_order_of_all_tables() -> None:
    names = ["mine", "rtm", "ssim_y_border0", "lpips_alex", "psnr_y_border0", "ssim_y", "psnr_y"]
    of = results(a={name: [1.0] for name in names}, b={name: [2.0] for name in names})
    told = [difference.metric for difference in compare(of)]
    first = ["psnr_y_border0", "psnr_y", "ssim_y_border0", "ssim_y", "lpips_alex", "rtm", "mine"]
    assert told == first


def test_reference_must_exist() -> None:
    with pytest.raises(ConfigError, match=r"no model is called nobody · reference · of: a, b"):
        compare(results(a={"psnr_y": [1.0]}, b={"psnr_y": [2.0]}), reference="nobody")
    assert compare(results(a={"psnr_y": [1.0]})) == []


METRICS = {"psnr_y": 30.0, "ssim_y": 0.8, "lpips_squeeze": 0.2, "hf_ratio": 0.4, "rtm": 0.9}


def measured(seed: int, shift: float, count: int = 12) -> dict[str, list[float]]:
    dice = np.random.default_rng(seed)
    columns = {
        m: x + x / 50 * np.random.default_rng(9).normal(size=count) for m, x in METRICS.items()
    }
    noise = {m: dice.normal(shift, 0.3, count) for m in METRICS}
    return {m: (columns[m] * (1 + noise[m] / 100)).tolist() for m in METRICS}


def test_table_fits_80_columns_and_says_what_matters() -> None:
    of = results(
        bicubic=measured(0, 0.0),
        mse=measured(1, 1.0),
        mse_plus_perceptual_from_the_same_start=measured(2, 0.2),
    )
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    console.print(comparison_table(compare(of)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [line.rstrip() for line in text.splitlines()]
    assert all(len(line) <= 80 for line in lines)
    assert not any(line.endswith("…") for line in lines)  # nothing is cut
    assert lines[0] == "Differences, image by image"
    assert "mse - bicubic on Set5, 12 images" in lines
    (row,) = (line.split() for line in lines if "PSNR-Y" in line and "better" in line)
    assert row[1].startswith("+0.")
    assert row[-1] == "better"
    assert any(line.startswith(" |hf_ratio - 1|") for line in lines)
    assert "|…|: distances to the best value are compared" in text
    assert "rtm: the mean over images" in text


def test_laws_of_a_set_are_said_to_be_of_its_sums() -> None:
    one = {"psnr_y": [1.0, 2.0], "law": [1.2, 1.4], "cost_db": [1.0, 2.0]}
    of = results(one=one, other={name: [2 * v for v in own] for name, own in one.items()})
    said = " ".join(remarks(compare(of)))
    assert "law, cost: the mean over images; of a set it is" in said


def test_too_few_images_are_said_to_be() -> None:
    of = results(a={"psnr_y": [1.0, 2.0, 3.0]}, b={"psnr_y": [2.0, 3.0, 4.0]})
    assert remarks(compare(of)) == [
        "3 images: no verdict can be had below 6, as p cannot reach .05",
        "no interval is told below 5 images: it would often miss the mean",
    ]


def test_many_verdicts_are_said_to_be_many() -> None:
    of = results(a=measured(0, 0.0), b=measured(1, 1.0))
    (said,) = [line for line in remarks(compare(of)) if "chance" in line]
    assert said.startswith("each of 4 verdicts stands for itself")  # rtm has none
    few = results(a={"psnr_y": UP}, b={"psnr_y": [x + 1 + x / 99 for x in UP]})
    assert remarks(compare(few)) == []  # one verdict


@pytest.mark.parametrize(
    ("p", "said"), [(None, "–"), (1.0, "1"), (0.03125, ".031"), (0.0001, "<.001"), (0.0006, ".001")]
)
def test_p_as_written(p: float | None, said: str) -> None:
    assert p_value(p) == said


def test_rows_are_json_and_csv() -> None:
    of = results(a={"psnr_y": [1.0], "bias": [0.1]}, b={"psnr_y": [2.0], "bias": [0.2]})
    differences = compare(of)
    rows = json.loads(json.dumps(to_rows(differences), allow_nan=False))
    assert rows[0]["images"] == {"a": 1.0}
    assert rows[0]["low"] is None  # of one image
    table = list(csv.DictReader(io.StringIO(to_csv(differences))))
    assert [row["compared"] for row in table] == ["PSNR-Y", "|bias|"]
    assert next((row["count"], row["mean"], row["low"]) for row in table) == ("1", "1.0", "")
