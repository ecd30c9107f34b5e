"""Two models on the same images: differences with an interval, and what may be said of them.

The images are the sample: a verdict is about these two files on images like these. Another seed of
the same training is another model, and each verdict stands for itself: of twenty metrics of equal
models one may well be "better".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from srtrain.errors import ConfigError
from srtrain.evaluation.results import ModelResult, Results
from srtrain.evaluation.titles import ordered, title

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from srtrain.evaluation.results import Values

Verdict = Literal["better", "worse", "no evidence", ""]
CONFIDENCE = 0.95
RESAMPLES = 10_000
EQUAL = 1e-6  # what an evaluation itself promises: batched, tiled and on many ranks agree to this
FEWEST = 6  # pairs from which on a two-sided signed-rank test can reach .05: 2 / 2⁵ = .0625
SPREAD = 5  # values from which on an interval is told: of 4, 3, 2 it holds the mean in 87, 78, 48 %
_AT_ONCE = 2_000_000  # numbers drawn at a time
_TARGETS = {"near 0": 0.0, "near 1": 1.0}


@dataclass(frozen=True)
class Difference:
    """One metric of two models, image by image: ``values`` are model - reference.

    Of metrics that are best near a target (``hf_ratio``: 1, ``bias``: 0), ``values`` and all that
    is made of them compare the distances ``|x - target|``; ``distance`` says so, lower is better.

    ``low`` to ``high``: the mean's 95 % interval, see ``interval``; NaN below ``SPREAD`` images.
    ``p``: Wilcoxon's signed-rank test, two-sided; exact up to 50 images without ties. ``verdict``:
    empty where neither way is better; "no evidence" unless the interval excludes 0 and p < .05.
    ``references``: the reference's own values (or distances), in the order of ``images``.
    """

    data: str
    metric: str
    model: str
    reference: str
    images: list[str]
    values: list[float]
    mean: float
    low: float
    high: float
    p: float | None
    verdict: Verdict
    references: list[float] = field(default_factory=list)

    @property
    def distance(self) -> bool:
        """Whether distances to a target are compared."""
        return title(self.metric).better in _TARGETS

    @property
    def name(self) -> str:
        """What is compared, for people: ``PSNR-Y``, or ``|hf_ratio - 1|``."""
        name, target = title(self.metric).name, _TARGETS.get(title(self.metric).better)
        if target is None:
            return name
        return f"|{name} - {target:g}|" if target else f"|{name}|"

    @property
    def sign(self) -> int:
        """Of a difference that is better: 1, -1; 0 where neither way is."""
        return {"higher": 1, "": 0}.get(title(self.metric).better, -1)

    @property
    def half_width(self) -> float:
        """Half the interval: about the smallest mean difference that these images can show."""
        return (self.high - self.low) / 2

    @property
    def wins(self) -> int:
        """Images on which the model is better than the reference."""
        return sum(value * self.sign > EQUAL for value in self.values)


def compare(results: Results, *, reference: str | None = None, seed: int = 0) -> list[Difference]:
    """Every metric of every other model against ``reference`` (the first model if None).

    Per data set, over the images for which both have a finite value; a metric that no image has of
    both is absent. ``seed`` draws the bootstrap: the same figures give the same interval, whatever
    else is compared.

    Raises: ConfigError where no model bears the name ``reference``.
    """
    by_name = {model.name: model for model in results.models}
    if reference is not None and reference not in by_name:
        known = ", ".join(by_name)
        raise ConfigError(f"no model is called {reference}", where="reference", fix=f"of: {known}")
    if len(by_name) < 2:
        return []
    base = by_name[reference] if reference is not None else results.models[0]
    others = [model for model in results.models if model.name != base.name]
    return [
        difference
        for data in results.sets
        for model in others
        for metric in ordered(results.metrics(data))
        if (difference := _difference(data, metric, model, base, seed=seed)) is not None
    ]


def judged(metric: str, value: float) -> float:
    """``value``, or its distance to the target of a metric that is best near one."""
    target = _TARGETS.get(title(metric).better)
    return value if target is None else abs(value - target)


def _difference(
    data: str, metric: str, model: ModelResult, base: ModelResult, *, seed: int
) -> Difference | None:
    pairs = _pairs(data, metric, model, base)
    if not pairs:
        return None
    images = [image for image, _, _ in pairs]
    references = [judged(metric, own) for _, _, own in pairs]
    values = [
        judged(metric, value) - own for (_, value, _), own in zip(pairs, references, strict=True)
    ]
    low, high = interval(values, seed=seed)
    p = signed_rank(values)
    bare = Difference(
        data=data, metric=metric, model=model.name, reference=base.name, images=images,
        values=values, mean=math.fsum(values) / len(values), low=low, high=high, p=p,
        verdict="", references=references,
    )  # fmt: skip
    return replace(bare, verdict=_verdict(bare))


def _pairs(
    data: str, metric: str, model: ModelResult, base: ModelResult
) -> list[tuple[str, float, float]]:
    """(image, model's, reference's) where both are finite, in the model's order."""
    if data not in model.data or data not in base.data:
        return []
    ours, theirs = model.data[data].images, base.data[data].images

    def finite(row: Values | None) -> bool:
        return row is not None and math.isfinite(row.get(metric, math.nan))

    return [
        (image, row[metric], theirs[image][metric])
        for image, row in ours.items()
        if finite(row) and finite(theirs.get(image))
    ]


def interval(
    values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % bootstrap interval of the mean, from the percentiles of resampled means.

    Plain percentiles are too narrow on few images: of 5 from a normal law they hold the mean in
    85 % of cases. So they are moved out to those that would give Student's interval if the means
    were normal ("expanded"): 92 % of 5, 95 % of 10. NaN for fewer than ``SPREAD`` values: a few
    resampled means cannot lie outside of the values, where the true mean may well be.

    Source: Hesterberg 2015, What Teachers Should Know About the Bootstrap, §5.3.
    """
    count = len(values)
    if count < SPREAD:
        return math.nan, math.nan
    sample = np.asarray(values, dtype=np.float64)
    dice = np.random.default_rng(seed)
    means: list[np.ndarray] = []
    for size in _parts(resamples, at_most=max(1, _AT_ONCE // count)):
        means.append(sample[dice.integers(count, size=(size, count))].mean(axis=1))
    tail = _expanded((1 - CONFIDENCE) / 2, count)
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def _expanded(tail: float, count: int) -> float:
    """``Φ(√(n/(n-1)) · t)``, with ``t`` Student's quantile at ``tail``."""
    from scipy.special import ndtr, stdtrit

    return float(ndtr(math.sqrt(count / (count - 1)) * stdtrit(count - 1, tail)))


def _parts(total: int, *, at_most: int) -> Iterator[int]:
    for start in range(0, total, at_most):
        yield min(at_most, total - start)


def signed_rank(values: Sequence[float]) -> float:
    """Wilcoxon's signed-rank p, two-sided; differences within ``EQUAL`` are ties and left out.

    Exact without ties among up to 50, and with them among up to 13; else the normal approximation.
    1 where all are ties.
    """
    unequal = [value for value in values if abs(value) > EQUAL]
    if not unequal:
        return 1.0
    from scipy.stats import wilcoxon

    return float(wilcoxon(unequal).pvalue)


def _verdict(difference: Difference) -> Verdict:
    if not difference.sign:
        return ""
    excludes = difference.low > 0 or difference.high < 0  # NaN excludes nothing
    if not excludes or difference.p is None or difference.p >= 1 - CONFIDENCE:
        return "no evidence"
    return "better" if difference.mean * difference.sign > 0 else "worse"
