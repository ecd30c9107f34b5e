"""What sample k of a run is must never change: checkpoints of yesterday continue with it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from srtrain.data.cache import open_images
from srtrain.data.crops import TrainingCrops
from srtrain.data.sources import Concat, Folder, Paired
from tests.data import folder_of, noise, save

SAMPLES = [*range(400), *range(2**40, 2**40 + 100)]


def _unpaired(root: Path) -> Concat:
    """Wide, high, square; and images no larger than a patch on one side or on both."""
    sizes = {"a": (40, 52), "b": (70, 24), "c": (24, 24), "d": (24, 90), "e": (257, 129)}
    folders = [
        Folder({"path": folder_of(root / name, 2, height=h, width=w), "repeat": 1 + (name == "e")})
        for name, (h, w) in sizes.items()
    ]
    return Concat(*folders)


def _pairs(root: Path) -> Paired:
    for index, (height, width) in enumerate([(10, 13), (6, 20), (33, 8)]):
        save(root / "hr" / f"{index}.png", noise(4 * height + index, 4 * width, index))
        save(root / "lr" / f"{index}.png", noise(height, width, 10 + index))
    return Paired(root / "hr", root / "lr", scale=4)


# By this program at its commit b145830: one pixel at a time, one sample after the other.
GOLDEN = {
    ("unpaired", 0): "34040f624d5a1155",
    ("unpaired", 2**63 - 1): "424a2a84fa5abba7",
    ("pairs", 0): "e97dae913e75b70e",
}


@pytest.mark.parametrize(("kind", "seed"), GOLDEN)
def test_samples_are_those_of_the_first_version(tmp_path: Path, kind: str, seed: int) -> None:
    source = _pairs(tmp_path) if kind == "pairs" else _unpaired(tmp_path)
    images = open_images(source, cache_dir=tmp_path / "cache", progress=False)
    crops = TrainingCrops(images, hr_patch_size=24, scale=4, seed=seed)
    found = hashlib.sha256()
    for first in range(0, len(SAMPLES), 50):
        batch = crops.__getitems__(SAMPLES[first : first + 50])
        for name in ("hr", "lr"):
            if name in batch:
                found.update(batch[name].contiguous().numpy().tobytes())
        found.update(repr((batch["name"], batch["sample"].tolist())).encode())
    assert found.hexdigest()[:16] == GOLDEN[kind, seed]
