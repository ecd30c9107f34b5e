"""What a file or a configuration says of a network, enough to build it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from srtrain.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LARGEST_SCALE = 16  # of all networks that are known; a file may say anything


class Spec(TypedDict):
    """What rebuilds a network: the dotted path of its class and its constructor's arguments."""

    _target_: str
    kwargs: dict[str, Any]


def refuse_unbuildable(said: Mapping[str, Any], path: Path) -> None:
    """Nothing, if ``generator`` of what a file says is a ``Spec``, and ``scale`` one there can be.

    Raises: StorageError.
    """
    generator, scale = said["generator"], said["scale"]
    wrong = ""
    if type(scale) is not int or not 1 <= scale <= LARGEST_SCALE:
        wrong = f"its scale is {scale!r:.40}, not 1 … {LARGEST_SCALE}"
    parts = generator if isinstance(generator, dict) else {}
    if not (isinstance(parts.get("_target_"), str) and isinstance(parts.get("kwargs"), dict)):
        wrong = "its generator is no class with arguments"
    if wrong:
        raise StorageError(
            f"the network cannot be rebuilt: {wrong}",
            where=str(path),
            fix="use a file that srtrain has written",
        )
