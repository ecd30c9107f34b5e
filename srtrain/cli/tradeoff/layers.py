"""The photos of the page: each answer, further samples, bounds, and maps of where they part."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from srtrain.cli.evaluate.choice import choose, gallery
from srtrain.cli.evaluate.sets import open_sets
from srtrain.cli.evaluate.words import BICUBIC
from srtrain.cli.tradeoff.samples import hr_levels, lr_of
from srtrain.evaluation.heat import heat
from srtrain.evaluation.shown import Shown
from srtrain.images import read_rgb8, to_uint8

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from srtrain.cli.evaluate.sets import Item
    from srtrain.cli.tradeoff.samples import Sampled
    from srtrain.evaluation.results import Results
    from srtrain.images.picture import Pixels
    from srtrain.inference.upscaler import Upscaler

SHOWN = 4  # samples, the flow's own answer among them
HOTTEST = 32  # levels of a standard deviation, and of an error, from which on maps are white
SPREAD, ERROR, MEAN = "{}, spread", "{}, error of the mean", "{}, mean of {}"
LOWER, UPPER, WIDTH, OF_POINT = "{}, lower", "{}, upper", "{}, width", "{}, error"


def looks(
    options: argparse.Namespace,
    results: Results,
    of_samples: Results | None,
    models: Mapping[str, Upscaler],
    sampled: Mapping[str, Sampled],
    *,
    scale: int,
) -> Iterator[Shown]:
    """The photos that an evaluation would show, with all that is to be seen of each."""
    banded = {name: model for name, model in models.items() if model.generator.head is not None}
    for data in open_sets(options.data, scale=scale):
        if data.name not in results.sets:
            continue
        names = list(results.models[0].data[data.name].images)
        chosen = gallery(choose(results, data.name, baseline=BICUBIC), names)
        items = {item.name: item for item in data.items}
        for name, why in chosen.items():
            item, lr = items[name], lr_of(items[name], scale=scale)
            hr = hr_levels(item)
            extra: dict[str, Pixels] = {}
            for flow in sampled.values():
                extra |= _of_flow(flow, data.name, name, hr)
            for band, model in banded.items():
                extra |= _of_band(band, model, lr, hr)
            sr = _answers(options.output, results, data.name, item)
            values = _values([results, of_samples], data.name, name)
            levels = to_uint8(lr[0])
            yield Shown(data.name, name, why, levels, hr, sr, values, extra)


def _answers(output: Path, results: Results, data: str, item: Item) -> dict[str, Pixels]:
    """As `srtrain evaluate` kept them."""
    place = output / "evaluation" / "images"
    return {
        model.name: read_rgb8(place / model.name / data / f"{item.name}.png")
        for model in results.models
        if data in model.data
    }


def _values(found: Sequence[Results | None], data: str, image: str) -> dict[str, dict[str, float]]:
    return {
        model.name: dict(model.data[data].images[image])
        for results in found
        for model in (results.models if results else [])
        if data in model.data and image in model.data[data].images
    }


def _of_flow(flow: Sampled, data: str, image: str, hr: Pixels) -> dict[str, Pixels]:
    stack = [read_rgb8(flow.path(k, data, image)) for k in range(flow.count)]
    mean = read_rgb8(flow.path("mean", data, image))
    spread = np.stack(stack).astype(np.float32).std(axis=0, ddof=1)
    layers = {flow.title(k): stack[k] for k in range(1, min(SHOWN, flow.count))}
    layers[flow.mean_name] = mean
    layers[SPREAD.format(flow.name)] = heat(spread.mean(axis=2), hottest=HOTTEST)
    layers[ERROR.format(flow.name)] = _error(mean, hr)
    return layers


def _of_band(name: str, model: Upscaler, lr: Tensor, hr: Pixels) -> dict[str, Pixels]:
    """The calibrated band; its width is white where a Gaussian's spread of ``HOTTEST`` has it."""
    head = model.generator.head
    assert head is not None
    lower, upper = model.bands(lr.to(model.device))
    point = to_uint8(model.upscale_tensor(lr.to(model.device))[0].cpu())
    width = (upper - lower)[0].mean(dim=0).mul(255).cpu().numpy()
    return {
        LOWER.format(name): to_uint8(lower[0].cpu()),
        UPPER.format(name): to_uint8(upper[0].cpu()),
        WIDTH.format(name): heat(width, hottest=widest(head.level)),
        OF_POINT.format(name): _error(point, hr),
    }


def widest(level: float) -> float:
    """Levels between the bounds that hold ``level`` of a Gaussian of spread ``HOTTEST``."""
    return 2 * NormalDist().inv_cdf((1 + level) / 2) * HOTTEST


def _error(image: Pixels, hr: Pixels) -> Pixels:
    apart = np.abs(image.astype(np.float32) - hr.astype(np.float32))
    return heat(apart.mean(axis=2), hottest=HOTTEST)
