"""Are the samples of one image honest: as far apart as the truth is from them, and no further?

Of an exact posterior sampler the truth is one sample more: HR and the N samples are exchangeable.
From that follow laws that hold for every image, degradation and distribution of photos, and that no
sampler can meet by looking good: how often the truth lies among the samples, how much nearer to it
their mean is than each, and how far from the mean image they lie.

All figures are of the 8-bit images that a user gets, on all three channels; those of pixels without
the border that PSNR does without, those of networks whole, as LPIPS is.

Notation: N samples ``x_k``, their mean ``m``, the truth ``x``, the mean image ``f`` of the network
that the flow holds; ``MSE(a)`` is the mean of ``(a - x)²``, of samples averaged over all N. ``D*``,
the least that any estimator reaches, is that of the posterior mean. An exact sampler has
``MSE(x_k) = 2 D*`` and ``MSE(m) = D* (1 + 1/N)``.

Source: Freirich et al. 2021, "A theory of the distortion-perception tradeoff in Wasserstein space"
(2 D*, orthogonality); Lugmayr et al. 2021, "NTIRE 2021 learning the super-resolution space
challenge" and its measure.py (the diversity score).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from srtrain.metrics.perceived_spread import PerceivedSpread
from srtrain.metrics.quality import levels, shave

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from srtrain.perception.lpips import LPIPS

MEASURES_VERSION = 1
TAIL = 0.05  # on either side of ``coverage_90``
CHALLENGE_NET = "alex"  # of the NTIRE 2021 score; with other nets it bears theirs as a suffix
SUMS = ("samples", "single_error", "variance", "mean_error", "to_mean")
"""Of one image: N, and sums over its values in [0, 1]; a set's ``laws`` are of the sums of all."""
LAWS = ("law", "law_to_mean", "orthogonality", "cost_db")
_TOP = 255.0
_AT_ONCE = 2**20  # values of all samples: 8 MB each of a few such


@torch.no_grad()
def honesty(
    samples: Tensor,
    hr: Tensor,
    *,
    mean: Tensor | None = None,
    border: int = 0,
    lpips: LPIPS | None = None,
) -> dict[str, float]:
    """Every measure of one image, the ``LAWS`` and their ``SUMS`` among them.

    - ``sample_std``: standard deviation over the samples (N - 1), mean over values, in levels of
      255. Of few samples it is low by itself: of a normal law .80 for N = 2, .97 for N = 8.
    - ``sample_lpips_<net>``: mean LPIPS of the N (N - 1) / 2 pairs; absent without ``lpips``.
    - ``ntire_diversity``: ``100 (min_k d_k - mean_p min_k d_k(p)) / min_k d_k``, with ``d_k(p)``
      AlexNet's LPIPS map of sample k to HR, enlarged to its size, and ``d_k`` its mean: how much
      nearer the best pixels of all samples are than the best sample. The challenge took N = 10; it
      grows with N. With another net it is ``ntire_diversity_<net>``; without any, the squared error
      of a pixel stands for the distance and it is ``ntire_diversity_mse``: other scales, both.
    - ``coverage``: share of HR's values between the least and the largest sample; (N-1) / (N+1) of
      an exact sampler. ``coverage_90``: between the j-th from either end, j = .05 (N + 1) rounded
      down: 1 - 2j / (N+1), .9 for N = 19; absent below. A value that equals samples (levels are
      whole) is at each place among them in equal parts, so that those shares stay exact.
    - ``spread_error``: Spearman's correlation, over values, of the samples' standard deviation and
      ``|m - x|``.
    - ``mean_of_n_psnr``: PSNR of ``m``, unrounded, RGB [dB].
    - ``law``, ``law_to_mean``, ``orthogonality``, ``cost_db``: see ``laws``.

    Absent where N = 1: all but the sums, ``orthogonality`` and ``cost_db``. NaN where nothing
    differs that is divided by.

    Shapes: samples (N, 3, H, W), hr and mean (3, H, W), uint8 or in [0, 1].
    Raises: ValueError if shapes do not fit.
    """
    if samples.ndim != 4 or samples.shape[1:] != hr.shape or not len(samples):
        raise ValueError(f"samples {tuple(samples.shape)} must be N images of {tuple(hr.shape)}")
    pixels = _Pixels(len(samples))
    own = None if mean is None else shave(mean, border)
    pixels.look(shave(samples, border), shave(hr, border), own)
    found = {**pixels.figures(), **laws(pixels.sums)}
    if len(samples) > 1:
        found |= _by_distance(samples, hr, lpips)
    return {**found, **pixels.sums}


def laws(sums: Mapping[str, float]) -> dict[str, float]:
    """What an exact sampler meets, of one image or of the ``SUMS`` added up over a set.

    - ``law``: ``MSE(m) / (½ MSE(x_k) (1 + 1/N))``: 1 of an exact sampler, whose MSE is 2 D*.
      ``2N / (N+1)`` where all samples are one; below 1 where they are further apart than the truth
      is from their centre.
    - ``law_to_mean``: ``MSE(m) / (MSE(f) (1 + 1/N))``: the same with f's error for D*.
    - ``orthogonality``: ``(MSE(x_k) - MSE(f)) / mean((x_k - f)²)``: 1 where f is the posterior
      mean, of any sampler that knows nothing but LR; less where samples mend what f misses.
    - ``cost_db``: ``10 log10(MSE(x_k) / MSE(f))``, PSNR given up for realism [dB]: 3.01 of an exact
      posterior sampler; perfect perceptual quality need not cost more.

    ``law`` is absent where N = 1, the others where there is no f.
    """
    number, single, variance, of_mean, apart = (sums[name] for name in SUMS)
    averaged = single - (1 - 1 / number) * variance  # exact: Σ_k (x_k - x)² about the centre
    found = {}
    if number > 1:
        found["law"] = _ratio(averaged, single * (1 + 1 / number) / 2)
    if math.isnan(of_mean):
        return found
    if number > 1:
        found["law_to_mean"] = _ratio(averaged, of_mean * (1 + 1 / number))
    found["orthogonality"] = _ratio(single - of_mean, apart)
    over = _ratio(single, of_mean)
    found["cost_db"] = 10 * math.log10(over) if over > 0 else math.nan
    return found


def added(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The ``SUMS`` of a set. Raises: ValueError if its images have different numbers of samples."""
    rows = list(rows)
    counts = {row["samples"] for row in rows}
    if len(counts) != 1:
        raise ValueError(f"images with {sorted(counts)} samples each are no one set")
    return {"samples": counts.pop(), **{name: sum(row[name] for row in rows) for name in SUMS[1:]}}


def expected(number: int) -> dict[str, float]:
    """What an exact posterior sampler is expected to reach with N = ``number`` samples."""
    found = {"orthogonality": 1.0, "cost_db": 10 * math.log10(2), "rtm": 0.0}
    if number > 1:
        found |= {"coverage": (number - 1) / (number + 1), "law": 1.0, "law_to_mean": 1.0}
    if place := _place(number):
        found["coverage_90"] = 1 - 2 * place / (number + 1)
    return found


def all_alike(number: int) -> float:
    """``law`` where all samples are the same image."""
    return 2 * number / (number + 1)


def apart_without_end(number: int) -> float:
    """``law`` where samples are so far apart that the error of their centre is nothing to that."""
    return 2 / (number + 1)


def spearman(one: Tensor, other: Tensor) -> float:
    """Correlation of ranks, those of equal values shared; NaN where one has no two values.

    Shapes: both of the same number of values.
    """
    first, second = (_ranks(values) for values in (one, other))
    scale = float(first.square().sum() * second.square().sum()) ** 0.5
    return _ratio(float(first @ second), scale)


class _Pixels:
    """Sums over the values of one image, a few rows of all samples at a time."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sums = dict.fromkeys(SUMS, 0.0) | {"samples": float(number)}
        self.places = {"coverage": 1, "coverage_90": _place(number)}
        self.inside = {name: 0.0 for name, place in self.places.items() if place}
        self.deviation: list[Tensor] = []
        self.error: list[Tensor] = []

    def look(self, samples: Tensor, hr: Tensor, mean: Tensor | None) -> None:
        """At all of it. Shapes: samples (N, 3, H, W), others (3, H, W)."""
        if mean is None:
            self.sums |= {"mean_error": math.nan, "to_mean": math.nan}
        for rows in _rows(samples):
            truth = _as_levels(hr[:, rows])
            own = _as_levels(samples[:, :, rows]).to(truth.device)
            self._take(own, truth)
            if mean is not None:
                about = _as_levels(mean[:, rows]).to(truth.device)
                self._add("mean_error", (about - truth).square())
                self._add("to_mean", (own - about).square() / self.number)

    def _take(self, own: Tensor, truth: Tensor) -> None:
        centre = own.mean(dim=0)
        variance = (own - centre).square_().sum(dim=0).div_(max(1, self.number - 1))
        self._add("single_error", (own - truth).square_() / self.number)
        self._add("variance", variance)
        self.deviation.append(variance.sqrt().float().flatten())
        self.error.append((centre - truth).abs().float().flatten())
        below, equal = (own < truth).sum(dim=0), (own == truth).sum(dim=0)
        for name in self.inside:
            self.inside[name] += _share_within(below, equal, self.places[name], self.number)

    def _add(self, name: str, squares: Tensor) -> None:
        self.sums[name] += float(squares.sum()) / _TOP**2

    def figures(self) -> dict[str, float]:
        """What pixels tell. None of a single sample."""
        if self.number < 2:
            return {}
        deviation, error = torch.cat(self.deviation), torch.cat(self.error)
        count = len(error)
        squared = float(error.double().square().mean()) / _TOP**2
        return {
            "sample_std": float(deviation.double().mean()),
            **{name: inside / count for name, inside in self.inside.items()},
            "spread_error": spearman(deviation, error),
            "mean_of_n_psnr": -10 * math.log10(squared) if squared else math.inf,
        }


def _by_distance(samples: Tensor, hr: Tensor, lpips: LPIPS | None) -> dict[str, float]:
    """Diversity by a network's eyes, or where there is none the score by squared error."""
    truth = _unit(hr)
    if lpips is None:
        maps = ((_unit(one.to(hr.device)) - truth).square().mean(dim=1) for one in samples)
        return {"ntire_diversity_mse": _score(maps)}
    spread = PerceivedSpread(lpips, truth)
    score = _score(spread.add(_unit(one.to(hr.device))) for one in samples)
    suffix = "" if lpips.net == CHALLENGE_NET else f"_{lpips.net}"
    return {f"sample_{lpips.name}": spread.pairwise, f"ntire_diversity{suffix}": score}


def _score(maps: Iterable[Tensor]) -> float:
    """The best single sample against the best of all at each pixel, in percent of the former."""
    least, nearest = math.inf, torch.empty(0)
    for own in maps:
        nearest = torch.minimum(nearest, own) if nearest.numel() else own
        least = min(least, float(own.double().mean()))
    return 100 * _ratio(least - float(nearest.double().mean()), least)


def _share_within(below: Tensor, equal: Tensor, place: int, number: int) -> float:
    """Of each value's places ``below … below + equal``, the share in ``place … N - place``."""
    last = (below + equal).clamp(max=number - place)
    inside = (last - below.clamp(min=place) + 1).clamp(min=0)
    return float((inside / (equal + 1)).double().sum())


def _place(number: int) -> int:
    """How many samples lie outside of ``coverage_90`` on either side, that end included."""
    return math.floor(TAIL * (number + 1) + 1e-9)


def _ranks(values: Tensor) -> Tensor:
    _, which, counts = values.flatten().unique(return_inverse=True, return_counts=True)
    counts = counts.double()
    shared = counts.cumsum(0) - (counts - 1) / 2
    ranks: Tensor = shared[which]
    return ranks - ranks.mean()


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else math.nan


def _rows(samples: Tensor) -> Iterator[slice]:
    height = samples.shape[-2]
    step = max(1, _AT_ONCE * height // samples.numel())
    for top in range(0, height, step):
        yield slice(top, top + step)


def _as_levels(image: Tensor) -> Tensor:
    return (image if image.dtype == torch.uint8 else levels(image)).double()


def _unit(image: Tensor) -> Tensor:
    """Shapes: (3, H, W) -> (1, 3, H, W) float32 in [0, 1]."""
    return _as_levels(image).div_(_TOP).float()[None]
