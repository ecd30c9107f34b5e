"""YAML files of the configuration as they lie on disk: values, line numbers, first comment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from srtrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# libyaml where PyYAML has it: ten times faster.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """Reads ``1e-3`` as a number, as OmegaConf does and YAML 1.1 does not."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*)$"),
    list("-+0123456789."),
)


@dataclass(frozen=True)
class ConfigFile:
    """One option of a group: ``conf/<group>/<name>.yaml``."""

    path: Path
    values: Mapping[str, Any]  # without `defaults`
    defaults: tuple[Any, ...]
    lines: Mapping[str, int]  # dotted key -> line
    package: str | None  # of the `# @package` header

    def where(self, key: str) -> str:
        """``path:line`` of a dotted key (of its nearest parent if it has no line of its own)."""
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        return f"{self.path}:{self.lines[key]}" if key else str(self.path)


def read_config(path: Path) -> ConfigFile:
    """Parse one file.

    Raises: ConfigError with file and line where it is not YAML, or not keys and values.
    """
    text = path.read_text(encoding="utf-8")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        values = loader.construct_document(node) if node is not None else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(
            f"not YAML: {getattr(error, 'problem', None) or 'cannot be parsed'}",
            where=f"{path}:{mark.line + 1}" if mark else str(path),
            fix="correct the file",
        ) from error
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise ConfigError("not keys and values", where=str(path), fix="write `key: value` lines")
    defaults = values.pop("defaults", None) or []
    lines = dict(_lines(node, ""))
    return ConfigFile(path, values, tuple(defaults), lines, _package(text))


def first_comment(path: Path) -> str:
    """The first comment line of a file that is not a Hydra header."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            if line.startswith("#") and not line.startswith("# @package"):
                return line.lstrip("# ").strip()
            if line.strip() and not line.startswith("#"):
                break
    return ""


def _package(text: str) -> str | None:
    found = re.match(r"\s*#\s*@package\s+(\S+)", text)
    return found.group(1) if found else None


def _lines(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int]]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        yield path, key.start_mark.line + 1
        yield from _lines(value, f"{path}.")
