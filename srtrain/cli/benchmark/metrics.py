"""What it costs to measure an image: PSNR and SSIM beside torchmetrics, and every other metric."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from srtrain.cli.benchmark.options import positive
from srtrain.cli.benchmark.paired import Clock, take_turns
from srtrain.cli.benchmark.report import Arm, Report, Table
from srtrain.color import luma
from srtrain.data.leaves import dead_leaves
from srtrain.degradation.resize import Bicubic, upscale_rounded
from srtrain.metrics.consistency import lr_psnr_of_rounded
from srtrain.metrics.frequency import high_band
from srtrain.metrics.image_metrics import ImageMetrics
from srtrain.metrics.one_pass import compare
from srtrain.metrics.quality import WINDOW, levels, psnr, shave, ssim
from srtrain.perception.lpips import LPIPS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from torch import Tensor

    Pair = tuple[Tensor, Tensor]

TORCHMETRICS, APART, TOGETHER = "torchmetrics", "srtrain, one by one", "srtrain, one pass"
EDGE = WINDOW // 2
GOAL = 1e-5  # to which all three must agree


def add_options(parser: argparse.ArgumentParser) -> None:
    """The images, and LPIPS's weights if there are any."""
    parser.add_argument("--scale", type=positive, default=4)
    parser.add_argument("--images", metavar="N", type=positive, default=4)
    parser.add_argument("--side", metavar="P", type=positive, default=480, help="height; 3:2")
    parser.add_argument("--lpips", metavar="FILE", type=Path, help="SqueezeNet's weights")


def measure(options: argparse.Namespace) -> Report:
    """Of dead leaves beside their bicubic images.

    Raises: ValueError if the implementations disagree.
    """
    from srtrain.inference.upscaler import pick_device

    clock = Clock(pick_device(options.device))
    images = [_image(k, options, clock.device) for k in range(options.images)]
    megapixels = sum(hr.shape[-2] * hr.shape[-1] for hr, _, _ in images) / 1e6
    pairs = [_cut(sr, hr, options.scale) for hr, _, sr in images]
    apart = _worst(pairs)
    if apart > GOAL:
        raise ValueError(f"values differ by {apart:g}: it is not the same that is measured")
    tables = []
    for title, arms, base in (
        ("PSNR and SSIM of Y and RGB", _quality_arms(pairs), TORCHMETRICS),
        ("All that srtrain measures of an image", _all_arms(images, options), "all"),
    ):
        costs = take_turns(arms, rounds=options.rounds, clock=clock)
        found = [Arm(name, [c / megapixels for c in cost]) for name, cost in costs.items()]
        tables.append(Table(title, f"{clock.unit} a megapixel", found, base))
    about = {
        "scale": options.scale,
        "images": f"{options.images} of {tuple(images[0][0].shape[-2:])}",
        "largest difference": f"{apart:.1e}",
        "also in one pass": "rtm, bias, hf_ratio, hf_truth",
    }
    return Report("Metrics", about, tables)


def _image(number: int, options: argparse.Namespace, device: torch.device) -> tuple[Tensor, ...]:
    """HR, LR, SR."""
    square = dead_leaves(number, size=options.side * 3 // 2, seed=0)
    height, width = (side - side % options.scale for side in (options.side, square.shape[1]))
    pixels = torch.from_numpy(square[:height, :width].copy()).to(device)
    hr = pixels.permute(2, 0, 1)[None].float() / 255
    lr = Bicubic(scale=options.scale)(hr)
    return hr, lr, upscale_rounded(lr, scale=options.scale)


def _cut(sr: Tensor, hr: Tensor, scale: int) -> Pair:
    return shave(levels(sr), scale), shave(levels(hr), scale)


def _quality_arms(pairs: list[Pair]) -> Mapping[str, Callable[[], object]]:
    """From rounded images without their borders to PSNR and SSIM of Y and RGB."""
    return {
        TORCHMETRICS: lambda: [_torchmetrics(*pair) for pair in pairs],
        APART: lambda: [_apart(*pair) for pair in pairs],
        TOGETHER: lambda: [_together(*pair) for pair in pairs],
    }


def _torchmetrics(sr: Tensor, hr: Tensor) -> list[Tensor]:
    """In float32, as it is meant; of its SSIM map the part that tables average."""
    found = []
    sr, hr = sr / 255, hr / 255
    for pair in ((luma(sr), luma(hr)), (sr, hr)):
        maps = structural_similarity_index_measure(*pair, data_range=1.0, return_full_image=True)[1]
        found += [
            peak_signal_noise_ratio(*pair, data_range=1.0),
            maps[..., EDGE:-EDGE, EDGE:-EDGE].mean(),
        ]
    return found


def _apart(sr: Tensor, hr: Tensor) -> list[Tensor]:
    sr, hr = sr.double() / 255, hr.double() / 255
    pairs = ((luma(sr), luma(hr)), (sr, hr))
    return [metric(*pair)[0] for pair in pairs for metric in (psnr, ssim)]


def _together(sr: Tensor, hr: Tensor) -> list[Tensor]:
    return [column[0] for column in compare(sr, hr, scale=4)[:4]]


def _worst(pairs: list[Pair]) -> float:
    worst = 0.0
    for pair in pairs:
        rows = [
            torch.stack([v.double() for v in f(*pair)]) for f in (_torchmetrics, _apart, _together)
        ]
        worst = max(worst, float(torch.stack([row - rows[1] for row in rows]).abs().max()))
    return worst


def _all_arms(
    images: list[tuple[Tensor, ...]], options: argparse.Namespace
) -> Mapping[str, Callable[[], object]]:
    """Everything, and its parts one by one."""
    lpips = LPIPS("squeeze", options.lpips).to(images[0][0].device) if options.lpips else None
    bicubic = Bicubic(scale=options.scale)
    metrics = ImageMetrics(scale=options.scale, lpips=lpips, downscale=bicubic)
    cut = [_cut(sr, hr, options.scale) for hr, _, sr in images]
    lumas = [(luma(sr / 255).double(), luma(hr / 255).double()) for sr, hr in cut]

    @torch.no_grad()
    def perceived() -> None:
        if lpips is not None:
            for hr, _, sr in images:
                lpips(sr, hr)

    arms: dict[str, Callable[[], object]] = {
        "all": lambda: [metrics.measure(sr, hr, lr) for hr, lr, sr in images],
        "one pass": lambda: [compare(*pair, scale=options.scale) for pair in cut],
        "hf by itself": lambda: [high_band(*pair, scale=options.scale) for pair in lumas],
        "lr_psnr": lambda: [lr_psnr_of_rounded(sr, lr, bicubic) for _, lr, sr in images],
        "rounding": lambda: [_cut(sr, hr, options.scale) for hr, _, sr in images],
    }
    return {**arms, "lpips_squeeze": perceived} if lpips is not None else arms
