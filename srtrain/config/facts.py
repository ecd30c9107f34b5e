"""The settled configuration as rules see it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Facts:
    """The resolved configuration, what was chosen, and the environment it meets."""

    config: Mapping[str, Any]
    choices: Mapping[str, str]
    environ: Mapping[str, str]
    resumed: bool = False

    def get(self, key: str) -> Any:  # noqa: ANN401 - any YAML
        """The value at a dotted key, or None."""
        node: Any = self.config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        return node

    def number(self, key: str) -> float | None:
        """The value if it is a number; wrong types are told elsewhere."""
        value = self.get(key)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def mapping(self, key: str) -> Mapping[str, Any]:
        """The value if it has keys, else nothing."""
        value = self.get(key)
        return value if isinstance(value, Mapping) else {}

    def weights(self) -> dict[str, float]:
        """The usable loss weights that are not 0."""
        pairs = (
            (name, self.number(f"loss.weights.{name}")) for name in self.mapping("loss.weights")
        )
        return {name: w for name, w in pairs if w is not None and math.isfinite(w) and w > 0}
