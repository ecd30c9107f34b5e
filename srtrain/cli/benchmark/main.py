"""``srtrain benchmark SUITE``: measures one suite, prints its tables, writes JSON where asked."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from srtrain.cli.arguments import Arguments
from srtrain.cli.benchmark.options import add_common
from srtrain.config.nearest import did_you_mean, nearest
from srtrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Each is a module of this package with `add_options(parser)` and `measure(options) -> Report`.
SUITES = {
    "training": "srtrain's whole training run beside a bare loop: what each part takes",
    "host": "what the host does in a step beside the network",
    "data": "building the cache, and reading batches from it",
    "validation": "a validation beside its forward passes and metric kernels",
    "metrics": "PSNR and SSIM beside torchmetrics",
    "inference": "`srtrain infer` beside the bare forward over the same tiles",
    "sampling": "samples of a flow beside the bare forwards of its velocity network",
    "startup": "from the command to its first step, --help and errors",
    "scaling": "two processes beside one",
    "degradation": "what making LR adds to a training step",
    "guards": "what guarding against losses that are not finite adds to a training step",
}


def main(argv: list[str]) -> int:
    """Run the suite that the first word names; without one, list them."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    name = argv[0]
    if name not in SUITES:
        guess = did_you_mean(nearest(name, SUITES), f"suites: {', '.join(SUITES)}")
        raise ConfigError(f"unknown suite {name}", where="srtrain benchmark", fix=guess)
    suite = import_module(f"srtrain.cli.benchmark.{name}")
    parser = Arguments(
        prog=f"srtrain benchmark {name}",
        description=f"{suite.__doc__} The arms take turns, so that their ratios hold on a busy"
        " machine too; CPU-seconds on a CPU, seconds on a GPU.",
    )
    add_common(parser)
    suite.add_options(parser)  # second: it may set other defaults
    options = parser.parse_args(argv[1:])
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    with _terminated_politely():
        report = suite.measure(options)

    from srtrain.cli.benchmark.report import show, to_json

    show(report)
    if options.json:
        text = to_json(report, command=["srtrain", "benchmark", *argv])
        options.json.write_text(text, encoding="utf-8")
    return 0


@contextmanager
def _terminated_politely() -> Iterator[None]:
    """Within, SIGTERM unwinds: arms that stand still between their turns would for ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _overview() -> str:
    rows = [f"  {name:<12} {about}" for name, about in SUITES.items()]
    usage = "usage: srtrain benchmark SUITE [options]; srtrain benchmark SUITE --help"
    return "\n".join([usage, "", *rows])
