"""Whose weights are in a file, in the words that choose that network."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

from srtrain.errors import StorageError
from srtrain.networks.build import network_class
from srtrain.networks.loading import community_generator, unwrap
from srtrain.networks.storage import is_own_checkpoint, load_tensors, own_content, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from srtrain.networks.spec import Spec

    Options = Callable[[int], Mapping[str, Spec]]
    """What ``generator=`` may be, by name, at a scale."""


def looks_like(path: Path, options: Options) -> str:
    """``these look like ESRGAN ×4: generator=rrdb scale=4``; empty if nobody knows the weights.

    Of the options that have the network's class the nearest is named, with what it has otherwise.

    Raises: StorageError if the file is damaged, unsafe, or holds no tensors.
    """
    found = _network_in(path)
    if found is None:
        return ""
    spec, scale = found
    target = spec["_target_"]
    others = {
        name: _other_arguments(spec, option)
        for name, option in options(scale).items()
        if option["_target_"] == target
    }
    said = f"these look like {target.rpartition('.')[2]} ×{scale}"
    if not others:
        return f"{said}: no generator= has {target}"
    nearest = min(others, key=lambda name: len(others[name]))
    arguments = [f"generator.{key}={_word(value)}" for key, value in others[nearest].items()]
    return f"{said}: {' '.join([f'generator={nearest}', f'scale={scale}', *arguments])}"


def _network_in(path: Path) -> tuple[Spec, int] | None:
    file = resolve(path)
    content = load_tensors(file)
    if is_own_checkpoint(content):
        own = own_content(content, file)
        return own["generator"], own["scale"]
    state = unwrap(content, file)
    try:
        generator = community_generator(state, file)
    except StorageError:
        return None
    return generator.spec, generator.scale


def _other_arguments(spec: Spec, option: Spec) -> dict[str, Any]:
    """What the network of ``spec`` has and ``option`` has otherwise; a head sets out_channels."""
    parameters = inspect.signature(network_class(spec["_target_"], group="generator")).parameters
    defaults = {key: it.default for key, it in parameters.items() if it.default is not it.empty}
    theirs, ours = (
        {key: _plain(value) for key, value in {**defaults, **it["kwargs"]}.items()}
        for it in (spec, option)
    )
    return {
        key: value
        for key, value in theirs.items()
        if key != "out_channels" and value != ours.get(key)
    }


def _plain(value: object) -> object:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _word(value: object) -> str:
    return (
        value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)
    )
