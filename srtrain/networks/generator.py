"""The one shape every super-resolution network has here: ``sr = generator(lr)``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from srtrain import checks

if TYPE_CHECKING:
    from srtrain.networks.heads import Head
    from srtrain.networks.spec import Spec

# In evaluation these choose their layers by the first image of a batch, for one image alone.
ONE_AT_A_TIME = {"spandrel.architectures.SeemoRe.SeemoRe"}
# These multiply the caller's tensor in place.
WRITE_INTO_THEIR_INPUT = {"spandrel.architectures.RCAN.RCAN"}


class Generator(nn.Module):
    """``net`` padded to the sizes it can take: the output is ``scale`` x the input at any size.

    ``lr`` is padded right and below by reflection (by repetition beyond what reflection can give)
    up to ``min_size`` and a multiple of ``multiple_of``, and the result cropped; a network without
    such needs is called directly. ``net.state_dict()`` is what checkpoints and other tools hold.
    With a ``head`` the network predicts K maps, and its image is one of them or between them.

    Shapes: lr (B, C, h, w) float -> (B, C', h * scale, w * scale) of the same dtype.
    Raises: ValueError if ``lr`` is no float batch, or if the network enlarges by another factor.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        scale: int,
        spec: Spec,
        multiple_of: int = 1,
        min_size: int = 1,
        head: Head | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.head = head
        self.scale = scale
        self.spec = spec
        self.multiple_of = multiple_of
        self.min_size = min_size

    @property
    def architecture(self) -> str:
        """The public name of the network's class."""
        return self.spec["_target_"].rpartition(".")[2]

    def forward(self, lr: Tensor) -> Tensor:
        """Shapes: lr (B, C, h, w) -> sr (B, C', h * scale, w * scale)."""
        return self.point(self.raw(lr))

    def point(self, raw: Tensor) -> Tensor:
        """The image in what ``raw`` gave: that itself, without a head."""
        return raw if self.head is None else self.head.point(raw)

    def raw(self, lr: Tensor) -> Tensor:
        """All that is predicted. Shapes: lr (B, C, h, w) -> (B, 3K, h * scale, w * scale)."""
        checks.image_batch(lr, "lr")
        height, width = lr.shape[-2:]
        padded = _pad(lr, bottom=self._missing(height), right=self._missing(width))
        sr = self._enlarged(padded)
        if sr.shape[-2:] != (padded.shape[-2] * self.scale, padded.shape[-1] * self.scale):
            raise ValueError(
                f"{self.spec['_target_']} turned {tuple(padded.shape)} into {tuple(sr.shape)}, "
                f"which is not scale = {self.scale}; give it the same scale (`${{scale}}`)"
            )
        if padded is not lr:
            sr = sr[..., : height * self.scale, : width * self.scale]
        sr = sr.to(lr.dtype)
        return sr if self.head is None else self.head.maps(sr)

    def headless(self) -> Generator:
        """The same network, whose ``forward`` gives all of its channels, unread."""
        return Generator(
            self.net,
            scale=self.scale,
            spec=self.spec,
            multiple_of=self.multiple_of,
            min_size=self.min_size,
        )

    def _enlarged(self, padded: Tensor) -> Tensor:
        if self.spec["_target_"] in WRITE_INTO_THEIR_INPUT:
            padded = padded.clone()
        if self.training or self.spec["_target_"] not in ONE_AT_A_TIME:
            sr: Tensor = self.net(padded)
            return sr
        return torch.cat([self.net(image) for image in padded.split(1)])

    def _missing(self, size: int) -> int:
        wanted = max(size, self.min_size)
        return wanted + -wanted % self.multiple_of - size


def _pad(image: Tensor, *, bottom: int, right: int) -> Tensor:
    """Reflected as far as the image reaches, then repeated."""
    if not bottom and not right:
        return image
    height, width = image.shape[-2:]
    below, beside = min(bottom, height - 1), min(right, width - 1)
    image = functional.pad(image, (0, beside, 0, below), mode="reflect")
    if below == bottom and beside == right:
        return image
    return functional.pad(image, (0, right - beside, 0, bottom - below), mode="replicate")
