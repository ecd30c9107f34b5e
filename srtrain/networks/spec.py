"""What a file or a configuration says of a network, enough to build it again."""

from __future__ import annotations

from typing import Any, TypedDict


class Spec(TypedDict):
    """What rebuilds a network: the dotted path of its class and its constructor's arguments."""

    _target_: str
    kwargs: dict[str, Any]
