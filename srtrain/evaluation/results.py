"""What an evaluation found: every metric of every image of every model, and by which protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from srtrain.errors import DataError
from srtrain.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Values = dict[str, float]
"""METRIC → value."""


@dataclass(frozen=True)
class SetResult:
    """One model on one data set: the means, and each image's values by its name."""

    means: Values
    images: dict[str, Values]


@dataclass(frozen=True)
class ModelResult:
    """One model on all data sets. ``sha256``: of its file, of all images of a folder, or empty."""

    name: str
    sha256: str
    data: dict[str, SetResult]


@dataclass(frozen=True)
class Results:
    """All models by one ``protocol``, in the order in which they were named.

    As JSON: ``{"models": [{"name", "sha256", "data": {SET: {METRIC: mean, "images": {NAME:
    {METRIC: value}}}}}], "protocol": {…}}``. A value that is not finite is null there.
    """

    models: list[ModelResult]
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def sets(self) -> list[str]:
        """Names of the data sets, each once."""
        return list(dict.fromkeys(name for model in self.models for name in model.data))

    def metrics(self, data: str) -> list[str]:
        """What was measured on a set of any model, each once."""
        found = [model.data[data].means for model in self.models if data in model.data]
        return list(dict.fromkeys(name for means in found for name in means))

    def to_json(self) -> dict[str, Any]:
        """As it is in ``results.json``."""
        models = [
            {
                "name": model.name,
                "sha256": model.sha256,
                "data": {
                    name: {
                        **_finite(found.means),
                        "images": {image: _finite(row) for image, row in found.images.items()},
                    }
                    for name, found in model.data.items()
                },
            }
            for model in self.models
        ]
        return {"models": models, "protocol": self.protocol}

    def write(self, path: Path) -> None:
        """Write ``results.json``, whole or not at all. Raises: OSError."""
        write_json(path, self.to_json())


def read_results(path: Path) -> Results:
    """What ``Results.write`` wrote; null is NaN.

    Raises: DataError for anything else.
    """
    try:
        content = read_json(path)
        models = [
            ModelResult(
                name=str(model["name"]),
                sha256=str(model["sha256"]),
                data={str(name): _set_result(found) for name, found in model["data"].items()},
            )
            for model in content["models"]
        ]
        return Results(models, dict(content["protocol"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"not a results.json of srtrain evaluate: {error}", where=str(path)
        ) from error


def _set_result(found: Mapping[str, Any]) -> SetResult:
    images = {str(name): _numbers(row) for name, row in found["images"].items()}
    return SetResult(_numbers({k: v for k, v in found.items() if k != "images"}), images)


def _numbers(row: Mapping[str, Any]) -> Values:
    return {name: float("nan") if value is None else float(value) for name, value in row.items()}


def _finite(row: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if abs(value) < float("inf") else None for name, value in row.items()}
