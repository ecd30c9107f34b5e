"""Measure the embedded features and write their card: python scripts/measure_features.py.

Needs photos (BSDS500/test) and ImageNet weights, neither of which is part of the project; by
default they are looked for in $SRTRAIN_SHARED, else ../shared. About ten minutes on one core.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr
from torchmetrics.functional.image import structural_similarity_index_measure

from srtrain.losses import feature_quality as quality
from srtrain.losses.features import EMBEDDED_CONVS, EMBEDDED_FILE, VGG19Features

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
CARD = EMBEDDED_FILE.with_name("MODEL_CARD.md")
IMAGENET = "ImageNet (Oxford)"
CROP = 80
"""64 px once the margins are cut."""
SIGN_PHOTOS, RANK_PHOTOS = 17, 25

LEVELS: dict[str, tuple[Callable[..., np.ndarray], tuple[float, ...]]] = {
    "mean": (quality.mean_shift, (0.02, 0.05, 0.1, 0.15, 0.2)),
    "contrast": (quality.contrast, (0.1, 0.2, 0.35, 0.5, 0.7)),
    "shift": (quality.shift, (0.15, 0.3, 0.5, 0.8, 1.5)),
    "blur": (quality.blur, (0.5, 0.8, 1.2, 2.0, 3.0)),
    "jpeg": (quality.jpeg, (30.0, 60.0, 75.0, 88.0, 94.0)),
    "salt & pepper": (quality.salt_pepper, (0.003, 0.01, 0.03, 0.06, 0.12)),
    "noise": (quality.noise, (0.01, 0.03, 0.06, 0.1, 0.2)),
    "bicubic": (quality.bicubic, (1.5, 2.0, 3.0, 4.0, 6.0)),
}


def main() -> None:
    """Measure, print, and put the figures into the card."""
    shared = Path(os.environ.get("SRTRAIN_SHARED", ROOT.parent / "shared"))
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--photos", type=Path, default=shared / "data" / "BSDS500" / "test")
    parser.add_argument(
        "--imagenet",
        type=Path,
        default=shared / "weights" / "vgg19_oxford_conv1_1-conv3_4.safetensors",
    )
    parser.add_argument("--features", type=Path, default=EMBEDDED_FILE)
    parser.add_argument("--no-card", action="store_true", help="print only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    crops = central_crops(options.photos)
    distances = all_distances(options.features, options.imagenet)
    text = "\n\n".join(
        [sign_table(distances, crops), rank_table(distances, crops), hardware()],
    )
    print(text)
    if not options.no_card:
        card = CARD.read_text(encoding="utf-8")
        block = f"<!-- figures -->\n{text}\n<!-- end of figures -->"
        card = re.sub(
            r"<!-- figures -->.*<!-- end of figures -->", lambda _: block, card, flags=re.S
        )
        CARD.write_text(card, encoding="utf-8")


def central_crops(folder: Path) -> list[np.ndarray]:
    """The centres of RANK_PHOTOS photos, evenly spaced in the folder's order."""
    files = sorted(folder.glob("*.[jp]*g"))
    chosen = [files[k * len(files) // RANK_PHOTOS] for k in range(RANK_PHOTOS)]
    crops = []
    for file in chosen:
        pixels = np.asarray(Image.open(file).convert("RGB"))
        top, left = (pixels.shape[0] - CROP) // 2, (pixels.shape[1] - CROP) // 2
        crops.append(pixels[top : top + CROP, left : left + CROP])
    return crops


def all_distances(embedded: Path, imagenet: Path) -> dict[str, quality.Distance]:
    """Row of the tables -> function of (reference, distorted) -> {column: (B,)}."""
    features = {
        "embedded": VGG19Features(embedded, taps=EMBEDDED_CONVS),
        IMAGENET: VGG19Features(imagenet, taps=EMBEDDED_CONVS),
        **{f"random He, seed {seed}": quality.random_features(seed) for seed in range(3)},
    }
    rows: dict[str, quality.Distance] = {
        name: quality.FeatureDistance(net) for name, net in features.items()
    }
    rows["1 - SSIM"] = lambda a, b: {"raw": 1 - ssim(b, a.expand_as(b))}
    rows["L2"] = lambda a, b: {"raw": (a - b).square().mean((1, 2, 3))}
    return rows


def ssim(image: Tensor, other: Tensor) -> Tensor:
    """Per image, over RGB."""
    return structural_similarity_index_measure(image, other, data_range=1.0, reduction="none")


def sign_table(distances: dict[str, quality.Distance], crops: list[np.ndarray]) -> str:
    """Share of right pairs per distance."""
    sets = [quality.equal_mse_set(crop) for crop in crops[:SIGN_PHOTOS]]
    pairs = sum(len(quality.KEPT.keys() & d) * len(quality.HARMED.keys() & d) for _, d in sets)
    lines = [
        f"Sign test at equal MSE, {len(sets)} photos, {pairs} pairs; chance is .50:",
        "",
        "| distance | raw, energy-normalised | unit-normalised |",
        "|---|---|---|",
    ]
    for name, distance in distances.items():
        scores = quality.sign_test(distance, sets)
        cells = [f"{scores[kind]:.3f}" if kind in scores else "" for kind in ("raw", "unit")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rank_table(distances: dict[str, quality.Distance], crops: list[np.ndarray]) -> str:
    """Spearman's rho with the ImageNet features over photos x distortions x levels."""
    columns: dict[tuple[str, str], list[np.ndarray]] = {}
    for crop in crops:
        image = crop / 255
        inner = slice(quality.MARGIN, -quality.MARGIN)
        pictures = [
            distort(image, level).clip(0, 1)[inner, inner]
            for distort, levels in LEVELS.values()
            for level in levels
        ]
        reference, distorted = quality.to_tensor([image[inner, inner]]), quality.to_tensor(pictures)
        for name, distance in distances.items():
            for kind, values in distance(reference, distorted).items():
                columns.setdefault((name, kind), []).append(values.numpy())
    count = sum(len(part) for part in columns[IMAGENET, "raw"])
    lines = [
        f"Spearman's rho with the first five ImageNet (Oxford) taps, {len(crops)} photos x "
        f"{len(LEVELS)} distortions x 5 levels = {count} pairs; in brackets the mean of the "
        "per-photo values:",
        "",
        "| distance | with ImageNet raw | with ImageNet unit |",
        "|---|---|---|",
    ]
    for name, kind in columns:
        cells = [_rho(columns[name, kind], columns[IMAGENET, other]) for other in ("raw", "unit")]
        lines.append(f"| {name}{', unit' if kind == 'unit' else ''} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rho(values: list[np.ndarray], others: list[np.ndarray]) -> str:
    pooled = spearmanr(np.concatenate(values), np.concatenate(others)).statistic
    each = [spearmanr(a, b).statistic for a, b in zip(values, others, strict=True)]
    return f"{pooled:.3f} ({np.mean(each):.3f})"


def hardware() -> str:
    """What the figures were taken on."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    processor = names[0] if names else platform.processor()
    return (
        f"Taken by `python scripts/measure_features.py` on {processor}, one thread, "
        f"torch {torch.__version__}, Python {platform.python_version()}."
    )


if __name__ == "__main__":
    main()
