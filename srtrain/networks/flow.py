"""Many plausible images instead of their mean: noise is carried to images along straight lines.

A velocity network learns which way to move at each moment ``t`` between a source (``t = 0``) and
the images that photos are made of (``t = 1``). Two experiments differ in source and condition only:

- ``pmrf``: from the mean image with a little noise, unconditioned: the mean is moved to the
  nearest thing that looks like a photo, at the least cost in distortion;
- ``posterior``: from noise, told the upsampled LR or the mean: a sample of all that the LR leaves
  open, at twice the mean's error.

Source: Liu et al. 2023, "Flow straight and fast"; Ohayon et al. 2025, "Posterior-mean rectified
flow".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from srtrain.networks.build import build_generator, build_network, spec_of
from srtrain.networks.enlarging import enlarged
from srtrain.rng import noise_field

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from srtrain.networks.generator import Generator

    Velocity = Callable[[Tensor, Tensor], Tensor]
    """``(B, C, H, W), (B,) -> (B, 3, H, W)``."""

Sampler = Literal["euler", "heun"]

FEW_STEPS = 5  # Gaussian toy: 13 % of the variance is lost at 5, 52 % at 1, 2 % at 25


class Flow(nn.Module):
    """``forward(lr)`` is sample 0 of seed 0; ``sample`` gives all others.

    ``source``: ``mean`` (with ``sigma`` times unit noise), ``noise`` (unit noise around 0) or
    ``condition`` (``sigma`` times unit noise around the condition: to whom that is told, the source
    is noise and nothing else, and what is learnt the same law; but the way is as short as the
    mean's error, and a tenth of the steps suffice). ``condition``: ``none``, ``lr`` (upsampled) or
    ``mean``.

    ``mean`` is the spec of the network that predicts it, which is frozen, kept beside the
    ``velocity`` network and saved with it: one file holds all that a sample needs. ``velocity``: a
    spec; its class takes ``in_channels`` and is called with ``(x, t)``, where x holds the half-made
    image and, behind it, the condition.

    ``sampler``: ``euler``, or ``heun``, of second order, which asks for two velocities in each
    step. ``project``: each step heads for an image whose bicubic LR is the given one; wrong where
    LR was made otherwise.

    Shapes: lr (B, 3, h, w) -> (B, 3, h · scale, w · scale).
    Raises: ValueError where the mean is asked for and there is none, or there and not asked for;
        for a source around a condition that there is not; for ``steps`` below 1, a negative
        ``sigma``, or another sampler.
    """

    def __init__(
        self,
        *,
        scale: int,
        velocity: Mapping[str, Any],
        source: Literal["mean", "noise", "condition"] = "mean",
        condition: Literal["none", "lr", "mean"] = "none",
        sigma: float = 0.1,
        steps: int = 25,
        sampler: Sampler = "euler",
        project: bool = False,
        mean: Mapping[str, Any] | None = None,
        trust: Sequence[str] = (),
    ) -> None:
        super().__init__()
        _refuse(source, condition, sigma=sigma, mean=mean is not None)
        _refuse_sampling(steps, sampler)
        self.scale, self.source, self.condition = scale, source, condition
        self.sigma, self.steps, self.sampler, self.project = sigma, steps, sampler, project
        spec = spec_of(velocity, group="generator.velocity")
        spec["kwargs"]["in_channels"] = 3 if condition == "none" else 6
        self.velocity = build_network(spec, group="generator.velocity", trust=trust)
        self.mean: Generator | None = None
        if mean is not None:
            self.mean = build_generator(spec_of(mean), scale=scale, trust=trust)
            self.mean.requires_grad_(False).eval()

    @property
    def frozen(self) -> Generator:
        """The mean's network.

        Raises: ValueError where there is none.
        """
        if self.mean is None:
            raise ValueError(f"source = {self.source}, condition = {self.condition}: no mean")
        return self.mean

    def train(self, mode: bool = True) -> Flow:
        """The mean's network never is in training mode: its statistics stay as they are."""
        super().train(mode)
        if self.mean is not None:
            self.mean.eval()
        return self

    def begin(
        self, lr: Tensor, noise: Tensor, mean: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Source and condition for ``noise`` (B, 3, h · scale, w · scale), float32.

        ``mean``: what the frozen network makes of ``lr``, where it is known already.
        """
        with torch.no_grad():
            mean = self.mean_of(lr) if mean is None else mean
            mean = noise if mean is None else mean.float().clamp(0, 1)
            told = None
            if self.condition != "none":
                told = mean if self.condition == "mean" else self.enlarged(lr)
            if self.source == "noise":
                return noise, told
            around = mean if self.source == "mean" or told is None else told
            return torch.add(around, noise, alpha=self.sigma), told

    def mean_of(self, lr: Tensor) -> Tensor | None:
        """The mean of ``lr``, as ``begin`` takes it; None where no source or condition asks."""
        with torch.no_grad():
            return None if self.mean is None else self.mean(lr)

    def enlarged(self, lr: Tensor) -> Tensor:
        """``lr`` by plain bicubic interpolation."""
        return enlarged(lr.float(), self.scale)

    def learn(
        self, hr: Tensor, lr: Tensor, *, t: Tensor, noise: Tensor, mean: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The velocity at moments ``t`` (B,) on the way from the source to ``hr``, and the truth.

        Their mean squared error is all there is to learn: what is predicted is the mean of all
        directions that meet in one half-made image. ``mean`` as in ``begin``.
        """
        start, condition = self.begin(lr, noise, mean)
        hr = hr.float()
        half_made = torch.lerp(start, hr, t.view(-1, 1, 1, 1))
        return self.velocity(_seen(half_made, condition), t), hr - start

    def forward(self, lr: Tensor) -> Tensor:
        """One image, always the same."""
        return self.sample(lr)

    def sample(
        self,
        lr: Tensor,
        *,
        number: int | Sequence[int] = 0,
        seed: int = 0,
        steps: int | None = None,
        place: tuple[int, int] = (0, 0),
        velocity: Velocity | None = None,
        mean: Tensor | None = None,
        sampler: Sampler | None = None,
        project: bool | None = None,
    ) -> Tensor:
        """Sample ``number`` of ``seed``.

        ``steps``, ``sampler``, ``project``: None is as the network has it. Of several numbers, row
        b of ``lr`` gets the b-th. ``mean`` as in ``begin``.

        The noise of a pixel depends on (seed, number, its row and column) alone: the same in every
        batch, and in a window of a larger image whose first HR pixel lies at ``place``.
        ``velocity``: what computes it, tile by tile for instance; None: the network itself. The
        half-made image is then one, and no seam can appear that the velocity has not.

        Raises: ValueError for ``steps`` below 1, or another sampler.
        """
        steps = self.steps if steps is None else steps
        sampler = self.sampler if sampler is None else sampler
        project = self.project if project is None else project
        _refuse_sampling(steps, sampler)
        numbers = [number] if isinstance(number, int) else number
        x, condition = self.begin(lr, self._noise(lr, numbers, seed=seed, place=place), mean)
        move = self.velocity if velocity is None else velocity

        def at(x: Tensor, step: int) -> Tensor:
            t = torch.full((len(lr),), step / steps, device=lr.device)
            return move(_seen(x, condition), t).float()

        for step in range(steps):
            v = at(x, step)
            if sampler == "heun":
                v = (v + at(x.add(v, alpha=1 / steps), step + 1)) / 2
            if project:
                left = 1 - step / steps
                v = v + self.missing(x + left * v, lr) / left
            x = x.add(v, alpha=1 / steps)
        return x.to(lr.dtype)

    def _noise(
        self, lr: Tensor, numbers: Sequence[int], *, seed: int, place: tuple[int, int]
    ) -> Tensor:
        height, width = (side * self.scale for side in lr.shape[-2:])
        fields = [
            torch.from_numpy(noise_field(height, width, seed=seed, sample=number, place=place))
            for number in numbers
        ]
        field = torch.stack(fields).to(lr.device, memory_format=torch.channels_last)
        return field.expand(len(lr), -1, -1, -1)

    def missing(self, sr: Tensor, lr: Tensor) -> Tensor:
        """``up(lr - down(sr))``, bicubic both: what ``sr`` needs for ``lr`` to be its LR image."""
        down = functional.interpolate(
            sr, size=lr.shape[-2:], mode="bicubic", antialias=True, align_corners=False
        )
        return self.enlarged(lr.float() - down)


def few_steps(steps: int, sampler: Sampler = "euler") -> str | None:
    """What is to be said of so many steps; None where they suffice. Heun's count twice."""
    if steps == 1:
        return "1 step falls back to the mean: one blurred image, no samples; 15 to 25 are usual"
    if steps * (2 if sampler == "heun" else 1) <= FEW_STEPS:
        return f"{steps} steps lean towards the mean: samples vary too little; 15 to 25 are usual"
    return None


def _seen(x: Tensor, condition: Tensor | None) -> Tensor:
    return x if condition is None else torch.cat([x, condition], dim=1)


def _refuse(source: str, condition: str, *, sigma: float, mean: bool) -> None:
    sources, conditions = ("mean", "noise", "condition"), ("none", "lr", "mean")
    if source not in sources or condition not in conditions:
        listed = f"({', '.join(sources)}), condition = {condition} ({', '.join(conditions)})"
        raise ValueError(f"source = {source} {listed}")
    if source == "condition" and condition == "none":
        raise ValueError("source = condition, condition = none: choose condition = lr or mean")
    if sigma < 0:
        raise ValueError(f"sigma = {sigma} must be 0 or more")
    if mean != ("mean" in (source, condition)):
        asked = "none is asked for" if mean else "it is asked for"
        raise ValueError(f"source = {source}, condition = {condition}: {asked}, mean = {mean}")


def _refuse_sampling(steps: int, sampler: str) -> None:
    if steps < 1:
        raise ValueError(f"steps = {steps} must be 1 or more; 15 to 25 are usual")
    if sampler not in ("euler", "heun"):
        raise ValueError(f"sampler = {sampler} must be euler or heun")
