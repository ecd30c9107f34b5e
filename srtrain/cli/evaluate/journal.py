"""What is measured is kept at once, image by image: a killed evaluation continues where it was."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from typing import TYPE_CHECKING

from srtrain.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from srtrain.evaluation.results import Values


def key_of(*facts: object) -> str:
    """A name for what a measurement depends on: model, files, protocol."""
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Journal:
    """Values by key in ``folder``/``rank-N.jsonl``, one line each; every rank reads all files.

    A line that was not written to its end is as if it were not there.

    Raises: StorageError where the folder cannot be written to.
    """

    def __init__(self, folder: Path, *, rank: int = 0) -> None:
        self.folder = folder
        self.rows: dict[str, Values] = {}
        self._read_to: dict[Path, int] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._stream = (folder / f"rank-{rank}.jsonl").open("ab")
        except OSError as error:
            raise _cannot(folder, error) from error
        if self._stream.tell():
            self._stream.write(b"\n")  # after a torn line; an empty one means nothing
            self._stream.flush()
        self.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()

    def add(self, key: str, values: Values) -> None:
        """Known from now on, and on the disk. Raises: StorageError if the disk refuses."""
        try:
            self._stream.write(json.dumps({"key": key, "values": values}).encode() + b"\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise _cannot(self.folder, error) from error
        self.rows[key] = values

    def refresh(self) -> None:
        """Read what the ranks have added since."""
        for path in sorted(self.folder.glob("rank-*.jsonl")):
            with path.open("rb") as stream:
                stream.seek(self._read_to.get(path, 0))
                text = stream.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read_to[path] = self._read_to.get(path, 0) + len(whole)
            for line in whole.splitlines():
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            self.rows[str(row["key"])] = {str(k): float(v) for k, v in row["values"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):  # torn by a kill
            return


def _cannot(folder: Path, error: OSError) -> StorageError:
    what = f"cannot write: {error.strerror or error}"
    return StorageError(what, where=str(folder), fix="another -o, or free some space")
