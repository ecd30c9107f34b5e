"""SR images that are kept as PNG, and of which measurement each is."""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from srtrain.cli.evaluate.naming import inside
from srtrain.files import read_json, remove_leftovers, write_json
from srtrain.images import Picture, write_picture

if TYPE_CHECKING:
    from collections.abc import Iterable

    from srtrain.cli.evaluate.work import Task
    from srtrain.images.picture import Pixels


class Saved:
    """``OUT/images/MODEL/SET/IMAGE.png``.

    A path tells a model's name, not its weights: what is in a file stands beside the journal, in
    ``.progress/images``, a mark for each file. A file without its mark is made again.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._marks = out / ".progress" / "images"

    def path(self, task: Task) -> Path:
        """Where the image of a task lies."""
        return self.out / "images" / task.model.name / task.data.name / f"{task.item.name}.png"

    def has(self, task: Task) -> bool:
        """Whether that image is there, of this very measurement."""
        path = self.path(task)
        return self._read(self._mark(path)) == (self._name(path), task.key) and path.is_file()

    def add(self, task: Task, levels: Pixels) -> None:
        """Write it. Raises: OSError."""
        path = self.path(task)
        mark = self._mark(path)
        mark.unlink(missing_ok=True)  # between here and the end the file may be either
        write_picture(path, Picture(levels))
        mark.parent.mkdir(parents=True, exist_ok=True)
        write_json(mark, {"image": self._name(path), "key": task.key})

    def forget_others(self, tasks: Iterable[Task]) -> None:
        """Remove the images written here that are of none of ``tasks``. Raises: OSError."""
        wanted = {(self._name(self.path(task)), task.key) for task in tasks}
        for mark in sorted(self._marks.glob("*.json")):
            found = self._read(mark)
            if found in wanted:
                continue
            path = inside(self.out, found[0], ("images",))
            if path is not None:
                path.unlink(missing_ok=True)
                with suppress(OSError):  # others are in it
                    path.parent.rmdir()
                    path.parent.parent.rmdir()
            mark.unlink(missing_ok=True)

    def remove_temporaries(self, tasks: Iterable[Task]) -> None:
        """What was killed in the middle of writing; for who alone writes here."""
        remove_leftovers([self.path(task) for task in tasks])

    def _name(self, path: Path) -> str:
        return path.relative_to(self.out).as_posix()

    def _mark(self, path: Path) -> Path:
        told = self._name(path).encode("utf-8", "surrogateescape")
        return self._marks / f"{sha256(told).hexdigest()[:32]}.json"

    def _read(self, mark: Path) -> tuple[str, str]:
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = read_json(mark)
            return str(content["image"]), str(content["key"])
        return "", ""
