"""A network with a head, cut to the image: what other tools can use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srtrain.networks.build import build_generator
from srtrain.networks.generator import Generator
from srtrain.networks.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Sequence


def image_only(generator: Generator, *, trust: Sequence[str] = ()) -> Generator:
    """The generator whose ``forward`` is this one's, without the channels of widths.

    The first three of the network's channels are the image (``srtrain.networks.heads``), so that
    the leading rows of its last layer make it. Without a head: the generator itself.

    Raises: as ``build_generator``.
    """
    if generator.head is None:
        return generator
    kwargs = {k: v for k, v in generator.spec["kwargs"].items() if k != "out_channels"}
    spec = Spec(_target_=generator.spec["_target_"], kwargs=kwargs)
    cut = build_generator(spec, scale=generator.scale, trust=trust)
    state = generator.net.state_dict()
    leading = {
        name: state[name][: len(own)] if own.ndim else state[name]
        for name, own in cut.net.state_dict().items()
    }
    cut.net.load_state_dict(leading)
    return cut.eval()
