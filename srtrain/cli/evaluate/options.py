"""The command line of ``srtrain evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from srtrain.cli.arguments import Arguments, one_or_more, zero_or_more


def parser() -> argparse.ArgumentParser:
    """All options; what is wrong with them alone ends the program with 2."""
    made = Arguments(
        prog="srtrain evaluate",
        allow_abbrev=False,  # ranks are given these words again
        description="Measure models on data sets by the protocol of published tables, and compare"
        " them. Bicubic stands beside them.",
        epilog="exit codes: 0 done, 2 nothing was measured (options, scale, OUT in use), 3 images"
        " missing or bad, 4 model file, weights or disk, 75 stopped by a signal (SIGTERM, SIGUSR1,"
        " SIGHUP), 130 interrupted (Ctrl-C); stopped or killed: the same command continues",
    )
    made.add_argument(
        "model",
        nargs="+",
        metavar="[NAME=]MODEL",
        help="run folder (its newest checkpoint), checkpoint, community file, folder of finished"
        " SR images, or bicubic, lanczos, nearest",
    )
    made.add_argument("--scale", type=_scale, required=True, metavar="N")
    made.add_argument(
        "--data",
        action="extend",
        nargs="+",
        required=True,
        metavar="[NAME=]DIR",
        help="HR images (LR is made as MATLAB does, bit for bit), or HR/ beside LR…/XN; or HR:LR;"
        " `demo`: the bundled photos",
    )
    made.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    _add_measures(made.add_argument_group("what is measured"))
    _add_samples(made.add_argument_group("samples of flows (experiment=posterior, pmrf)"))
    _add_computation(made.add_argument_group("how it is computed"))
    _add_results(made.add_argument_group("what is written"))
    made.add_argument("--verbose", action="store_true", help="show tracebacks")
    return made


def _add_measures(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--lpips",
        default="auto",
        choices=("auto", "squeeze", "alex", "vgg", "none"),
        help="its net; auto: the first of alex, squeeze, vgg whose backbone is in torch's cache"
        " (srtrain fetch-weights); absent otherwise, and said so",
    )
    group.add_argument(
        "--features", type=Path, metavar="FILE", help="the backbone of --lpips NET, if elsewhere"
    )
    group.add_argument(
        "--dists", default="auto", metavar="auto|none|FILE", help="VGG16's weights (auto: cache)"
    )
    group.add_argument(
        "--border",
        type=zero_or_more,
        action="append",
        default=[],
        metavar="N",
        help="PSNR and SSIM also with N pixels cut instead of the scale: psnr_y_borderN …",
    )
    group.add_argument(
        "--unrounded", action="store_true", help="also without rounding SR: psnr_y_unrounded …"
    )
    group.add_argument(
        "--ssim",
        choices=("reflect",),
        help="SSIM also over reflected borders, as torchmetrics has it: ssim_y_reflect …",
    )
    group.add_argument(
        "--no-bicubic", dest="bicubic", action="store_false", help="measure only what is named"
    )
    group.add_argument(
        "--every-checkpoint", action="store_true", help="of run folders, all checkpoints"
    )


def _add_samples(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--samples",
        type=one_or_more,
        metavar="N",
        help="draw N of each image, and measure whether they are honest: diversity, coverage, laws"
        " (EVALUATION.md); all other figures are of sample 0",
    )
    group.add_argument("--seed", type=zero_or_more, metavar="S", help="of --samples (default: 0)")
    group.add_argument(
        "--steps",
        type=one_or_more,
        metavar="K",
        help="of --samples (default: the checkpoint's own)",
    )
    group.add_argument(
        "--sampler",
        choices=("euler", "heun"),
        help="heun asks the velocity twice in each step (default: the checkpoint's own)",
    )
    group.add_argument(
        "--project",
        action=argparse.BooleanOptionalAction,
        help="hold samples to the LR image, bicubically reduced (default: the checkpoint's own)",
    )


def _add_computation(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--device", default="auto", metavar="auto|cpu|cuda")
    group.add_argument(
        "--devices",
        type=one_or_more,
        default=1,
        metavar="N",
        help="processes that share the images",
    )
    group.add_argument("--precision", default="fp32", choices=("fp32", "auto", "bf16", "fp16"))
    group.add_argument(
        "--tile",
        type=zero_or_more,
        metavar="N",
        help="LR pixels a side of the pieces of large images (default: by the memory, and only"
        " where pieces equal the whole; 0: never)",
    )
    group.add_argument(
        "--batch-pixels",
        type=one_or_more,
        metavar="N",
        help="HR pixels of equal-sized images computed at once (default: 2^18, on GPUs 2^21)",
    )
    group.add_argument("--self-ensemble", action="store_true", help="mean over 8 flips and turns")
    group.add_argument(
        "--trust", action="append", default=[], metavar="PKG",
        help="a package whose networks the files may name (runs its code)",
    )  # fmt: skip


def _add_results(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--save-images", action="store_true", help="keep every SR image as PNG")
    group.add_argument(
        "--no-report", dest="report", action="store_false", help="neither report.html nor figures/"
    )
    group.add_argument(
        "--reference",
        metavar="NAME",
        help="the model that others are compared with (default: the first named; of one, bicubic)",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="replace another evaluation's results in OUT; images measured alike stay measured",
    )


def _scale(text: str) -> int:
    value = int(text)
    if not 1 < value <= 8:
        raise argparse.ArgumentTypeError("must be 2 … 8")
    return value
