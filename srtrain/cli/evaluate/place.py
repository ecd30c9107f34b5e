"""OUT: whose results lie there, and that one process at a time writes them."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from srtrain.cli.evaluate.naming import inside
from srtrain.errors import ConfigError, StorageError
from srtrain.files import HeldError, held, read_json, remove_temporaries, write_json
from srtrain.images import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class Place:
    """``results.json``, ``images.csv``, ``comparison.*``, ``report.html`` and folders of pictures.

    ``.progress`` keeps what is measured of each image, and which evaluation the rest is of.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results = path / "results.json"
        self.values = path / "images.csv"
        self.pictures = path / "pictures"
        self.figures = path / "figures"
        self.comparison = path / "comparison.csv"
        self.images = path / "images"
        self.report = path / "report.html"
        self.progress = path / ".progress"
        self._asked = self.progress / "evaluation.json"

    @property
    def rooms(self) -> list[tuple[str, Path]]:
        """What there is to look at, by what people call it."""
        rooms = {
            "results": self.results,
            "values": self.values,
            "comparison": self.comparison,
            "pictures": self.pictures,
            "figures": self.figures,
            "SR images": self.images,
            "report": self.report,
        }
        return [
            (name, path)
            for name, path in rooms.items()
            if path.is_file() or (path.is_dir() and any(path.iterdir()))
        ]

    @property
    def _files(self) -> list[Path]:
        comparison = self.comparison, self.comparison.with_suffix(".json")
        return [self.results, self.values, *comparison, self.report]

    @contextmanager
    def held(self, evaluation: str, *, overwrite: bool) -> Iterator[None]:
        """For this process alone; what lies there stays until `begin`.

        Raises: ConfigError if another process has it, if it holds the results of another
            ``evaluation`` (models, images, protocol) that may not be overwritten, or files of
            these names that no evaluation wrote; StorageError if it cannot be written to.
        """
        self._refuse_foreign()
        with ExitStack() as stack:
            try:
                self.progress.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(self.progress / "lock"))
                remove_temporaries(self.path)
            except HeldError as error:
                what = f"{error} is evaluating there"
                fix = "wait for it, or another -o"
                raise ConfigError(what, where=shown(self.path), fix=fix) from error
            except OSError as error:
                raise cannot_write(self.path, error) from error
            if self.results.exists() and not overwrite and self._earlier()[0] != evaluation:
                raise ConfigError(
                    "holds the results of another evaluation (models, images, options or versions)",
                    where=shown(self.path),
                    fix="another -o, or --overwrite: what is measured already is used again",
                )
            yield

    def begin(self, evaluation: str) -> None:
        """From here on it is ``evaluation``'s: results of another go. Raises: OSError."""
        earlier, pictures = self._earlier()
        if earlier != evaluation:
            for path in self._files:
                path.unlink(missing_ok=True)
        write_json(self._asked, {"evaluation": evaluation, "pictures": pictures})

    def drawn(self, evaluation: str, pictures: Sequence[Path]) -> None:
        """These are all there are now: earlier ones go. Raises: OSError."""
        names = [path.relative_to(self.path).as_posix() for path in pictures]
        for name in self._earlier()[1]:
            path = inside(self.path, name, (self.pictures.name, self.figures.name))
            if path is not None and name not in names:
                path.unlink(missing_ok=True)
        write_json(self._asked, {"evaluation": evaluation, "pictures": names})

    def _earlier(self) -> tuple[str, list[str]]:
        """The evaluation whose results lie here, and the pictures it made."""
        with suppress(OSError, ValueError, AttributeError):
            content = read_json(self._asked)
            pictures = content.get("pictures", [])
            names = pictures if isinstance(pictures, list) else []
            return str(content.get("evaluation", "")), [str(name) for name in names]
        return "", []

    def _refuse_foreign(self) -> None:
        found = [path.name for path in self._files if path.exists()]
        if found and not self._asked.exists():
            raise ConfigError(
                f"holds {', '.join(found)} of something else than an evaluation",
                where=shown(self.path),
                fix="another -o",
            )


def cannot_write(path: Path, error: OSError) -> StorageError:
    """What the disk says, of the file that it says it of."""
    where = error.filename if isinstance(error.filename, str) else shown(path)
    return StorageError(f"cannot write: {error.strerror or error}", where=where, fix="another -o")
