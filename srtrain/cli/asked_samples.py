"""``--samples --seed --steps``: what the command line asks of a flow."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from srtrain.cli.arguments import one_or_more, zero_or_more
from srtrain.errors import ConfigError
from srtrain.inference.sampling import Sampling

if TYPE_CHECKING:
    from collections.abc import Mapping

BICUBIC = "srtrain.degradation.resize.Bicubic"
_WORDS = ("samples", "seed", "steps", "sampler", "project")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """The options of those who let a flow make images."""
    group = parser.add_argument_group(
        "flows (experiment=pmrf, posterior)",
        "Without --samples, one image: sample 0. Sample k of a seed is the same image whatever N,"
        " tiles and batches; another precision or device changes it by rounding.",
    )
    group.add_argument(
        "--samples",
        type=one_or_more,
        metavar="N",
        help="write NAME_sample0 … NAME_sample<N-1>; from 2 on also NAME_mean and NAME_spread.png:"
        " the standard deviation (N - 1) of the samples at each pixel, mean over the channels, in"
        " levels of 255, with its scale beside it; --continue makes an image anew unless all of its"
        " files are there",
    )
    group.add_argument("--seed", type=zero_or_more, metavar="S", help="of the noise (default: 0)")
    group.add_argument(
        "--steps",
        type=one_or_more,
        metavar="K",
        help="of each sample; below 6 samples lean towards the mean (default: the run's own)",
    )
    group.add_argument(
        "--sampler",
        choices=("euler", "heun"),
        help="heun asks the velocity twice in each step (default: the run's own)",
    )
    group.add_argument(
        "--project",
        action=argparse.BooleanOptionalAction,
        help="hold samples to the LR image, bicubically reduced (default: the run's own)",
    )
    group.add_argument(
        "--spread-values",
        action="store_true",
        help="with --samples, also NAME_spread.npy: the spread as float32 (H, W), unrounded",
    )


def asked(arguments: argparse.Namespace) -> Sampling | None:
    """None where no word of these was given."""
    given = {name: value for name in _WORDS if (value := getattr(arguments, name)) is not None}
    return Sampling(**given) if given else None


def refuse_projection(sampling: Sampling | None, about: Mapping[str, Any]) -> None:
    """``about``: what the checkpoint says of the run's degradation.

    Raises: ConfigError where LR images were not made bicubically: to hold samples to them so would
        undo what was learnt.
    """
    if sampling is None or not sampling.project:
        return
    degradation = (about.get("config") or {}).get("degradation") or {}
    kind = degradation.get("_target_", BICUBIC)
    if kind != BICUBIC:
        raise ConfigError(
            f"it was trained on LR images of {kind.rpartition('.')[2]}, which are not bicubic",
            where="--project",
            fix="leave it out",
        )
