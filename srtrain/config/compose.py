"""From the words of a command line to one configuration; torch is never imported here."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from srtrain.config.lean import shorten, without_plugins
from srtrain.config.location import conf_dir
from srtrain.ranks import gpus, granted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

VERSION_BASE = "1.3"


@dataclass(frozen=True)
class Composition:
    """One run's configuration, and how it was asked for."""

    config: DictConfig
    choices: Mapping[str, str]  # group -> option, as Hydra settled them
    argv: tuple[str, ...]  # the command line that composes it again

    @property
    def experiment(self) -> str:
        """The name of the experiment."""
        return self.choices["experiment"]


def compose(argv: Sequence[str], *, config_dirs: Sequence[Path] = ()) -> Composition:
    """Compose ``KEY=VALUE`` words without checking them (``preflight.check`` does that)."""
    config = _composed([*argv, *search_path(config_dirs)])
    choices = {
        group: option
        for group, option in config.hydra.runtime.choices.items()
        if isinstance(option, str) and not group.startswith("hydra/")
    }
    with open_dict(config):
        del config["hydra"]
    return Composition(config, choices, command_line(argv, config_dirs))


def _composed(words: Sequence[str]) -> DictConfig:
    shorten()
    try:
        with without_plugins() as left_out, hydra_ready():
            return hydra_compose("train", overrides=[*words], return_hydra_config=True)
    except HydraException:
        if not left_out:
            raise
    with hydra_ready():  # a file of the user's own may name what a plugin brings
        return hydra_compose("train", overrides=[*words], return_hydra_config=True)


def command_line(words: Sequence[str], config_dirs: Sequence[Path]) -> tuple[str, ...]:
    """The words and flags that say the same from any process on this machine."""
    return (*words, *(f"--config-dir={folder}" for folder in config_dirs))


def search_path(config_dirs: Sequence[Path]) -> list[str]:
    """The Hydra override that adds ``config_dirs`` to the search path, if there are any."""
    if not config_dirs:
        return []
    folders = ",".join(f"'file://{folder}'" for folder in config_dirs)
    return [f"hydra.searchpath=[{folders}]"]


@contextmanager
def hydra_ready() -> Iterator[None]:
    """Hydra at ``conf_dir()``, our resolvers registered; restores what was there before."""
    register_resolvers()
    hydra = GlobalHydra.instance()
    before = hydra.hydra  # inside a sweep's job: the sweep's own
    hydra.clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base=VERSION_BASE):
            yield
    finally:
        hydra.hydra = before


def register_resolvers() -> None:
    """What a configuration may compute.

    ``${mul:a,b}``: the product, e.g. a patch of 48 LR pixels in HR pixels. ``${ranks:per_node}``,
    ``${ranks:nodes}``: what torchrun or SLURM gives this run, else 1; ``${ranks:gpus}``: the same
    per node, else one for each GPU of this machine. ``${where:KEY,VALUE,a,b}``:
    ``a`` where KEY has that value, else ``b``, e.g. a coefficient for the embedded features and the
    published one, which counts on the size of the published taps.
    """
    OmegaConf.register_new_resolver("where", _where, replace=True)
    OmegaConf.register_new_resolver("mul", _product, replace=True)
    OmegaConf.register_new_resolver("ranks", _ranks, replace=True)


def _product(*factors: float) -> float:
    product = 1.0 if any(isinstance(factor, float) for factor in factors) else 1
    for factor in factors:
        product *= factor
    return product


def _where(
    key: str, value: str, then: float | None, otherwise: float | None, *, _root_: DictConfig
) -> float | None:
    return then if OmegaConf.select(_root_, key) == value else otherwise


def _ranks(what: Literal["per_node", "nodes", "gpus"]) -> int:
    given = granted()
    if given is None:
        return max(1, gpus()) if what == "gpus" else 1
    return given.nodes if what == "nodes" else given.per_node
