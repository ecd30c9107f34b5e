"""The limit of a flow's step: its velocity network on half-made images that lie ready."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch

from srtrain.cli.benchmark.bare import Bare, take_turns
from srtrain.losses.precision import narrowed
from srtrain.training.flow import flow_of, unit_noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from srtrain.cli.benchmark.bare import Ready
    from srtrain.losses.precision import Precision
    from srtrain.networks.generator import Generator

MEAN = "--mean"


class BareFlow(Bare):
    """``Bare`` of the velocity network; ``mean``: each step makes its frozen network's images too.

    Moments, noise, half-made images and the velocities that they should have lie ready, and so
    does what is told. The EMA is that of the velocity network.
    """

    def __init__(self, words: Sequence[str], *, mean: bool = False) -> None:
        self.mean: nn.Module | None = None
        self.with_mean = mean
        self.lr: list[Tensor] = []
        self.mean_precision: Precision = "fp32"  # the module's, which makes the batches
        super().__init__(words)

    def trained(self, generator: Generator) -> nn.Module:
        """The velocity network."""
        self.flow = flow_of(generator)
        if self.with_mean:
            self.mean = self.flow.frozen
        return self.flow.velocity

    def ready(self, module: Any, batch: Any) -> Ready:  # noqa: ANN401 - a loader's
        """Moments evenly over [0, 1), as `FlowSR` spreads them."""
        (lr,), hr = super().ready(module, batch)
        self.lr.append(lr)
        self.mean_precision = module.mean_precision
        rows = torch.arange(len(hr))
        t = ((rows + 0.5) / len(hr)).to(self.device)
        field = unit_noise(hr, seed=0, samples=rows)
        start, told = self.flow.begin(lr, field)
        x = torch.lerp(start, hr, t.view(-1, 1, 1, 1))
        seen = x if told is None else torch.cat([x, told], dim=1)
        return (seen, t), hr - start

    def step(self) -> None:
        """As ``Bare``, after the mean's images where they are asked for."""
        if self.mean is not None:
            lr = self.lr[self.steps % len(self.lr)]
            with (
                torch.autocast(lr.device.type, torch.bfloat16, enabled=self.bf16),
                narrowed(lr.device, self.mean_precision),
                torch.no_grad(),
            ):
                self.mean(lr)
        super().step()


def main(words: Sequence[str]) -> None:
    """Steps, in turns, until it is killed."""
    given = [word for word in words if word != MEAN]
    take_turns(lambda: BareFlow(given, mean=len(given) < len(words)))


if __name__ == "__main__":
    main(sys.argv[1:])
