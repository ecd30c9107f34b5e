"""From a spec ``{_target_, kwargs}`` to a discriminator, under the trust rules of generators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from srtrain.errors import ConfigError
from srtrain.networks.build import build_network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from srtrain.networks.generator import Spec


@runtime_checkable
class Discriminator(Protocol):
    """A network that gives an image (B, 3, H, W) logits of any shape (B, …)."""

    @property
    def receptive_field(self) -> int:
        """Side of the square that one logit sees, in pixels."""


def build_discriminator(spec: Spec, *, trust: Sequence[str] = ()) -> nn.Module:
    """The discriminator of ``spec``, freshly initialised.

    Raises: as ``build_generator``; ConfigError if the network does not say its receptive field.
    """
    network = build_network(spec, group="discriminator", trust=trust)
    if not isinstance(network, Discriminator):
        raise ConfigError(
            f"{spec['_target_']} has no property `receptive_field`",
            where="discriminator._target_",
            fix="give the dotted path of a discriminator, e.g. discriminator=patchgan",
        )
    return network
