"""Every key and value against the reference: unknown names, wrong types, words out of a choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from srtrain.config.nearest import did_you_mean, nearest, nearest_key
from srtrain.config.schema import (
    ALIASES,
    COMPONENTS,
    EXTENSIBLE,
    OPEN,
    OPTIONAL,
    TYPES,
    describe,
    matches,
    root_types,
    type_of,
    words_of,
)
from srtrain.config.signature import is_missing, parameters
from srtrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Hydra's own words in a node; `_target_` is looked at, the others are not ours.
HYDRA_WORDS = frozenset({"_target_", "_partial_", "_convert_", "_recursive_", "_args_"})


@dataclass(frozen=True)
class Reference:
    """What may be set: the chosen options' YAML, without what experiments say.

    ``terms`` are the loss terms that the composed configuration defines: ``loss.weights`` may name
    these and no others.
    """

    tree: Mapping[str, Any]
    terms: frozenset[str] = frozenset()
    types: Mapping[str, Any] = field(default_factory=lambda: {**TYPES, **root_types()})

    def keys(self) -> list[str]:
        """All dotted keys, nodes and leaves."""
        return list(_keys(self.tree, ""))

    def default(self, key: str) -> Any:  # noqa: ANN401 - any YAML
        """The value at a dotted key, or None."""
        parent, _, name = key.rpartition(".")
        return _select(self.tree, parent).get(name)

    def unknown(self, key: str, where: str) -> ConfigError:
        """The problem with ``key``, and the key that was probably meant."""
        alias = ALIASES.get(key.rpartition(".")[2])
        parent = key.rpartition(".")[0]
        keys = self.keys()
        keys += [f"{parent}.{name}" for name in _foreign_parameters(_select(self.tree, parent))]
        guess = alias if alias in keys else nearest_key(key, keys)
        others = sorted(other.rpartition(".")[2] for other in keys if _parent(other) == parent)
        listing = f"known there: {', '.join(others)}" if others else "srtrain --help lists the keys"
        return ConfigError(f"unknown key {key}", where=where, fix=did_you_mean(guess, listing))


def check_tree(
    values: Mapping[str, Any],
    reference: Reference,
    *,
    where: Callable[[str], str],
    prefix: str = "",
) -> Iterator[ConfigError]:
    """Problems of all keys below ``prefix``; ``where(key)`` says who wrote them."""
    node = _select(reference.tree, prefix)
    for name, value in values.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if key in OPEN or name in HYDRA_WORDS - {"_target_"}:
            continue
        if _defines_component(value, node.get(name), prefix):
            yield from check_component(value, where=where, prefix=key)
        elif name == "_target_":
            continue
        elif name in node:
            yield from _check_known(key, value, node[name], reference, where)
        elif prefix == "loss.weights" and name in reference.terms:
            yield from check_type(key, value, float, where=where(key))
        elif name not in _foreign_parameters(node):
            yield reference.unknown(key, where(key))


def check_component(
    node: Mapping[str, Any], *, where: Callable[[str], str], prefix: str
) -> Iterator[ConfigError]:
    """Keys of a node with ``_target_`` against the parameters of what it names."""
    target = str(node.get("_target_", ""))
    if is_missing(target, "srtrain"):
        fix = "write the full name of a class or function: srtrain.MODULE.NAME"
        yield ConfigError(f"there is no {target}", where=where(f"{prefix}._target_"), fix=fix)
    known = parameters(target)
    for name, value in node.items():
        key = f"{prefix}.{name}"
        if isinstance(value, Mapping) and "_target_" in value:
            yield from check_component(value, where=where, prefix=key)
        elif known is not None and name not in known and name not in HYDRA_WORDS:
            guess = nearest(str(name), known)
            listing = f"{target} takes: {', '.join(sorted(known)) or 'nothing'}"
            fix = did_you_mean(f"{prefix}.{guess}" if guess else None, listing)
            yield ConfigError(f"unknown key {key}", where=where(key), fix=fix)


def check_type(
    key: str,
    value: object,
    annotation: Any,  # noqa: ANN401 - an annotation is any
    *,
    where: str,
) -> Iterator[ConfigError]:
    """The problem if ``value`` is not of the type ``annotation``."""
    interpolated = isinstance(value, str) and "${" in value
    if interpolated or value == "???" or matches(value, annotation):
        return
    expected = describe(annotation)
    verb = "choose" if " | " in expected else "expected"
    guess = nearest(value, words_of(annotation)) if isinstance(value, str) else None
    fix = f"{verb} {expected}" + (f"; did you mean {guess}?" if guess else "")
    shown = "null" if value is None else repr(value)
    yield ConfigError(f"{key} cannot be {shown}", where=where, fix=fix)


def _check_known(
    key: str,
    value: object,
    default: object,
    reference: Reference,
    where: Callable[[str], str],
) -> Iterator[ConfigError]:
    annotation = reference.types.get(key)
    if key in COMPONENTS and isinstance(value, Mapping):
        if "_target_" in value:
            yield from check_component(value, where=where, prefix=key)
        return  # of what a file put there: looked at after merging
    if annotation is None and isinstance(default, Mapping):
        if isinstance(value, Mapping):
            yield from check_tree(value, reference, where=where, prefix=key)
        elif not (value is None and (_parent(key) in EXTENSIBLE or key in OPTIONAL)):
            fix = f"set a key below it: {', '.join(f'{key}.{name}' for name in default)}"
            yield ConfigError(f"{key} is a group of keys", where=where(key), fix=fix)
        return
    if isinstance(default, Mapping) and isinstance(value, Mapping):
        yield from check_tree(value, reference, where=where, prefix=key)
        return
    if isinstance(default, list) and isinstance(value, Mapping):  # betas.0=0.8
        return
    expected = type_of(default) if annotation is None else annotation
    yield from check_type(key, value, expected, where=where(key))


def _defines_component(value: object, default: object, parent: str) -> bool:
    """Whether ``value`` brings a class of its own: a new component, or another in its place."""
    if not isinstance(value, Mapping) or "_target_" not in value:
        return False
    if isinstance(default, Mapping):
        return bool(value["_target_"] != default.get("_target_"))
    return parent in EXTENSIBLE


def _foreign_parameters(node: Mapping[str, Any]) -> frozenset[str]:
    """What a class that is not ours takes: its YAML need not list all of it.

    Ours must: what they take beyond their YAML is handed over by srtrain itself.
    """
    target = str(node.get("_target_", "srtrain."))
    return frozenset() if target.startswith("srtrain.") else parameters(target) or frozenset()


def _select(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    node: Any = tree
    for part in key.split(".") if key else ():
        node = node.get(part, {}) if isinstance(node, Mapping) else {}
    return node if isinstance(node, Mapping) else {}


def _keys(tree: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, value in tree.items():
        if name in HYDRA_WORDS:
            continue
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{name}.")


def _parent(key: str) -> str:
    return key.rpartition(".")[0]
