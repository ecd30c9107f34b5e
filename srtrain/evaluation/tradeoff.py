"""The perception–distortion plane: how far from the photo, and how far from looking like one.

No estimator can be best at both (Blau & Michaeli 2018). The least squared error D* is that of the
mean of all plausible images, which looks like none of them; perfect perceptual quality costs at
most twice D* (Freirich et al. 2021), that is ``BOUND`` dB of PSNR. What is drawn here is measured:
the best PSNR among the models stands for the MMSE point. It can only lie below the true one, so the
bound that starts from it is a safe one: perfect quality is possible at that PSNR or above it.

Not drawn: the parabola between the two ends. It is exact for the Wasserstein distance of the
distributions of images, which a handful of images cannot tell, and nothing says it for LPIPS.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from srtrain.evaluation.comparison import judged
from srtrain.evaluation.titles import title

if TYPE_CHECKING:
    from srtrain.evaluation.results import Results, SetResult

BOUND = 10 * math.log10(2)
"""3.01 dB."""

# The field's own measure first; then what any evaluation has. Not 1 - SSIM: it is a distortion,
# and falls and rises with PSNR. The energy above the LR Nyquist belongs to the image alone, not to
# its distance from HR: the mean of all plausible images lacks it, a sample of them does not.
PERCEPTION = ("lpips_alex", "lpips_vgg", "lpips_squeeze", "dists", "hf_ratio")
WITHOUT_WEIGHTS = "hf_ratio"


class Point(NamedTuple):
    """A model on the plane: mean PSNR-Y [dB], higher is better; mean ``perception``, lower is."""

    model: str
    psnr: float
    perception: float
    metric_name: str


class Cloud(NamedTuple):
    """Further samples of a model that makes many, and the ``mean`` of them, named as it is shown.

    The model's own point is sample 0; the mean is of that one too.
    """

    model: str
    samples: list[Point]
    mean: Point


def points(results: Results, data: str) -> list[Point]:
    """The models that have PSNR-Y and a perceptual metric on ``data``, in their order.

    ``perception``: the first of ``PERCEPTION`` that all models of this set have. Without any
    weights that is the mean of ``|1 - hf_ratio|``: how much texture is missing or too much, not
    whether it is right; noise gets it right too.
    """
    found = {model.name: model.data[data] for model in results.models if data in model.data}
    metric = perception_metric(list(found.values()))
    if metric is None:
        return []
    return [
        Point(name, of.means["psnr_y"], _perception(of, metric), metric)
        for name, of in found.items()
        if "psnr_y" in of.means
    ]


def perception_metric(sets: list[SetResult]) -> str | None:
    """The first of ``PERCEPTION`` that all have; None where there is none."""
    return next((m for m in PERCEPTION if sets and all(m in of.means for of in sets)), None)


def _perception(of: SetResult, metric: str) -> float:
    """The set's mean; of a metric that is best near a target, of the images' distances to it."""
    rows = [row[metric] for row in of.images.values() if math.isfinite(row.get(metric, math.nan))]
    if not rows:  # figures of a run have means alone
        return judged(metric, of.means[metric])
    return math.fsum(judged(metric, value) for value in rows) / len(rows)


def axis_title(metric: str) -> str:
    """What the perception axis says of ``metric``."""
    if metric == WITHOUT_WEIGHTS:
        return "|1 - hf_ratio| (LPIPS is absent)"
    return title(metric).name


def mmse(plane: list[Point]) -> Point:
    """The point of the highest PSNR: what stands for the MMSE estimator.

    Raises: ValueError where there is none.
    """
    return max(plane, key=lambda point: point.psnr)
