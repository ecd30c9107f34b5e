"""Names of files: of any model, set and image one that every file system takes; and whose it is."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

LONGEST = 180  # bytes; file systems take 255, suffix and temporaries included


class Names:
    """Names for files of one folder, no two alike, also where upper case is lower case."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, *parts: str) -> str:
        """``parts`` joined by ``_``, readable, without suffix; marked where it is not theirs alone.

        The mark tells the same parts by the same digits.
        """
        whole = "_".join(parts)
        name = re.sub(r"[^\w.-]+", "_", whole)
        cut = name.encode()[:LONGEST].decode(errors="ignore")
        if cut != name or name.casefold() in self._taken:
            told = "\0".join(parts).encode("utf-8", "surrogateescape")
            name = f"{cut}-{sha256(told).hexdigest()[:8]}"
        self._taken.add(name.casefold())
        return name


def inside(out: Path, name: str, folders: Collection[str]) -> Path | None:
    """``out``/``name`` if that lies in one of ``folders`` of it; lists in OUT may be anybody's."""
    parts = Path(name).parts
    if len(parts) < 2 or parts[0] not in folders or ".." in parts:
        return None
    path = out / name
    return path if path.parent.resolve().is_relative_to(out.resolve()) else None
