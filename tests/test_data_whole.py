"""Batches of whole validation images: of one size, each image once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from srtrain.data.whole import WholeImages

SIZES = ((20, 30), (21, 31), (40, 40), (20, 30), (90, 80), (20, 31), (20, 29))


class _Images(SimpleNamespace):
    def __len__(self) -> int:
        return len(SIZES)


def images(*, paired: bool) -> Any:  # noqa: ANN401
    """What ``WholeImages`` asks of an image set: image i is of gray level i."""
    lr = [(height // 2, width // 2) for height, width in SIZES]
    return _Images(
        names=[f"image{index}" for index in range(len(SIZES))],
        shapes=np.stack([SIZES, lr] if paired else [SIZES], axis=1),
        paired=paired,
        visited=lambda visit: visit,
        hr=lambda index: np.full((*SIZES[index], 3), index, np.uint8),
        lr=lambda index: np.full((*lr[index], 3), 100 + index, np.uint8),
    )


def whole(*, pixels: int, paired: bool = False, rank: int = 0, ranks: int = 1) -> WholeImages:
    found = images(paired=paired)
    return WholeImages(found, scale=2, pixels=pixels, rank=rank, world_size=ranks)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [  # cropped to 20x30, 20x30, 40x40, 20x30, 90x80, 20x30, 20x28
        (1, [[0], [1], [2], [3], [4], [5], [6]]),
        (1200, [[0, 1], [2], [3, 5], [4], [6]]),
        (10**6, [[0, 1, 3, 5], [2], [4], [6]]),
    ],
)
def test_images_of_one_size_share_a_batch(pixels: int, expected: list[list[int]]) -> None:
    batches = whole(pixels=pixels)
    assert [batches[index]["sample"].tolist() for index in range(len(batches))] == expected
    for index, samples in enumerate(expected):
        batch = batches[index]
        assert batch["name"] == [f"image{sample}" for sample in samples]
        assert batch["hr"].shape[1:] == (3, *(side // 2 * 2 for side in SIZES[samples[0]]))
        assert batch["hr"][:, 0, 0, 0].tolist() == samples
        assert batch["hr"].is_contiguous(memory_format=torch.channels_last)
        assert len(samples) == 1 or batch["hr"][:, 0].numel() <= pixels


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 9])
def test_ranks_share_the_images(ranks: int) -> None:
    seen: list[int] = []
    for rank in range(ranks):
        batches = whole(pixels=10**6, rank=rank, ranks=ranks)
        own = sorted(s for k in range(len(batches)) for s in batches[k]["sample"].tolist())
        assert own == (list(range(len(SIZES)))[rank::ranks] or [0])
        seen += own
    assert sorted(seen) == sorted([*range(len(SIZES)), *[0] * max(0, ranks - len(SIZES))])


def test_pairs_stay_together() -> None:
    batch = whole(pixels=10**6, paired=True)[0]
    assert batch["lr"].shape == (4, 3, 10, 15)
    assert (batch["lr"][:, 0, 0, 0] - batch["hr"][:, 0, 0, 0]).tolist() == [100] * 4
