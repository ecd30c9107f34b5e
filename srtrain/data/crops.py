"""The k-th sample of a run: which image, where in it, and which way up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from srtrain import checks, rng
from srtrain.data.resident import HostPixels
from srtrain.data.squares import draw_crops, squares

if TYPE_CHECKING:
    from srtrain.batch import Batch
    from srtrain.data.imageset import ImageSet
    from srtrain.data.resident import Pixels


class TrainingCrops(Dataset["Batch"]):
    """Random crops of an image set; ``pixels`` cuts those of a batch, from memory maps by default.

    Sample k shows image ``permutation(seed, epoch = k // n)[k mod n]``: every pass visits every
    image once, in a new order. Paired crops start on the LR grid, so both sides show one region.

    Shapes: hr uint8 (B, 3, P, P), lr uint8 (B, 3, P / scale, P / scale) for paired sets; both lie
    in memory as channels_last, which is how the pixels come and what convolutions want.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        hr_patch_size: int,
        scale: int,
        seed: int,
        pixels: Pixels | None = None,
    ) -> None:
        checks.divisible_by(hr_patch_size, scale, "hr_patch_size")
        self.images = images
        self.pixels = pixels or HostPixels(images)
        self.hr_patch_size = hr_patch_size
        self.scale = scale
        self.seed = seed

    def __getitem__(self, sample: int) -> Batch:
        """A batch of one."""
        return self.__getitems__([sample])

    def __getitems__(self, samples: list[int]) -> Batch:
        """The batch of these samples; the DataLoader prefers this to single items."""
        chosen = np.array([self._image_of(sample) for sample in samples])
        zoom = self.scale if self.images.paired else 1
        patch = self.hr_patch_size // zoom
        drawn_on = self.images.shapes[chosen, -1]  # LR where there is one
        crops = draw_crops(seed=self.seed, samples=samples, sizes=drawn_on, patch=patch)
        hr = squares(self.images, chosen, crops, side=0, patch=patch, zoom=zoom)
        batch: Batch = {
            "hr": self.pixels.cut(hr, self.hr_patch_size),
            "name": [self.images.names[image] for image in chosen],
            "sample": torch.tensor(samples, dtype=torch.int64),
        }
        if self.images.paired:
            lr = squares(self.images, chosen, crops, side=1, patch=patch)
            batch["lr"] = self.pixels.cut(lr, patch)
        return batch

    def _image_of(self, sample: int) -> int:
        count = len(self.images)
        order = rng.permutation(self.seed, sample // count, count)
        return self.images.visited(int(order[sample % count]))
