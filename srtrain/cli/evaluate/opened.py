"""From a word to a model that can be measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srtrain.cli.asked_samples import refuse_projection
from srtrain.cli.evaluate.models import Classic, Finished, Model, Network
from srtrain.cli.evaluate.sampled import Sampled
from srtrain.errors import ConfigError
from srtrain.images import shown
from srtrain.networks.flow import Flow
from srtrain.networks.loading import load
from srtrain.networks.storage import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from srtrain.cli.evaluate.sampled import Asked
    from srtrain.cli.evaluate.words import Named


def open_model(
    named: Named,
    finished: Mapping[str, Mapping[str, Path]],
    *,
    scale: int,
    trust: Sequence[str],
    tile: int | None,
    self_ensemble: bool,
    precision: str,
    asked: Asked,
) -> Model:
    """The model of that name, fully checked; ``finished``: its SR images, if it is a folder.

    Raises: StorageError for a file that is no usable network, ConfigError for one of another
        scale, for a flow whose flips and turns would be averaged, and for one whose samples would
            be held to LR images unlike those that it knows.
    """
    if named.kind == "classic":
        return Classic(named.name, str(named.place), scale)
    if named.kind == "finished":
        return Finished(named.name, finished)
    file = resolve(named.place)
    loaded = load(file, trust=trust)
    generator = loaded.generator
    if generator.scale != scale:
        raise ConfigError(
            f"the model enlarges {generator.scale} times, --scale is {scale}",
            where=shown(file),
            fix=f"give models of x{scale}, or another --scale",
        )
    if isinstance(generator.net, Flow):
        if self_ensemble:
            what = "a flow's mean over flips and turns is no sample of it"
            raise ConfigError(what, where=shown(file), fix="leave out --self-ensemble")
        refuse_projection(asked.sampling, loaded.about)
        return Sampled(named.name, file, generator, tile=tile, precision=precision, asked=asked)
    return Network(
        named.name, file, generator, tile=tile, self_ensemble=self_ensemble, precision=precision
    )
