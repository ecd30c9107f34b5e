"""Samples of a flow, from tensors and from files to files, beside its bare velocity forwards."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from srtrain.cli import build
from srtrain.cli.benchmark.inference import Case, by_both_clocks, case, draw
from srtrain.cli.benchmark.options import positive
from srtrain.cli.benchmark.report import Report, Table
from srtrain.cli.benchmark.runs import network_words
from srtrain.cli.benchmark.workload import NETWORKS
from srtrain.cli.heap import keep_freed_memory
from srtrain.cli.spread_picture import spread_picture
from srtrain.config.preflight import prepare
from srtrain.images import read_quickly
from srtrain.inference.run_samples import run_samples
from srtrain.inference.sampling import Sampling
from srtrain.inference.upscaler import Upscaler, pick_device

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from torch import Tensor, nn

    from srtrain.cli.benchmark.inference import Arms
    from srtrain.inference.flow_engine import FlowEngine
    from srtrain.inference.jobs import Job

    Calls = list[tuple[Tensor, ...]]

BARE = "bare velocity forwards, inputs ready"
WITH_MEAN = "the same, and the mean's forwards"
SAMPLES = "samples: tensors to tensors"
FILES = "srtrain infer --samples: files to files"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which flows, how they are sampled, on what images."""
    flows = [name for name, network in NETWORKS.items() if network.flow]
    parser.set_defaults(threads=1)
    add = parser.add_argument
    add("--networks", nargs="+", choices=flows, default=flows)
    add("--scale", type=positive, default=4)
    add("--samples", metavar="N", type=positive, default=2, help="of each image")
    add("--steps", metavar="K", type=positive, help="of each sample (the network's own)")
    default = [Case(2, 32, 32), Case(1, 96, 96)]
    about = "number and size of LR images"
    add("--images", nargs="+", type=case, default=default, metavar="NxWxH", help=about)
    add("--precision", default="auto", metavar="auto|fp32|bf16|fp16")


def measure(options: argparse.Namespace) -> Report:
    """Each flow, untrained, on each set of images: in seconds, and in CPU-seconds."""
    keep_freed_memory()  # as `srtrain infer`
    device = pick_device(options.device)
    tables: list[Table] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for network in options.networks:
            words = network_words(network, folder, options.scale)
            torch.manual_seed(0)
            generator = build.make_generator(prepare([*words, f"scale={options.scale}"]).config)
            asked = Sampling(samples=options.samples, steps=options.steps)
            upscaler = Upscaler(
                generator, device=device, precision=options.precision, sampling=asked
            )
            for images in options.images:
                jobs = draw(images, folder / f"{network}-{images}".replace(" ", "-"))
                jobs = [replace(job, samples=options.samples) for job in jobs]
                arms, note = _arms(upscaler, jobs)
                title = f"{network}, {options.samples} samples of each of {images}"
                tables += by_both_clocks(title, arms, note, jobs, device, options.rounds)
    about = {"scale": options.scale, "device": device, "precision": options.precision}
    return Report("Sampling", about, tables)


def _arms(upscaler: Upscaler, jobs: Sequence[Job]) -> tuple[Arms, str]:
    engine = upscaler.flow
    assert engine is not None
    images = [_levels(job) for job in jobs]
    arms: Arms = {
        SAMPLES: partial(_sample, engine, images),
        FILES: partial(_files, upscaler, jobs),
    }
    arms[SAMPLES]()  # with what it measures once
    velocity = _calls(engine.flow.velocity, arms[SAMPLES])
    autocast = partial(
        torch.autocast,
        engine.device.type,
        engine.velocity.forward.precision,
        enabled=engine.velocity.forward.precision is not torch.float32,
    )
    bare: Arms = {BARE: partial(_repeat, [(engine.flow.velocity, velocity)], autocast)}
    if engine.flow.mean is not None:
        asked = [(engine.flow.mean.net, _calls(engine.flow.mean.net, arms[SAMPLES]))]
        bare[WITH_MEAN] = partial(_repeat, [(engine.flow.velocity, velocity), *asked], autocast)
    pixels = sum(given[0].shape[0] * given[0].shape[-2] * given[0].shape[-1] for given in velocity)
    each = sum(image.shape[-2] * image.shape[-1] for image in images) * engine.flow.scale**2
    steps = engine.sampling.steps or engine.flow.steps
    twice = 2 if (engine.sampling.sampler or engine.flow.sampler) == "heun" else 1
    times = pixels / (each * engine.sampling.samples * steps * twice)
    note = f"{len(velocity)} forward passes, {steps} steps, over {times:.2f} times the pixels"
    return {**bare, **arms}, note


def _levels(job: Job) -> Tensor:
    pixels = np.array(read_quickly(job.source).pixels)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def _calls(net: nn.Module, work: Any) -> Calls:  # noqa: ANN401 - an arm
    """What ``net`` is given while ``work`` runs; inputs of one shape are kept once, and shared."""
    kept: dict[tuple[torch.Size, ...], tuple[Tensor, ...]] = {}
    found: Calls = []

    def note(_: object, given: tuple[Tensor, ...]) -> None:
        key = tuple(tensor.shape for tensor in given)
        if key not in kept:
            kept[key] = tuple(t.clone(memory_format=torch.preserve_format) for t in given)
        found.append(kept[key])

    with net.register_forward_pre_hook(note):
        work()
    return found


@torch.no_grad()
def _repeat(nets: Sequence[tuple[nn.Module, Calls]], autocast: Any) -> None:  # noqa: ANN401
    with autocast():
        for net, calls in nets:
            for given in calls:
                net(*given)


def _sample(engine: FlowEngine, images: Sequence[Tensor]) -> None:
    for image in images:
        for _ in engine.sample(image):
            pass


def _files(upscaler: Upscaler, jobs: Sequence[Job]) -> None:
    for outcome in run_samples(upscaler, jobs, draw=spread_picture):
        if outcome.failure is not None:
            raise RuntimeError(outcome.failure)
