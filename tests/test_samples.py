"""Measures of honesty: laws of samplers whose posterior is known, and golden values by hand."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import safetensors.torch
import scipy.stats
import torch
from torch import Tensor
from torch.nn import functional

from srtrain.metrics.samples import SUMS, added, all_alike, expected, honesty, laws, spearman
from srtrain.perception.lpips import LPIPS
from tests.test_lpips import random_backbone

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UNIT = 25.0  # levels of a standard deviation of the toy's images, around 128


def toy(number: int, draw: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> dict[str, float]:
    """x ~ N(0, 1), y = x + N(0, 1), so that x | y ~ N(y / 2, 1 / 2) and f = y / 2: D* = 1/2.

    ``draw``: samples of y and standard normal noise (N, 3, 120, 120).
    """
    dice = np.random.default_rng(7)
    shape = (3, 120, 120)
    truth = dice.standard_normal(shape)
    seen = truth + dice.standard_normal(shape)
    samples = draw(seen, dice.standard_normal((number, *shape)))
    return honesty(image(samples), image(truth), mean=image(seen / 2))


def image(values: np.ndarray) -> Tensor:
    return torch.from_numpy((128 + UNIT * values).round().clip(0, 255).astype(np.uint8))


def posterior(seen: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return seen / 2 + math.sqrt(0.5) * noise


def the_mean(seen: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return seen / 2 + 0 * noise


def transported(seen: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The mean, made as wide as the truth: perfect quality at the least error, no diversity."""
    return seen / math.sqrt(2) + 0 * noise


def prior(seen: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Knows nothing of y."""
    return 0 * seen + noise


@pytest.mark.parametrize(
    ("draw", "number", "figures"),
    [
        # By hand: law 1, orthogonality 1, the truth is one sample more, 2 D*, √½ units apart.
        (posterior, 8, {"law": 1, "law_to_mean": 1, "orthogonality": 1, "coverage": 7 / 9,
                        "cost_db": 3.01, "sample_std": UNIT * math.sqrt(0.5) * 0.9650}),
        (posterior, 2, {"law": 1, "coverage": 1 / 3,
                        "sample_std": UNIT * math.sqrt(0.5) * 0.7979}),
        (posterior, 19, {"coverage": 0.9, "coverage_90": 0.9}),
        (posterior, 40, {"coverage": 39 / 41, "coverage_90": 37 / 41, "law": 1}),
        # All samples one: 2N / (N+1), nothing is covered but where rounding ties.
        (the_mean, 8, {"law": 16 / 9, "law_to_mean": 8 / 9, "cost_db": 0, "sample_std": 0}),
        # 2 - √2 = .586 of error, 1.17 D*.
        (transported, 4, {"law": 8 / 5, "law_to_mean": 1.172 * 4 / 5, "orthogonality": 1,
                          "cost_db": 0.688}),
        # Error 2, of the mean of N 1 + 1/N: law 1 by itself, but twice what f's error allows.
        (prior, 8, {"law": 1, "law_to_mean": 2, "orthogonality": 1, "coverage": 7 / 9,
                    "cost_db": 6.02}),
    ],
)  # fmt: skip
def test_laws_of_known_samplers(
    draw: Callable[[np.ndarray, np.ndarray], np.ndarray], number: int, figures: dict[str, float]
) -> None:
    found = toy(number, draw)
    assert {name: found[name] for name in figures} == pytest.approx(figures, rel=0.03, abs=0.03)


def test_the_mean_of_n_by_hand() -> None:
    """Averages (N = 1, 4, 8) of an exact sampler: D*(1 + 1/N), within the issue's 3 %."""
    for number in (4, 8):
        found = toy(number, posterior)
        squared = (UNIT / 255) ** 2 * 0.5 * (1 + 1 / number)
        assert 10 ** (-found["mean_of_n_psnr"] / 10) == pytest.approx(squared, rel=0.03)


def test_too_narrow_and_too_wide_samples_show() -> None:
    narrow = toy(8, lambda seen, noise: seen / 2 + 0.3 * noise)
    wide = toy(8, lambda seen, noise: seen / 2 + 1.2 * noise)
    assert narrow["coverage"] < 0.5 < 7 / 9 + 0.05 < wide["coverage"]
    assert narrow["law"] > 1.3
    assert wide["law"] < 0.7


def test_coverage_is_exact_among_ties() -> None:
    """Truth and samples drawn alike from two levels: the share is that of N, not that of ties."""
    dice = np.random.default_rng(3)
    for number in (2, 5, 19):
        drawn = torch.from_numpy(dice.integers(0, 2, (number + 1, 3, 90, 90), np.uint8))
        found = honesty(drawn[1:], drawn[0])
        for name in found.keys() & {"coverage", "coverage_90"}:
            assert found[name] == pytest.approx(expected(number)[name], abs=0.01)


def test_by_hand_of_one_value() -> None:
    """Samples 10, 20, 30, truth 24, f 18: by hand."""
    samples = torch.tensor([10, 20, 30]).view(3, 1, 1, 1).expand(3, 3, 4, 4).byte()
    found = honesty(
        samples,
        torch.full((3, 4, 4), 24, dtype=torch.uint8),
        mean=torch.full((3, 4, 4), 18, dtype=torch.uint8),
    )
    single, averaged = (14**2 + 4**2 + 6**2) / 3, 4**2
    assert found["sample_std"] == pytest.approx(10)
    assert found["coverage"] == 1
    assert found["law"] == pytest.approx(averaged / (single / 2 * 4 / 3))
    assert found["law_to_mean"] == pytest.approx(averaged / (6**2 * 4 / 3))
    assert found["orthogonality"] == pytest.approx((single - 36) / ((64 + 4 + 144) / 3))
    assert found["cost_db"] == pytest.approx(10 * math.log10(single / 36))
    assert found["mean_of_n_psnr"] == pytest.approx(20 * math.log10(255 / 4))
    assert found["ntire_diversity_mse"] == pytest.approx(0)
    assert math.isnan(found["spread_error"])
    assert "coverage_90" not in found


def test_a_set_is_measured_by_its_sums() -> None:
    rows = [toy(4, posterior), toy(4, the_mean)]
    whole = laws(added(rows))
    errors = [row["single_error"] for row in rows]
    averaged = [row["law"] * error for row, error in zip(rows, errors, strict=True)]
    assert whole["law"] == pytest.approx(sum(averaged) / sum(errors))
    with pytest.raises(ValueError, match="4"):
        added([rows[0], toy(2, posterior)])


def test_one_sample_and_no_mean() -> None:
    samples = torch.rand(1, 3, 12, 12)
    hr = torch.rand(3, 12, 12)
    assert honesty(samples, hr, mean=hr / 2).keys() == {*SUMS, "orthogonality", "cost_db"}
    found = honesty(samples, hr)
    assert found.keys() == set(SUMS)
    assert math.isnan(found["mean_error"])
    assert expected(1).keys() == {"orthogonality", "cost_db", "rtm"}
    assert (all_alike(1), all_alike(8)) == (1, pytest.approx(16 / 9))


def test_the_border_is_cut_and_rows_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = torch.rand(5, 3, 33, 21, generator=torch.Generator().manual_seed(0))
    framed = functional.pad(drawn, (2, 2, 2, 2), value=1.0)
    whole = honesty(drawn[1:], drawn[0], mean=drawn[1:].mean(0))
    monkeypatch.setattr("srtrain.metrics.samples._AT_ONCE", 300)
    found = honesty(framed[1:], framed[0], mean=framed[1:].mean(0), border=2)
    del found["ntire_diversity_mse"], whole["ntire_diversity_mse"]  # of the whole image
    assert found == pytest.approx(whole, rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("levels", [4, 1000])
def test_spearman_is_scipys(levels: int) -> None:
    dice = np.random.default_rng(0)
    one = dice.integers(0, levels, 500).astype(float)
    other = one + dice.integers(0, levels, 500)
    expected_value = scipy.stats.spearmanr(one, other).statistic
    assert spearman(torch.from_numpy(one), torch.from_numpy(other)) == pytest.approx(expected_value)
    assert math.isnan(spearman(torch.ones(5), torch.arange(5.0)))


def test_the_score_takes_each_pixel_from_the_best_sample() -> None:
    """Halves of the truth in two samples, each wrong by 8 in the other half: 100; alike ones: 0."""
    hr = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    left, right = hr.clone(), hr.clone()
    left[..., :4] += 8
    right[..., 4:] += 8
    assert honesty(torch.stack([left, right]), hr)["ntire_diversity_mse"] == pytest.approx(100)
    assert honesty(torch.stack([left, left]), hr)["ntire_diversity_mse"] == pytest.approx(0)


@pytest.mark.parametrize(("net", "suffix"), [("alex", ""), ("squeeze", "_squeeze")])
def test_by_the_eyes_of_a_network(net: str, suffix: str, tmp_path: Path) -> None:
    """Pairs one by one by LPIPS itself; the score as the challenge's measure.py computes it."""
    file = tmp_path / "backbone.safetensors"
    safetensors.torch.save_file(random_backbone(net).state_dict(), file)
    lpips = LPIPS(net, file)
    drawn = torch.rand(5, 3, 48, 40, generator=torch.Generator().manual_seed(0))
    drawn = (drawn * 255).round() / 255
    hr, samples = drawn[:1], drawn[1:]
    found = honesty(samples, hr[0], lpips=lpips)
    with torch.no_grad():
        pairs = [lpips(a[None], b[None]) for a, b in itertools.combinations(samples, 2)]
        maps = [challenge_map(lpips, one[None], hr) for one in samples]
    assert found[f"sample_lpips_{net}"] == pytest.approx(float(torch.cat(pairs).mean()), rel=1e-4)
    best = min(float(own.mean()) for own in maps)
    local = float(torch.stack(maps).min(dim=0).values.mean())
    assert found[f"ntire_diversity{suffix}"] == pytest.approx(100 * (best - local) / best, rel=1e-4)
    assert "ntire_diversity_mse" not in found


def challenge_map(lpips: LPIPS, sr: Tensor, hr: Tensor) -> Tensor:
    """``lpips.LPIPS(spatial=True)``: per layer the weighted squares, enlarged, then added."""
    total = torch.zeros(hr.shape[-2:])
    for layer, (ours, theirs) in enumerate(
        zip(lpips.features(sr), lpips.features(hr), strict=True)
    ):
        head = lpips.get_buffer(f"head{layer}")[0]
        squares = (head * (ours - theirs)[0] ** 2).sum(dim=0)[None, None]
        total += functional.interpolate(
            squares, size=hr.shape[-2:], mode="bilinear", align_corners=False
        )[0, 0]
    return total


def test_refused() -> None:
    with pytest.raises(ValueError, match="must be N images"):
        honesty(torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 9))
