"""What Hydra does at every start for things that a run does not have, left out.

Half of the time that it takes to refuse a command goes into composition. Nothing here changes what
is composed; where Hydra or OmegaConf are made otherwise than expected, they stay as they are.
"""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from functools import cache
from inspect import signature
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLUGINS = "hydra_plugins"  # the package of launchers and sweepers that are installed beside Hydra
LOADER = "omegaconf._utils", "get_yaml_loader"
CHOICES = "hydra._internal.defaults_list", "_create_interpolation_map"

log = logging.getLogger("srtrain")


@cache
def shorten() -> None:
    """From now on YAML is read by libyaml, and choices are gathered only for a ``${…}``."""
    _replace(*LOADER, [], _by_libyaml)
    _replace(*CHOICES, ["overrides", "defaults_list", "self_added"], _where_asked)


def _replace(
    module: str,
    name: str,
    parameters: list[str],
    by: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> None:
    """The private ``module.name`` is ``by(itself)``, if it is still there and takes just these."""
    own = getattr(sys.modules.get(module), name, None)
    if callable(own) and [*signature(own).parameters] == parameters:
        setattr(sys.modules[module], name, by(own))
    else:
        log.debug("%s of %s is left as it is", name, module)


def _by_libyaml(make: Callable[[], type]) -> Callable[[], type]:
    """OmegaConf's loader, made once, with libyaml where PyYAML has it: ten times faster."""
    own, fast = make(), getattr(yaml, "CSafeLoader", None)
    loader = type(own.__name__, (fast, own), {}) if fast else own
    return lambda: loader


def _where_asked(gather: Callable[..., Any]) -> Callable[..., Any]:
    """All choices so far as a DictConfig, for a defaults list that looks one up; else None.

    Hydra makes it for every file, which takes a twelfth of a composition.
    """

    def asked(overrides: object, defaults_list: list[Any], self_added: bool) -> object:
        if any(default.is_interpolation() for default in defaults_list):
            return gather(overrides, defaults_list, self_added)
        return None

    return asked


@contextmanager
def without_plugins() -> Iterator[bool]:
    """Within, Hydra knows its own parts alone, which is all that one run needs; gives True.

    To look through the installed launchers and sweepers takes as long as to read all of conf/.
    Where Hydra has done so already, as for a sweep, it keeps them; gives False.
    """
    instances: dict[type, Any] | None = getattr(Singleton, "_instances", None)
    if instances is None or Plugins in instances or PLUGINS in sys.modules:
        yield False
        return
    sys.modules[PLUGINS] = None  # type: ignore[assignment]  # to import it is an ImportError
    if _own:
        instances[Plugins] = _own[0]
    try:
        yield True
    finally:
        del sys.modules[PLUGINS]
        _own[:] = [found for found in (instances.pop(Plugins, None),) if found]


_own: list[Any] = []  # Hydra's own plugins, as a composition before found them
