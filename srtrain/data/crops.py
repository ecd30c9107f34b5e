"""The k-th sample of a run: which image, where in it, and which way up."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from srtrain import checks, rng

if TYPE_CHECKING:
    from srtrain.batch import Batch
    from srtrain.data.imageset import ImageSet


PIXEL = np.dtype("V3")
"""RGB as one item: numpy mirrors and transposes whole pixels three times as fast as 3 bytes."""


class Crop(NamedTuple):
    """Corner of a square, and one of the eight symmetries of the square."""

    top: int
    left: int
    symmetry: int


def draw_crop(*, seed: int, sample: int, height: int, width: int, patch: int) -> Crop:
    """Uniform over all ``patch``² squares of an image and the 8 symmetries; f(seed, sample)."""
    draw = rng.generator(seed, sample, "crop")
    top = draw.integers(height - patch + 1)
    left = draw.integers(width - patch + 1)
    return Crop(int(top), int(left), int(draw.integers(8)))


def oriented(square: np.ndarray, symmetry: int) -> np.ndarray:
    """Bit 0 mirrors left-right, bit 1 top-bottom, bit 2 transposes; a view (P, P)."""
    if symmetry & 1:
        square = square[:, ::-1]
    if symmetry & 2:
        square = square[::-1]
    if symmetry & 4:
        square = square.swapaxes(0, 1)
    return square


class TrainingCrops(Dataset["Batch"]):
    """Random crops of an image set; batches are cut from the memory map in one go.

    Sample k shows image ``permutation(seed, epoch = k // n)[k mod n]``: every pass visits every
    image once, in a new order. Paired crops start on the LR grid, so both sides show one region.

    Shapes: hr uint8 (B, 3, P, P), lr uint8 (B, 3, P / scale, P / scale) for paired sets; both lie
    in memory as channels_last, which is how the pixels come and what convolutions want.
    """

    def __init__(self, images: ImageSet, *, hr_patch_size: int, scale: int, seed: int) -> None:
        checks.divisible_by(hr_patch_size, scale, "hr_patch_size")
        self.images = images
        self.hr_patch_size = hr_patch_size
        self.scale = scale
        self.seed = seed

    def __getitem__(self, sample: int) -> Batch:
        """A batch of one."""
        return self.__getitems__([sample])

    def __getitems__(self, samples: list[int]) -> Batch:
        """The batch of these samples; the DataLoader prefers this to single items."""
        chosen = [self._image_of(sample) for sample in samples]
        size = self.hr_patch_size
        hr = np.empty((len(samples), size, size), PIXEL)
        batch: Batch = {
            "hr": _channels_first(_levels(hr)),
            "name": [self.images.names[image] for image in chosen],
            "sample": torch.tensor(samples, dtype=torch.int64),
        }
        if not self.images.paired:
            for row, (sample, image) in enumerate(zip(samples, chosen, strict=True)):
                hr[row] = self._cut(self.images.hr(image), sample, size)
            return batch
        small = size // self.scale
        lr = np.empty((len(samples), small, small), PIXEL)
        for row, (sample, image) in enumerate(zip(samples, chosen, strict=True)):
            lr[row] = self._cut(self.images.lr(image), sample, small)
            hr[row] = self._cut(self.images.hr(image), sample, small, self.scale)
        batch["lr"] = _channels_first(_levels(lr))
        return batch

    def _image_of(self, sample: int) -> int:
        count = len(self.images)
        order = rng.permutation(self.seed, sample // count, count)
        return self.images.visited(int(order[sample % count]))

    def _cut(self, image: np.ndarray, sample: int, patch: int, zoom: int = 1) -> np.ndarray:
        height, width = image.shape[0] // zoom, image.shape[1] // zoom
        crop = draw_crop(seed=self.seed, sample=sample, height=height, width=width, patch=patch)
        top, left, size = crop.top * zoom, crop.left * zoom, patch * zoom
        square = image[top : top + size, left : left + size].view(PIXEL)[..., 0]
        return oriented(square, crop.symmetry)


class WholeImages(Dataset["Batch"]):
    """Image i of a validation set, cropped to a multiple of ``scale``; ``sample`` = i.

    ``indices`` are this rank's: together the ranks see every image once. A rank that none is left
    for gets image 0 again: Lightning skips the round on a rank without batches, and the others
    would wait for it. Who gathers counts each ``sample`` once.

    Shapes: hr uint8 (1, 3, H, W); lr uint8 (1, 3, H / scale, W / scale) for paired sets.
    """

    def __init__(self, images: ImageSet, *, scale: int, rank: int = 0, world_size: int = 1) -> None:
        self.images = images
        self.scale = scale
        self.indices = range(len(images))[rank::world_size] or range(min(1, len(images)))

    def __len__(self) -> int:
        """How many images are this rank's."""
        return len(self.indices)

    def __getitem__(self, position: int) -> Batch:
        """A batch of one whole image."""
        index = self.indices[position]
        image = self.images.visited(index)
        hr = self.images.hr(image)
        height, width = (side - side % self.scale for side in hr.shape[:2])
        batch: Batch = {
            "hr": _channels_first(hr[None, :height, :width].copy()),
            "name": [self.images.names[image]],
            "sample": torch.tensor([index], dtype=torch.int64),
        }
        if self.images.paired:
            batch["lr"] = _channels_first(self.images.lr(image)[None].copy())
        return batch


def _levels(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., None].view(np.uint8)


def _channels_first(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
