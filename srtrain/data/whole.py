"""The images of a validation set, whole, in batches of one size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from srtrain.batch import Batch
    from srtrain.data.imageset import ImageSet


class WholeImages(Dataset["Batch"]):
    """Image i of a validation set, cropped to a multiple of ``scale``; ``sample`` = i.

    Images of one size share a batch of at most ``pixels`` HR pixels: many small ones cost a network
    half of what they cost one by one. A larger image has a batch of its own.

    A rank has its share of the images: together the ranks see every image once. A rank that none is
    left for gets image 0 again: Lightning skips the round on a rank without batches, and the others
    would wait for it. Who gathers counts each ``sample`` once.

    Shapes: hr uint8 (B, 3, H, W); lr uint8 (B, 3, H / scale, W / scale) for paired sets.
    """

    def __init__(
        self, images: ImageSet, *, scale: int, pixels: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.images = images
        self.scale = scale
        own = range(len(images))[rank::world_size] or range(min(1, len(images)))
        self.batches = self._batches(own, pixels)

    def __len__(self) -> int:
        """How many batches are this rank's."""
        return len(self.batches)

    def __getitem__(self, position: int) -> Batch:
        """A batch of whole images of one size."""
        samples = self.batches[position]
        visited = [self.images.visited(sample) for sample in samples]
        height, width = self._size(samples[0])
        batch: Batch = {
            "hr": _stacked([self.images.hr(image)[:height, :width] for image in visited]),
            "name": [self.images.names[image] for image in visited],
            "sample": torch.tensor(samples, dtype=torch.int64),
        }
        if self.images.paired:
            batch["lr"] = _stacked([self.images.lr(image) for image in visited])
        return batch

    def _batches(self, samples: Sequence[int], pixels: int) -> list[list[int]]:
        """Of one size each, in the order of their first images."""
        batches: list[list[int]] = []
        newest: dict[tuple[int, int], list[int]] = {}  # of each size
        for sample in samples:
            height, width = self._size(sample)
            batch = newest.get((height, width))
            if batch is None or (len(batch) + 1) * height * width > pixels:
                batch = newest[height, width] = []
                batches.append(batch)
            batch.append(sample)
        return batches

    def _size(self, sample: int) -> tuple[int, int]:
        """Of HR as it is measured."""
        height, width = self.images.shapes[self.images.visited(sample), 0].tolist()
        return height - height % self.scale, width - width % self.scale


def _stacked(images: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
