"""Files that W&B reads when it comes to them, as they were when it was told of them."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path


class Waiting:
    """Copies in ``folder`` of files that the next round replaces.

    What a process left there that was killed is removed at the next start.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.clear()

    def keep(self, file: str) -> str:
        """The path of a copy of what ``file`` holds now.

        Raises: OSError of the file system.
        """
        self._folder.mkdir(exist_ok=True)
        kept = self._folder / f"{secrets.token_hex(8)}{Path(file).suffix}"
        shutil.copyfile(file, kept)  # a hard link would follow who writes into the file
        return str(kept)

    def drop(self, kept: str) -> None:
        """W&B has its own copy."""
        Path(kept).unlink(missing_ok=True)

    def clear(self) -> None:
        """Nobody waits any more."""
        shutil.rmtree(self._folder, ignore_errors=True)
