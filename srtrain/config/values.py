"""``KEY=VALUE`` words that set values: checked as one tree, then applied one by one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from srtrain.config.keys import Reference, check_tree
from srtrain.config.schema import EXTENSIBLE, OPEN, matches, type_of
from srtrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hydra.core.override_parser.types import Override


def set_values(
    overrides: Sequence[Override], reference: Reference, config: DictConfig
) -> Iterator[ConfigError]:
    """Change ``config`` as the words say; yields the problems of those that cannot be right."""
    tree: dict[str, Any] = {}
    written: dict[str, tuple[str, Any]] = {}
    for override in overrides:
        key = _dotted(override.key_or_group)
        line = str(override.input_line)
        if override.is_delete():
            yield from _delete(key, line, config)
        elif not override.is_sweep_override():
            written[key] = (line, _as_text(key, override, reference))
            _nest(tree, key, written[key][1])
    lines = {key: line for key, (line, _) in written.items()}
    wrong = set()
    for problem in check_tree(tree, reference, where=lambda key: _line_of(key, lines)):
        wrong.add(problem.where)
        yield problem
    for key, (line, value) in written.items():
        if line not in wrong:
            yield from _set(key, value, line, config)


def _set(key: str, value: object, line: str, config: DictConfig) -> Iterator[ConfigError]:
    try:
        OmegaConf.update(config, key, value, merge=True, force_add=True)
    except (OmegaConfBaseException, ValueError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        yield ConfigError(f"{key} cannot be set: {reason}", where=line, fix="srtrain --help")


def _delete(key: str, line: str, config: DictConfig) -> Iterator[ConfigError]:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent in EXTENSIBLE | OPEN else None
    if node is None or name not in node:
        fix = f"these can be: {', '.join(f'~{place}.NAME' for place in sorted(EXTENSIBLE))}"
        yield ConfigError(f"{key} cannot be taken away", where=line, fix=fix)
        return
    with open_dict(config):
        del node[name]


def _as_text(key: str, override: Override, reference: Reference) -> Any:  # noqa: ANN401
    """The value; a number where only text fits (``run_dir=7``) is the text that was typed."""
    value: Any = override.value()
    if isinstance(value, int | float) and not isinstance(value, bool):
        annotation = reference.types.get(key, type_of(reference.default(key)))
        if not matches(value, annotation) and matches("", annotation):
            return str(override.input_line).split("=", 1)[1]
    return value


def _dotted(key: str) -> str:
    return re.sub(r"\[([^\]]+)\]", r".\1", key)


def _nest(tree: dict[str, Any], key: str, value: object) -> None:
    *parents, leaf = key.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            child = tree[parent] = {}
        tree = child
    if isinstance(value, dict) and isinstance(tree.get(leaf), dict):
        tree[leaf].update(value)
    else:
        tree[leaf] = value


def _line_of(key: str, lines: dict[str, str]) -> str:
    """The word that wrote ``key``, a parent of it, or something below it."""
    parent = key
    while parent and parent not in lines:
        parent = parent.rpartition(".")[0]
    if parent:
        return lines[parent]
    return next((line for other, line in lines.items() if other.startswith(f"{key}.")), key)
