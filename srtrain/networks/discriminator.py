"""The one shape every discriminator has here: ``logits = discriminator(image)``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from srtrain.networks.spec import Spec


class Discriminator(nn.Module):
    """``net`` and what rebuilds it; in bfloat16 where ``bf16``, wherever it is called from.

    Losses are computed with autocast off, and one of them asks the discriminator: it judges in the
    generator's precision all the same. ``net`` alone is fp32, for penalties on gradients.
    ``trained`` is 1 where it came from a file, and knows something before its first step.

    Shapes: image (B, 3, H, W) in [0, 1] -> logits.
    """

    trained: Tensor

    def __init__(self, net: nn.Module, *, spec: Spec, bf16: bool = False) -> None:
        super().__init__()
        self.net = net
        self.spec = spec
        self.bf16 = bf16
        self.register_buffer("trained", torch.tensor(0, dtype=torch.uint8))

    @property
    def receptive_field(self) -> int:
        """Side of the square that one logit judges, in pixels."""
        return int(getattr(self.net, "receptive_field"))  # noqa: B009 - no attribute of nn.Module

    def forward(self, image: Tensor) -> Tensor:
        """Shapes: (B, 3, H, W) -> logits."""
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self.bf16):
            logits: Tensor = self.net(image)
        return logits
