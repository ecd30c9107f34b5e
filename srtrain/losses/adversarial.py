"""What generator and discriminator want of each other, written on logits; no network in sight.

All objectives are means over all logits, in float32 at least. A logit above the objective's
threshold says "real". Factors of one half are scattered over the field; each docstring says where
one is and whose it is, because the coefficients of published recipes depend on it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import relu, softplus

from srtrain.checks import same_shape
from srtrain.losses.precision import at_least_float32
from srtrain.process_group import world_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.autograd.function import FunctionCtx


class Objective(nn.Module):
    """The game that both play; subclasses say what ``generator`` and ``discriminator`` minimise.

    ``r1_gamma`` adds ``gamma/2 · E‖∇D(hr)‖²`` to the discriminator's loss: computed at every
    ``r1_every``-th of its steps and multiplied by as many, the same on average at less cost.

    Raises: ValueError for a negative ``r1_gamma`` or ``r1_every`` below 1.
    Source: R1: Mescheder et al. 2018, Which Training Methods for GANs do actually Converge?, eq. 9;
    lazily: Karras et al. 2020, StyleGAN2, section 3.1.
    """

    relativistic: bool = False  # whether the generator's loss needs the logits of real images
    threshold: float = 0.0  # of a logit that says "real"

    def __init__(self, *, r1_gamma: float = 0.0, r1_every: int = 16) -> None:
        super().__init__()
        if not (math.isfinite(r1_gamma) and r1_gamma >= 0):
            raise ValueError(f"r1_gamma = {r1_gamma} must be finite and >= 0")
        if r1_every < 1:
            raise ValueError(f"r1_every = {r1_every} must be at least 1")
        self.r1_gamma = r1_gamma
        self.r1_every = r1_every

    @property
    def penalised(self) -> bool:
        """Whether it bounds the discriminator's gradient, image by image."""
        return self.r1_gamma > 0

    def generator(self, *, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """What the generator minimises; ``real`` is used by relativistic objectives alone."""
        raise NotImplementedError

    def discriminator(self, *, fake: Tensor, real: Tensor) -> Tensor:
        """What the discriminator minimises, without ``penalty``."""
        raise NotImplementedError

    @torch.no_grad()
    def accuracy(self, *, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Share of the real and of the fake logits on their side of the threshold."""
        real, fake = self.margins(fake=at_least_float32(fake), real=at_least_float32(real))
        return (real > 0).float().mean(), (fake < 0).float().mean()

    def margins(self, *, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Real and fake logits above (+) or below (-) the threshold."""
        return real - self.threshold, fake - self.threshold

    def penalty(
        self,
        judge: Callable[[Tensor], Tensor],
        *,
        hr: Tensor,
        sr: Tensor,
        step: int,
        mix: Tensor,
    ) -> Tensor | None:
        """What regularises the discriminator at its ``step``; None where nothing does.

        D of an image is the mean of its logits, as in the objective. ``mix`` (B, 1, 1, 1) in
        [0, 1] is drawn by the caller; R1 does not use it.
        """
        if not self.r1_gamma or step % self.r1_every:
            return None
        return self.r1_gamma / 2 * self.r1_every * _gradients(judge, hr).square().sum(1).mean()


class Vanilla(Objective):
    """D: ``softplus(-real) + softplus(fake)``; G: ``softplus(-fake)``, non-saturating.

    At ``D = 0`` everywhere: ``2 log 2`` and ``log 2``. D estimates ``log p(hr) - log p(sr)``; G
    follows ``-log σ(D)``, whose gradient does not vanish where D is sure.

    Source: Goodfellow et al. 2014, Generative Adversarial Nets, section 3.
    """

    def generator(self, *, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """``mean softplus(-fake)``."""
        return softplus(-at_least_float32(fake)).mean()

    def discriminator(self, *, fake: Tensor, real: Tensor) -> Tensor:
        """``mean softplus(-real) + mean softplus(fake)``."""
        fake, real = at_least_float32(fake), at_least_float32(real)
        return softplus(-real).mean() + softplus(fake).mean()


class LeastSquares(Objective):
    """D: ``(real - 1)² + fake²``; G: ``(fake - 1)²``.

    Labels 1 and 0, without the paper's halves, as BasicSR, whose coefficients therefore hold.

    Source: Mao et al. 2017, Least Squares Generative Adversarial Networks, eq. 9.
    """

    threshold = 0.5

    def generator(self, *, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """``mean (fake - 1)²``."""
        return (at_least_float32(fake) - 1).square().mean()

    def discriminator(self, *, fake: Tensor, real: Tensor) -> Tensor:
        """``mean (real - 1)² + mean fake²``."""
        fake, real = at_least_float32(fake), at_least_float32(real)
        return (real - 1).square().mean() + fake.square().mean()


class Hinge(Objective):
    """D: ``relu(1 - real) + relu(1 + fake)``; G: ``-fake``.

    Logits beyond ±1 on their own side teach D nothing; G is pushed all the same.

    Source: Miyato et al. 2018, Spectral Normalization for GANs, eq. 16 and 17.
    """

    def generator(self, *, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """``mean -fake``."""
        return -at_least_float32(fake).mean()

    def discriminator(self, *, fake: Tensor, real: Tensor) -> Tensor:
        """``mean relu(1 - real) + mean relu(1 + fake)``."""
        fake, real = at_least_float32(fake), at_least_float32(real)
        return relu(1 - real).mean() + relu(1 + fake).mean()


class Wasserstein(Objective):
    """D: ``fake - real`` plus the gradient penalty; G: ``-fake``.

    The penalty is ``gradient_penalty · E(‖∇D(mix·hr + (1 - mix)·sr)‖ - 1)²`` at every step. Only
    differences of logits mean anything, so accuracy is counted from the midpoint of both means.

    Raises: ValueError for a negative ``gradient_penalty``.
    Source: Gulrajani et al. 2017, Improved Training of Wasserstein GANs, eq. 3; λ = 10 as there.
    """

    def __init__(
        self, *, gradient_penalty: float = 10.0, r1_gamma: float = 0.0, r1_every: int = 16
    ) -> None:
        super().__init__(r1_gamma=r1_gamma, r1_every=r1_every)
        if not (math.isfinite(gradient_penalty) and gradient_penalty >= 0):
            raise ValueError(f"gradient_penalty = {gradient_penalty} must be finite and >= 0")
        self.gradient_penalty = gradient_penalty

    @property
    def penalised(self) -> bool:
        """Image by image, by either penalty."""
        return self.gradient_penalty > 0 or super().penalised

    def generator(self, *, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """``mean -fake``."""
        return -at_least_float32(fake).mean()

    def discriminator(self, *, fake: Tensor, real: Tensor) -> Tensor:
        """``mean fake - mean real``."""
        return at_least_float32(fake).mean() - at_least_float32(real).mean()

    def margins(self, *, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """From the midpoint of both means."""
        middle = sum(_means_over_ranks(fake, real)) / 2
        return real - middle, fake - middle

    def penalty(
        self,
        judge: Callable[[Tensor], Tensor],
        *,
        hr: Tensor,
        sr: Tensor,
        step: int,
        mix: Tensor,
    ) -> Tensor | None:
        """The gradient penalty, and R1 where that is on."""
        r1 = super().penalty(judge, hr=hr, sr=sr, step=step, mix=mix)
        if not self.gradient_penalty:
            return r1
        same_shape(sr, hr)
        slopes = torch.linalg.vector_norm(_gradients(judge, torch.lerp(sr, hr, mix)), dim=1)
        off: Tensor = self.gradient_penalty * (slopes - 1).square().mean()
        return off if r1 is None else off + r1


class RelativisticAverage(Objective):
    """Is real more real than the average fake? ``r = real - E fake``, ``f = fake - E real``.

    D: ``½ (softplus(-r) + softplus(f))``; G: ``½ (softplus(r) + softplus(-f))``: G learns from the
    real images too. Halved as in ESRGAN's code. The two means are over all ranks, so two ranks are
    one; micro-batches would be compared among themselves, so ``accumulate`` must be 1.

    Source: Jolicoeur-Martineau 2018, The relativistic discriminator, section 4; Wang et al. 2018,
    ESRGAN, section 3.2.
    """

    relativistic = True

    def generator(self, *, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """``½ (mean softplus(r) + mean softplus(-f))``."""
        if real is None:
            raise ValueError("a relativistic objective compares: it needs the logits of hr too")
        r, f = self.margins(fake=at_least_float32(fake), real=at_least_float32(real))
        return (softplus(r).mean() + softplus(-f).mean()) / 2

    def discriminator(self, *, fake: Tensor, real: Tensor) -> Tensor:
        """``½ (mean softplus(-r) + mean softplus(f))``."""
        r, f = self.margins(fake=at_least_float32(fake), real=at_least_float32(real))
        return (softplus(-r).mean() + softplus(f).mean()) / 2

    def margins(self, *, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """``real - E fake`` and ``fake - E real``, the means over all ranks."""
        mean_fake, mean_real = _means_over_ranks(fake, real)
        return real - mean_fake, fake - mean_real


class Adversarial(nn.Module):
    """``objective.generator(judge(sr))``: the adversary as one more term of the loss.

    ``judge`` is the discriminator's forward. It stays no part of this module: the discriminator
    is moved, saved and trained elsewhere.

    Shapes: sr, hr (B, 3, H, W) in [0, 1] -> scalar.
    Raises: ValueError if shapes differ.
    """

    judge: Callable[[Tensor], Tensor]

    def __init__(self, objective: Objective, judge: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.objective = objective
        # Past nn.Module's own __setattr__, which would register a network as a part of this one.
        object.__setattr__(self, "judge", judge)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The generator's side of the objective."""
        same_shape(sr, hr)
        real = self.judge(hr) if self.objective.relativistic else None
        return self.objective.generator(fake=self.judge(sr), real=real)


class _SumOverRanks(torch.autograd.Function):
    """All-reduced forwards and backwards: what every rank makes of a sum comes back to each."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:
        """The sum of ``values`` over the ranks."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        """The sum of the gradients over the ranks."""
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _means_over_ranks(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Both means over the logits of all ranks, in one collective; gradients flow to every rank."""
    means = torch.stack([fake.mean(), real.mean()])
    ranks = world_size()
    if ranks > 1:
        means = _SumOverRanks.apply(means) / ranks
    mean_fake, mean_real = means.unbind()
    return mean_fake, mean_real


def _gradients(judge: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """``∂ (mean logit of each image) / ∂ image`` as rows (B, C·H·W), differentiable.

    Each logit map's mean depends on its own image alone; under batch norm it would not.
    """
    image = image.detach().requires_grad_()
    means = at_least_float32(judge(image)).reshape(len(image), -1).mean(1)
    (gradient,) = torch.autograd.grad(means.sum(), image, create_graph=True)
    return gradient.flatten(1)
