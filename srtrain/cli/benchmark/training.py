"""srtrain's whole training run, all defaults on, beside a bare loop of the same arithmetic."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srtrain.cli.benchmark.options import positive
from srtrain.cli.benchmark.paired import Clock, in_turn
from srtrain.cli.benchmark.report import Arm, Report, Table
from srtrain.cli.benchmark.runs import PARTS, SUB_IMAGES, Runs, earlier, network_words
from srtrain.cli.benchmark.workload import CUDA_STEPS, NETWORKS, cut_pictures, draw_pictures
from srtrain.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping

    from srtrain.cli.benchmark.child import Child
    from srtrain.cli.benchmark.paired import Costs

BARE, SRTRAIN, REFERENCE, MATRIX = "bare", "srtrain", "reference", "matrix product"
MEAN = "bare + the mean's forward"
WITHOUT = "without "
NOTES = {
    BARE: "tensors lie ready; same clipping, schedule, EMA",
    MEAN: "bare, and the image that a flow starts from or is told of",
    SRTRAIN: "all defaults on, a line logged each turn; no checkpoint, no validation in a turn, "
    "the cache is built before",
    **{WITHOUT + name: part.about for name, part in PARTS.items()},
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """What to train, and which arms to have.

    One thread unless told otherwise: idle OpenMP threads spin, which CPU-seconds cannot tell from
    work; on a busy machine that is most of them.
    """
    parser.set_defaults(threads=1)
    add = parser.add_argument
    add("--networks", nargs="+", choices=NETWORKS, default=["tiny", "compact", "srresnet"])
    parts = [*PARTS, "none"]
    add("--parts", nargs="+", choices=parts, default=[*PARTS], help="an arm without each (all)")
    add("--peer", action="store_true", help="an arm after BasicSR's description")
    add("--peer-side", metavar="P", type=positive, help="it reads sub-images of P² (whole ones)")
    add("--against", metavar="REV", help="an arm that is srtrain as of another commit")
    add("--scale", type=positive, default=4)
    add("--batch", metavar="N", type=positive, default=16)
    add("--hr-patch", metavar="P", type=positive, default=96, help="HR pixels")
    add("--steps", metavar="N", type=positive, help="steps a turn (some CPU-seconds')")
    add("--pictures", metavar="N", type=positive, default=16, help="PNGs to train on")
    add("--side", metavar="P", type=positive, default=1000, help="of the pictures, pixels")
    add("--override", nargs="+", metavar="KEY=VALUE", default=[], help="in all arms")


def measure(options: argparse.Namespace) -> Report:
    """Each network by itself; all are trained on the same pictures."""
    from srtrain.config.preflight import prepare
    from srtrain.inference.upscaler import pick_device

    refuse_peer_side(options)
    clock = Clock(pick_device(options.device))
    with tempfile.TemporaryDirectory(prefix="srtrain-benchmark-") as name:
        folder = Path(name)
        for network in options.networks:  # the arms would tell of it later, as their own failure
            words = network_words(network, folder, options.scale)
            prepare([*words, f"scale={options.scale}", *options.override])
        pictures = folder / "pictures"
        rev = earlier(options.against, folder / "earlier") if options.against else None
        draw_pictures(pictures, count=options.pictures, scale=options.scale, side=options.side)
        if options.peer_side:
            sub_images = folder / SUB_IMAGES
            cut_pictures(pictures, sub_images, scale=options.scale, side=options.peer_side)
        tables = [
            table
            for network in options.networks
            for table in measure_network(options, network, clock, folder, rev)
        ]
    about = {
        "batch": options.batch,
        "HR patch": options.hr_patch,
        "scale": options.scale,
        "pictures": f"{options.pictures} of {options.side}²",
    }
    if options.override:
        about["override"] = " ".join(options.override)
    return Report("Training", about, tables)


def refuse_peer_side(options: argparse.Namespace) -> None:
    """Raises: ConfigError where no such sub-images can be cut, or nobody would read them."""
    side = options.peer_side
    if side is None:
        return
    where = f"--peer-side {side}"
    if not options.peer:
        raise ConfigError("without --peer nobody reads sub-images", where=where, fix="--peer")
    if side % options.scale or not options.hr_patch <= side <= options.side:
        least, most = options.hr_patch, options.side
        what = f"sub-images have {least} to {most} pixels, a multiple of {options.scale}"
        raise ConfigError(what, where=where)


def read_by_reference(options: argparse.Namespace) -> str:
    """The note on it, without its decoder."""
    if options.peer_side:
        return f"pairs of {options.peer_side}² sub-images, cut before, decoded whole per item"
    given = f"pairs of {options.side}² decoded whole per item"
    return f"{given}, against BasicSR's advice (sub-images of 480²: --peer-side 480)"


def measure_network(
    options: argparse.Namespace, network: str, clock: Clock, folder: Path, rev: Path | None
) -> list[Table]:
    """All arms of one network in turns, and a matrix product between them."""
    cuda = clock.device.type == "cuda"
    steps = options.steps or (CUDA_STEPS if cuda else NETWORKS[network].steps)
    runs = Runs(options, folder, network, "gpu" if cuda else "cpu", steps)
    with ExitStack() as stack:
        turns: dict[str, Callable[[], float]] = {}
        facts: dict[str, Any] = {}
        for child in _children(options, runs, rev):
            stack.enter_context(child).start()
            turns[child.name] = partial(_cost, child, steps, cuda=cuda)
            facts |= child.facts
        product = Product(clock, bf16=facts["bf16"])
        turns[MATRIX] = product.cost
        told = f"{len(turns)} arms take {options.rounds + 1} turns of {steps} steps"
        print(f"srtrain: {network}: {told} (--parts none: the fewest arms)", file=sys.stderr)
        costs = in_turn(turns, options.rounds)
    flops = facts["flops"]
    matrix = [product.flops / cost for cost in costs.pop(MATRIX)]
    title = f"{network}: {flops / 1e9:.3g} GFLOP a step, {steps} steps a turn"
    notes = NOTES | {REFERENCE: f"{read_by_reference(options)}, by {facts.get('decoder')}"}
    samples = steps * options.batch
    rate = Rate(title, clock.unit, samples=samples, flops=flops / options.batch, notes=notes)
    return [rate.table(costs, matrix), *_further(options, rate, costs)]


def _children(options: argparse.Namespace, runs: Runs, rev: Path | None) -> Iterator[Child]:
    """One after another: the first makes the cache that the others find."""
    yield runs.bare()
    if NETWORKS[runs.network].mean:
        yield runs.bare_with_mean(MEAN)
    yield runs.srtrain(SRTRAIN)
    if rev is not None:
        yield runs.srtrain(options.against, checkout=rev)
    if options.peer:
        yield runs.reference()
    for name in options.parts:
        if name in PARTS:
            yield runs.srtrain(WITHOUT + name, PARTS[name])


def _cost(child: Child, steps: int, *, cuda: bool) -> float:
    turn = child.turn(steps)
    return turn.seconds if cuda else turn.cpu


@dataclass(frozen=True)
class Rate:
    """Turns that took ``samples`` samples of ``flops`` each, as samples per second."""

    title: str
    seconds: str
    samples: int
    flops: float
    notes: Mapping[str, str]

    def table(
        self, costs: Costs, matrix: list[float] | None = None, *, base: str = BARE, to: str = ""
    ) -> Table:
        """Of these arms, beside ``base``."""
        arms = [
            Arm(
                name,
                [self.samples / cost for cost in found],
                self.notes.get(name, ""),
                self.flops if matrix else None,
            )
            for name, found in costs.items()
        ]
        return Table(self.title + to, f"samples / {self.seconds}", arms, base, "more", matrix)


def _further(options: argparse.Namespace, rate: Rate, costs: Costs) -> list[Table]:
    """What each part takes of a step; srtrain beside the other commit, and the other loop."""
    tables = []
    for other in (REFERENCE, options.against):
        if other in costs:
            pair = {other: costs[other], SRTRAIN: costs[SRTRAIN]}
            tables.append(rate.table(pair, base=other, to=f", beside {other}"))
    whole = costs[SRTRAIN]
    shares = [("all beyond bare", costs[BARE])]
    shares += [(name, costs[WITHOUT + name]) for name in PARTS if WITHOUT + name in costs]
    arms = [
        Arm(name, [100 * (1 - less / all_) for less, all_ in zip(found, whole, strict=True)])
        for name, found in shares
    ]
    return [*tables, Table(f"{rate.title}: what each part takes", "% of srtrain's step", arms)]


class Product:
    """A large matrix product in the run's precision: what the device can do at most, nearly."""

    def __init__(self, clock: Clock, *, bf16: bool) -> None:
        import torch

        cuda = clock.device.type == "cuda"
        side, self._times = (8192, 20) if cuda else (1536, 2)
        dtype = torch.bfloat16 if bf16 else torch.float32
        self._clock = clock
        self._factor = torch.randn(side, side, device=clock.device, dtype=dtype)
        self._result = torch.empty_like(self._factor)
        self.flops = 2.0 * side**3 * self._times

    def cost(self) -> float:
        """Of ``flops`` FLOPs."""
        return self._clock.cost(self._multiply)

    def _multiply(self) -> None:
        import torch

        for _ in range(self._times):
            torch.mm(self._factor, self._factor, out=self._result)
