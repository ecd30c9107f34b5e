"""Spectral norm whose power iteration runs when told to, not whenever somebody looks.

The stock one (``torch.nn.utils.parametrizations.spectral_norm``) iterates in every forward in
training mode. Then two micro-batches, one more look for a gradient share, or a second rank change
the network, and a resumed run is another run. Here a forward is a pure function, and the estimate
moves by ``advance``, once per step of the discriminator.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

FIRST_ITERATIONS = 15  # as torch's own: the first estimate is within a few percent
EPS = 1e-12


class SpectralConv2d(nn.Conv2d):
    """A convolution by ``weight / σ``, ``σ = u · W v`` the largest singular value of ``W``.

    ``W`` is the weight as a matrix of one row per output channel. Gradients flow through σ, as the
    paper has it; u and v are buffers, so checkpoints and ranks share them. The convolution itself,
    whose patches overlap, may still enlarge by up to ``kernel / stride``: 4 for 4x4 by steps of 1.

    Source: Miyato et al. 2018, Spectral Normalization for GANs, eq. 8 and algorithm 1.
    """

    u: Tensor
    v: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias
        )
        rows, columns = self.weight.flatten(1).shape
        self.register_buffer("u", functional.normalize(torch.randn(rows), dim=0, eps=EPS))
        self.register_buffer("v", functional.normalize(torch.randn(columns), dim=0, eps=EPS))
        self.iterate(FIRST_ITERATIONS)

    @torch.no_grad()
    def iterate(self, times: int = 1) -> None:
        """``v ← Wᵀu / ‖Wᵀu‖``, ``u ← Wv / ‖Wv‖``, in place."""
        matrix = self.weight.flatten(1)
        with torch.autocast(matrix.device.type, enabled=False):
            for _ in range(times):
                self.v.copy_(functional.normalize(matrix.mT @ self.u, dim=0, eps=EPS))
                self.u.copy_(functional.normalize(matrix @ self.v, dim=0, eps=EPS))

    def forward(self, features: Tensor) -> Tensor:
        """Shapes: (B, in_channels, H, W) -> (B, out_channels, H', W')."""
        with torch.autocast(features.device.type, enabled=False):
            # Copies: `iterate` may follow before the backward pass needs them.
            sigma = self.u.clone() @ (self.weight.flatten(1) @ self.v.clone())
            weight = self.weight / sigma
        convolved: Tensor = self._conv_forward(features, weight, self.bias)
        return convolved


def advance(network: nn.Module) -> None:
    """One power iteration of every spectral convolution: call it after each of its steps."""
    for module in network.modules():
        if isinstance(module, SpectralConv2d):
            module.iterate()
