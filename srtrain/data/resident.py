"""Where the decoded training images lie during a run: on the disk, in memory, or on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch

from srtrain.data.squares import CHANNELS, cut
from srtrain.errors import DataError
from srtrain.memory import free_memory

if TYPE_CHECKING:
    from srtrain.data.imageset import ImageSet
    from srtrain.data.squares import Squares

Residence = Literal["disk", "ram", "device"]

SPARE_BYTES = 2**30
"""Left free for everybody else."""
CHUNK_BYTES = 2**28  # of an upload: as much pageable memory is staged at once


class Pixels(Protocol):
    """What squares are cut from."""

    def cut(self, found: Squares, patch: int) -> torch.Tensor:
        """The pixels of these squares, uint8 (B, 3, patch, patch) in channels_last."""
        ...


class HostPixels:
    """The memory maps of an image set."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def cut(self, found: Squares, patch: int) -> torch.Tensor:
        """One square after the other."""
        pixels = np.empty((len(found.file), patch, patch, CHANNELS), np.uint8)
        rows = zip(*(column.tolist() for column in found), strict=True)
        for out, (file, origin, down, right) in zip(pixels, rows, strict=True):
            cut(self.images.pixels(file), origin, down, right, out)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)


class DevicePixels:
    """All images of a set in one flat tensor on ``device``."""

    def __init__(self, images: ImageSet, device: torch.device) -> None:
        self.starts = np.cumsum([0, *images.sizes])
        self.flat = torch.empty(int(self.starts[-1]), dtype=torch.uint8, device=device)
        for file, start in enumerate(self.starts[:-1].tolist()):
            for first in range(0, images.sizes[file], CHUNK_BYTES):
                chunk = images.pixels(file)[first : first + CHUNK_BYTES]
                place = self.flat[start + first : start + first + len(chunk)]
                place.copy_(torch.from_numpy(chunk.copy()))  # torch wants a writable one

    def cut(self, found: Squares, patch: int) -> torch.Tensor:
        """All squares at once: one gather, whichever way up they are."""
        table = np.stack([found.origin + self.starts[found.file], found.down, found.right])
        where = torch.from_numpy(table).to(self.flat.device, non_blocking=True)
        origin, down, right = where.view(3, -1, 1, 1, 1)
        step = torch.arange(patch, device=self.flat.device)
        channel = torch.arange(CHANNELS, device=self.flat.device)
        index = origin + down * step.view(-1, 1, 1) + right * step.view(-1, 1) + channel
        return self.flat[index].permute(0, 3, 1, 2)


def resident(images: ImageSet, residence: Residence, device: torch.device) -> Pixels:
    """The images of a set where they are to be; called once a run, it may take seconds.

    ``disk``: mapped, read where a crop is cut; the system keeps what it has memory for.
    ``ram``: all is read into that memory now. Every process of a machine maps the same copy, which
    the system gives up only where memory runs short.
    ``device``: a copy on each device.

    Raises: as `check_room`.
    """
    check_room(images, residence, device)
    if residence == "device":
        return DevicePixels(images, device)
    if residence == "ram":
        images.read_ahead()
    return HostPixels(images)


def check_room(images: ImageSet, residence: Residence, device: torch.device) -> None:
    """Raises: DataError with the sizes unless the images fit where they are to be."""
    if residence == "disk":
        return
    needed = sum(images.sizes)
    cuda = residence == "device" and device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if cuda else free_memory()
    if needed + SPARE_BYTES > free:
        others = "disk" if residence == "ram" else "ram or disk"
        raise DataError(
            f"decoded training images need {needed / 1e9:.1f} GB "
            f"(and {SPARE_BYTES / 1e9:.1f} GB beside them), {free / 1e9:.1f} GB are free",
            where=f"data.residence={residence}, {device if cuda else 'memory'}",
            fix=f"data.residence={others}",
        )
