"""What an export made, before it is written."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Made:
    """A file's content, what is known of it (label → words), and what a user must be told."""

    content: bytes
    facts: dict[str, str]
    warnings: list[str] = field(default_factory=list)
