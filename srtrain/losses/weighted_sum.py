"""The loss as a list of named, weighted terms, and how much each of them really counts."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from srtrain.checks import same_shape
from srtrain.losses.pixel import Robust
from srtrain.losses.precision import at_least_float32

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class WeightedSum(nn.Module):
    """``total = Σ weight · term(sr, hr)``, with the raw value of every term beside it.

    A coefficient says nothing by itself (0.0099 was measured to be a third of the loss), so three
    readings are offered: the raw parts, their ``shares`` of the total, and ``gradient_shares`` at
    the output, which is what the generator feels.

    Terms of weight 0 are dropped; weights of 0 need no term. Low-precision images are raised to
    float32 first: a mean over pixels in bfloat16 has two digits.

    Shapes: sr, hr (B, C, H, W) in [0, 1] -> scalar, {name: scalar}.
    Raises: ValueError for a weight that is negative or not finite, a weight without a term, a term
        without a weight, and a loss without any term.
    """

    def __init__(self, terms: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        for name, weight in weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"weight of {name!r} = {weight} must be finite and >= 0")
            if weight and name not in terms:
                raise ValueError(f"weight of {name!r} has no term{_nearest(name, terms)}")
        for name in terms:
            if name not in weights:
                raise ValueError(f"term {name!r} has no weight{_nearest(name, weights)}")
        self.weights = {name: float(weights[name]) for name in terms if weights[name]}
        if not self.weights:
            raise ValueError("a loss needs at least one term with a weight above 0")
        self.terms = nn.ModuleDict({name: terms[name] for name in self.weights})

    def forward(self, sr: Tensor, hr: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, differentiable, and the raw value of every term, detached."""
        same_shape(sr, hr)
        sr, hr = at_least_float32(sr), at_least_float32(hr)
        parts = {name: self._term(name, sr, hr) for name in self.weights}
        total = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
        return total, {name: part.detach() for name, part in parts.items()}

    def shares(self, parts: Mapping[str, float]) -> dict[str, float]:
        """``|weight · part| / Σ |weight · part|`` per term; all 0 for a loss of 0."""
        sizes = {name: abs(weight * float(parts[name])) for name, weight in self.weights.items()}
        total = sum(sizes.values()) or 1.0
        return {name: size / total for name, size in sizes.items()}

    @torch.enable_grad()
    def gradient_shares(self, sr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """``‖weight · ∂term/∂sr‖₂`` per term, over the whole batch.

        One backward pass per term that ends at ``sr``: neither the generator's graph nor any
        parameter's ``.grad`` is touched.
        """
        same_shape(sr, hr)
        output, hr = at_least_float32(sr.detach()).requires_grad_(), at_least_float32(hr)
        norms = {}
        for name, weight in self.weights.items():
            (gradient,) = torch.autograd.grad(self._term(name, output, hr), output)
            norms[name] = weight * gradient.norm()
        return norms

    def linear_shares(self, sr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """Share of the pixels in the linear zone, for each term that has one."""
        return {
            name: term.linear_share(sr, hr)
            for name, term in self.terms.items()
            if isinstance(term, Robust)
        }

    def _term(self, name: str, sr: Tensor, hr: Tensor) -> Tensor:
        part: Tensor = self.terms[name](sr, hr)
        if part.ndim:
            raise ValueError(f"term {name!r} gave {tuple(part.shape)}, it must reduce to a scalar")
        return part


def gradient_ratios(norms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each norm ÷ the sum of the ``pixel*`` terms' norms, for the terms that are no ``pixel*``.

    Above 1, the term leads and the pixels follow. Empty where nothing is called ``pixel*``.
    """
    pixels = [norm for name, norm in norms.items() if name.startswith("pixel")]
    if not pixels:
        return {}
    pixel = torch.stack(pixels).sum()
    return {name: norm / pixel for name, norm in norms.items() if not name.startswith("pixel")}


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known) or 'none'}"
