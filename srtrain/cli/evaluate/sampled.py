"""Flows: which of their images are measured, and what is said of how they were drawn."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from srtrain.checks import counted
from srtrain.cli.evaluate.models import Made, Model, Network
from srtrain.errors import ConfigError
from srtrain.images import round_levels
from srtrain.inference.flow_engine import FlowEngine
from srtrain.inference.forward import pick_precision
from srtrain.inference.memory import available
from srtrain.inference.sampling import Sampling
from srtrain.metrics.samples import MEASURES_VERSION, all_alike, apart_without_end, expected
from srtrain.networks.flow import Flow, few_steps

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from srtrain.cli.evaluate.sets import DataSet, Item
    from srtrain.evaluation.results import Results, Values
    from srtrain.networks.generator import Generator
    from srtrain.perception.lpips import LPIPS

FALLEN = 0.5  # rtm: half of the energy that the mean lacks is still missing
_BYTES = 120  # of each value, while ranks are correlated; one more of each sample
_USUAL = 25  # steps


@dataclass(frozen=True)
class Asked:
    """``--samples N`` and what goes with it; without it sample 0 of seed 0 is the flow's image."""

    number: int | None = None
    sampling: Sampling = field(default_factory=Sampling)

    @staticmethod
    def of(options: argparse.Namespace) -> Asked:
        """As the command line says."""
        words = {name: getattr(options, name) for name in ("steps", "sampler", "project")}
        return Asked(options.samples, Sampling(options.samples or 1, options.seed or 0, **words))


class Sampled(Network):
    """A flow: its image is sample 0; the others say how the samples lie about the truth."""

    one_by_one = True

    def __init__(
        self,
        name: str,
        file: Path,
        generator: Generator,
        *,
        tile: int | None,
        precision: str,
        asked: Asked,
    ) -> None:
        super().__init__(name, file, generator, tile=tile, self_ensemble=False, precision=precision)
        assert isinstance(generator.net, Flow)
        self.flow = generator.net
        self.asked = asked
        own = {name: getattr(self.flow, name) for name in ("steps", "sampler", "project")}
        self.how = {**own, **asked.sampling.how}
        self.steps = int(self.how["steps"])
        self.engine: FlowEngine | None = None

    def key(self, data: DataSet, item: Item) -> str:
        """Changes with what is drawn, and how it is measured."""
        drawn = f"samples {self.asked.number} of seed {self.asked.sampling.seed}, {self.how}"
        return f"{self.sha256} {drawn}, measured by {MEASURES_VERSION}"

    def prepare(self, device: torch.device) -> None:
        """To where it computes."""
        precision = pick_precision(self.precision, device)
        self.generator.to(device)
        self.engine = FlowEngine(self.generator, precision=precision, tile=self.tile)

    def release(self) -> None:
        """Back, so that the next has the memory."""
        super().release()
        self.engine = None

    def upscale(self, lr: Tensor, data: DataSet, items: Sequence[Item]) -> Tensor:
        """Sample 0. Raises: RuntimeError if the network cannot compute it."""
        one = replace(self.asked.sampling, samples=1)
        return torch.cat([next(self._drawn(image, one)) for image in lr.split(1)])

    def make(self, lr: Tensor, data: DataSet, items: Sequence[Item]) -> Made:
        """Sample 0, and where samples were asked for all of them, and the mean.

        Raises: ValueError where the memory cannot hold them; RuntimeError as ``upscale``.
        """
        if self.asked.number is None:
            return super().make(lr, data, items)
        found = [self._all_of(image, self.asked.number) for image in lr.split(1)]
        first, samples, means = zip(*found, strict=True)
        return Made(torch.cat(first), list(samples), list(means))

    def _all_of(self, lr: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Sample 0 (1, 3, H, W), all of them as levels, and the mean (3, H, W) where there is one.

        Raises: ValueError where the memory cannot hold them.
        """
        assert self.engine is not None
        self._refuse_beyond_memory(lr, number)
        first: list[Tensor] = []
        levels = []
        for sr in self._drawn(lr, self.asked.sampling):
            first = first or [sr]
            levels.append(round_levels(sr, bits=8)[0].cpu())
        mean = None if self.engine.mean is None else self.engine.mean.whole(lr)[0]
        return first[0], torch.stack(levels), mean

    def _drawn(self, lr: Tensor, sampling: Sampling) -> Iterator[Tensor]:
        """Shapes: (1, 3, h, w) -> (1, 3, H, W) in [0, 1] for each sample, where lr is."""
        assert self.engine is not None
        for sr in self.engine.sample(lr, sampling):
            tile, side = self.engine.tile or 0, max(lr.shape[-2:])
            self.approximate = 0 < tile < side and not self.engine.reach.exact
            yield sr.to(lr.device)

    def _refuse_beyond_memory(self, lr: Tensor, number: int) -> None:
        height, width = (side * self.generator.scale for side in lr.shape[-2:])
        needed = 3 * height * width * (number + _BYTES)
        free = available(torch.device("cpu"))
        if needed > free:
            raise ValueError(
                f"{number} samples of {width}x{height} take {needed / 1e9:.1f} GB to measure,"
                f" {free / 1e9:.1f} GB are free: fewer --samples, or smaller images"
            )


def refuse_without_flow(asked: Asked, models: Sequence[Model]) -> None:
    """Raises: ConfigError where samples are asked of models that have but one image."""
    if asked.number is not None and not any(isinstance(model, Sampled) for model in models):
        fix = "give a run of experiment=posterior or pmrf, or leave it out"
        raise ConfigError("no MODEL is a flow: each has but one image", where="--samples", fix=fix)


def tell_few_steps(models: Sequence[Model]) -> None:
    """A line for each flow whose steps cannot suffice, before hours are spent."""
    for model in _flows(models):
        if said := few_steps(model.steps, model.how["sampler"]):
            fix = f"--steps {_USUAL}" if model.asked.number else f"--samples 1 --steps {_USUAL}"
            print(f"srtrain: warning: {model.name}: {said} · add {fix}", file=sys.stderr)


def protocol_of(models: Sequence[Model], lpips: LPIPS | None) -> dict[str, object]:
    """What was drawn, and what an exact sampler is expected to reach; empty without a flow."""
    flows = list(_flows(models))
    if not flows:
        return {}
    asked = flows[0].asked
    drawn = {
        "seed": asked.sampling.seed,
        "flows": {model.name: model.how for model in flows},
    }
    if asked.number is None:
        return {"samples": {"number": 1, **drawn}}
    return {
        "samples": {
            "number": asked.number,
            **drawn,
            "measures": MEASURES_VERSION,
            "ntire_diversity": "squared error of a pixel" if lpips is None else lpips.name,
            "expected": expected(asked.number),
        }
    }


def notes_of(results: Results, models: Sequence[Model]) -> Iterator[str]:
    """Which sample the other figures are of, and where samples fall back to the mean."""
    for model in _flows(models):
        yield f"{model.name}: figures of one image are of sample 0 of seed {_said(model)}"
    means = {model.name: model.data for model in results.models}
    for model in _flows(models):
        for data, found in means.get(model.name, {}).items():
            if said := _warned(model, found.means):
                yield f"{data}, {model.name}: warning: {said}"


def _said(model: Sampled) -> str:
    said = f"{model.asked.sampling.seed}, {counted(model.steps, 'step')}"
    said += "" if model.how["sampler"] == "euler" else f" of {model.how['sampler']}"
    return f"{said}, projected onto LR" if model.how["project"] else said


def _warned(model: Sampled, means: Values) -> str:
    """Of samples much nearer to each other than the truth is to their centre, or much further."""
    rtm, law = means.get("rtm", 0.0), means.get("law")
    number, steps = model.asked.number or 1, counted(model.steps, "step")
    few = model.steps < _USUAL
    fix = f"{steps}: take {_USUAL}" if few else f"{steps}: train longer, or take more steps"
    signs = [f"rtm {rtm:.2f} is above {FALLEN}"] if rtm > FALLEN and (law or 1) >= 1 else []
    if law is not None and law < (1 + apart_without_end(number)) / 2:
        ends = f"1: as far as the truth, {apart_without_end(number):.2f}: noise alone"
        return f"samples are too far apart: law {law:.2f} ({ends}) · train longer"
    # Means that are moved are near each other by intention: they sample no posterior.
    if law is not None and model.flow.condition != "none" and law > (1 + all_alike(number)) / 2:
        ends = f"1: as far apart as the truth, {all_alike(number):.2f}: all alike"
        signs.append(f"law {law:.2f} ({ends})")
    return f"samples fall back to the mean: {', '.join(signs)} · {fix}" if signs else ""


def _flows(models: Sequence[Model]) -> Iterator[Sampled]:
    return (model for model in models if isinstance(model, Sampled))
