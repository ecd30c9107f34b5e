"""The loss as a list of named, weighted terms, and how much each of them really counts."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from srtrain.checks import same_shape
from srtrain.losses.pixel import Robust
from srtrain.losses.precision import at_least_float32
from srtrain.losses.schedule import Ramp

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

_TINY = torch.finfo(torch.float32).tiny


class Head(Protocol):
    """What reads an image out of a network that gives more than one, e.g. its quantiles."""

    @property
    def point(self) -> Callable[[Tensor], Tensor]:
        """``output (B, 3K, H, W) -> sr (B, 3, H, W)``."""


class WeightedSum(nn.Module):
    """``total = Σ weight(step) · term(sr, hr)``, with the raw value of every term beside it.

    A coefficient says nothing by itself (0.0099 was measured to be a third of the loss), so three
    readings are offered: the raw parts, their ``shares`` of the total, and ``gradient_shares`` at
    the output, which is what the generator feels.

    ``output`` is what the generator gave: the image itself, or with a ``head`` its K maps, of
    which terms see ``head.point(output)``. A term with the class attribute ``takes_output`` sees
    all of ``output``, one with ``takes_average`` gets the image of the averaged weights besides.

    Terms of weight 0 are dropped; weights of 0 need no term. A term with a schedule has its weight
    times ``Ramp.factor(step)``, and is not even computed while that is 0; without a ``step`` the
    weights are final. Low-precision images are raised to float32 first: a mean over pixels in
    bfloat16 has two digits.

    Shapes: output (B, 3K, H, W), hr (B, 3, H, W) in [0, 1] -> scalar, {name: scalar}.
    Raises: ValueError for a weight that is negative or not finite, a weight without a term, a term
        without a weight, a schedule without a weight, and a loss without any term at step 0.
    """

    def __init__(
        self,
        terms: Mapping[str, nn.Module],
        weights: Mapping[str, float],
        *,
        schedules: Mapping[str, Ramp] | None = None,
        head: Head | None = None,
    ) -> None:
        super().__init__()
        _refuse(terms, weights)
        self.weights = {name: float(weights[name]) for name in terms if weights[name]}
        self.schedules = dict(schedules or {})
        for name in self.schedules:
            if name not in self.weights:
                raise ValueError(
                    f"schedule of {name!r} has no weight{_nearest(name, self.weights)}"
                )
        if not self.weights_at(0):
            raise ValueError("a loss needs at least one term with a weight above 0 at step 0")
        self.terms = nn.ModuleDict({name: terms[name] for name in self.weights})
        # The head is the generator's to save: a bound method registers nothing here.
        self.point = head.point if head is not None else _itself

    @property
    def needs_average(self) -> bool:
        """Whether a term asks for the image of the averaged weights."""
        return any(getattr(term, "takes_average", False) for term in self.terms.values())

    def pixels_first(self, until: int) -> None:
        """Let every term that is no ``pixel*`` begin at step ``until`` at the earliest.

        Raises: ValueError where nothing would be left to learn from.
        """
        if until and not any(name.startswith("pixel") for name in self.weights_at(0)):
            raise ValueError("a start from pixels alone needs a pixel* term that counts at step 0")
        self.not_before(until, {name for name in self.weights if not name.startswith("pixel")})

    def not_before(self, until: int, names: Collection[str]) -> None:
        """Let the terms ``names`` begin at step ``until`` at the earliest.

        Raises: ValueError where nothing would be left to learn from.
        """
        if until and not self.weights_at(0).keys() - set(names):
            raise ValueError(f"no other term counts at step 0, before {', '.join(sorted(names))}")
        for name in self.weights.keys() & set(names) if until else ():
            self.schedules[name] = self.schedules.get(name, Ramp()).not_before(until)

    def weights_at(self, step: int | None) -> dict[str, float]:
        """The weights above 0 at ``step``; None: those at the end."""
        if step is None or not self.schedules:
            return self.weights
        factors = {name: ramp.factor(step) for name, ramp in self.schedules.items()}
        scaled = {name: w * factors.get(name, 1.0) for name, w in self.weights.items()}
        return {name: weight for name, weight in scaled.items() if weight}

    def forward(
        self,
        output: Tensor,
        hr: Tensor,
        *,
        step: int | None = None,
        average: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, differentiable, and the raw value of every term, detached."""
        output, hr = at_least_float32(output), at_least_float32(hr)
        sr = self.point(output)
        same_shape(sr, hr)
        weights = self.weights_at(step)
        parts = {name: self._part(name, output, sr, hr, average) for name in weights}
        return _total(parts, weights), {name: part.detach() for name, part in parts.items()}

    def shares(self, parts: Mapping[str, float], *, step: int | None = None) -> dict[str, float]:
        """``|weight · part| / Σ |weight · part|`` per term; all 0 for a loss of 0."""
        weights = self.weights_at(step)
        sizes = {name: abs(weight * float(parts[name])) for name, weight in weights.items()}
        total = sum(sizes.values()) or 1.0
        return {name: size / total for name, size in sizes.items()}

    @torch.enable_grad()
    def gradient_shares(
        self,
        output: Tensor,
        hr: Tensor,
        *,
        step: int | None = None,
        average: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """``‖weight · ∂term/∂output‖₂`` per term, over the whole batch.

        One backward pass per term that ends at ``output``: neither the generator's graph nor any
        parameter's ``.grad`` is touched.
        """
        output, hr = at_least_float32(output.detach()).requires_grad_(), at_least_float32(hr)
        same_shape(self.point(output), hr)
        norms = {}
        for name, weight in self.weights_at(step).items():
            part = self._part(name, output, self.point(output), hr, average)
            (gradient,) = torch.autograd.grad(part, output)
            norms[name] = weight * gradient.norm()
        return norms

    def linear_shares(
        self, output: Tensor, hr: Tensor, *, step: int | None = None
    ) -> dict[str, Tensor]:
        """Share of the pixels in the linear zone, for each term that has one."""
        sr, terms = self.point(output), {name: self.terms[name] for name in self.weights_at(step)}
        return {
            name: term.linear_share(sr, hr)
            for name, term in terms.items()
            if isinstance(term, Robust)
        }

    def _part(
        self, name: str, output: Tensor, sr: Tensor, hr: Tensor, average: Tensor | None
    ) -> Tensor:
        term = self.terms[name]
        seen = output if getattr(term, "takes_output", False) else sr
        if not getattr(term, "takes_average", False):
            part: Tensor = term(seen, hr)
        elif average is None:
            raise ValueError(f"term {name!r} needs the image of the averaged weights")
        else:
            part = term(seen, hr, at_least_float32(average))
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


def gradient_share(norms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``‖g‖ / Σ ‖g‖`` per term; all 0 where no term has a gradient."""
    total = torch.stack(list(norms.values())).sum()
    return {name: norm / total.clamp_min(_TINY) for name, norm in norms.items()}


def _itself(output: Tensor) -> Tensor:
    return output


def _total(parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Σ weight · part, in one operation a term: each costs a kernel forwards and one backwards."""
    (first, total), *others = parts.items()
    if weights[first] != 1.0:
        total = weights[first] * total
    for name, part in others:
        total = total.add(part, alpha=weights[name])
    return total


def _refuse(terms: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight of {name!r} = {weight} must be finite and >= 0")
        if weight and name not in terms:
            raise ValueError(f"weight of {name!r} has no term{_nearest(name, terms)}")
    for name in terms:
        if name not in weights:
            raise ValueError(f"term {name!r} has no weight{_nearest(name, weights)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known) or 'none'}"
