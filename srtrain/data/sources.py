"""Where training and validation images come from: explicit classes, nothing registered."""

from __future__ import annotations

import functools
import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from srtrain.data.collection import Collection, Files, Source, Survey, hashed
from srtrain.data.leaves import REVISION as LEAVES_REVISION
from srtrain.data.leaves import dead_leaves
from srtrain.data.pairs import Pairs, match
from srtrain.errors import ConfigError, DataError
from srtrain.images import list_images, shown

if TYPE_CHECKING:
    import numpy as np

VAL_PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "camera")
"""The photos that are validated on where the user names no others; never trained on."""

FolderEntry = str | Path | Mapping[str, object]
"""A folder, or ``{path: DIR, repeat: N}``."""


class Synthetic(Collection):
    """``count`` dead-leaves pictures of ``size``²: a function of ``seed``."""

    def __init__(self, *, count: int, size: int, seed: int = 0) -> None:
        self.size = size
        self.seed = seed
        self.names = [f"leaves-{index:06d}" for index in range(count)]

    def quick_key(self) -> str:
        """The parameters, and the revision of what draws them."""
        return hashed(["leaves", LEAVES_REVISION, len(self.names), self.size, self.seed])

    def shapes(self, index: int) -> tuple[tuple[int, int], ...]:
        """The size asked for."""
        return ((self.size, self.size),)

    def digest(self, index: int) -> str:
        """The parameters."""
        return hashed(["leaves", LEAVES_REVISION, index, self.size, self.seed])

    def decode(self, index: int) -> tuple[np.ndarray, ...]:
        """Draws picture number ``index``."""
        return (dead_leaves(index, size=self.size, seed=self.seed),)


class Bundled(Files):
    """Photos that the wheel of scikit-image contains; its folder is read, nothing downloads."""

    def __init__(self, names: Sequence[str] = VAL_PHOTOS) -> None:
        folder = _bundled_folder()
        found = {path.stem: path for path in list_images(folder)}
        unknown = [name for name in names if name not in found]
        if unknown:
            raise ConfigError(
                f"no bundled photo is called {', '.join(unknown)}",
                where=str(folder),
                fix=f"choose from {', '.join(sorted(found))}",
            )
        super().__init__(list(names), [(found[name],) for name in names])


class Folder(Source):
    """HR images of one or more folders: any depth, format and mode.

    A folder with ``repeat`` r is visited r times per pass; ``repeats`` says the same for a list
    of plain paths. Each folder is scanned once, when first asked for.

    Raises (when scanned): DataError for folders that are missing or hold no image.
    """

    def __init__(
        self, paths: FolderEntry | Sequence[FolderEntry], repeats: Sequence[int] | None = None
    ) -> None:
        entries = [paths] if isinstance(paths, str | Path | Mapping) else list(paths)
        self.folders = [_path_and_repeat(entry) for entry in entries]
        if repeats is not None:
            pairs = zip(self.folders, repeats, strict=True)
            self.folders = [(path, times) for (path, _), times in pairs]
        self._scanned: dict[Path, Files] = {}
        if not self.folders or any(times < 1 for _, times in self.folders):
            raise ConfigError(
                f"{entries!r} must name at least one folder, each repeated at least once",
                where="data.train",
            )

    def collections(self) -> list[tuple[Collection, int]]:
        """One per folder, so that adding a folder decodes only that."""
        return [(self.files(path), times) for path, times in self.folders]

    def files(self, folder: Path) -> Files:
        """The images of one of its folders."""
        if folder not in self._scanned:
            self._scanned[folder] = _folder_files(folder)
        return self._scanned[folder]


class PairFiles(Files):
    """Matched HR and LR files whose sizes agree."""

    def __init__(
        self, names: Sequence[str], rows: Sequence[tuple[Path, Path]], *, scale: int
    ) -> None:
        super().__init__(names, rows, sides=2)
        self.scale = scale

    def quick_key(self) -> str:
        """As of files, and the scale: pairs that fit at one do not at another."""
        return hashed([super().quick_key(), self.scale])

    def survey(self, index: int) -> Survey:
        """As of files. Raises DataError unless LR = HR // scale on both sides."""
        survey = super().survey(index)
        problem = size_problem(*survey.shapes, scale=self.scale)
        if problem:
            raise DataError(problem, where=shown(self.rows[index][1]))
        return survey


class Paired(Source):
    """HR and LR files matched by name, see `pairs.match`; scanned once, when first asked for.

    Raises (when scanned): DataError listing files without a partner or with several.
    """

    def __init__(self, hr: str | Path, lr: str | Path, *, scale: int) -> None:
        self.hr = Path(hr).expanduser()
        self.lr = Path(lr).expanduser()
        self.scale = scale

    @functools.cached_property
    def pairs(self) -> Pairs:
        """What matches and what does not."""
        files = images_in(self.hr), images_in(self.lr)
        return match(*files, hr=self.hr, lr=self.lr, scale=self.scale)

    @functools.cached_property
    def files(self) -> PairFiles:
        """What matches."""
        return PairFiles(self.pairs.names, self.pairs.rows, scale=self.scale)

    def collections(self) -> list[tuple[Collection, int]]:
        """The pairs."""
        pairs = self.pairs
        if not pairs.complete:
            raise DataError(
                f"{len(pairs.without_lr)} HR files without LR {_some(pairs.without_lr)}, "
                f"{len(pairs.without_hr)} LR files without HR {_some(pairs.without_hr)}, "
                f"{len(pairs.ambiguous)} ambiguous {_some(pairs.ambiguous)}",
                where=f"{self.hr}, {self.lr}",
                fix=f"`srtrain check-data {self.hr} --lr {self.lr} --scale {self.scale}` explains",
            )
        return [(self.files, 1)]


class Concat(Source):
    """All images of several sources."""

    def __init__(self, *sources: Source) -> None:
        self.sources = sources

    def collections(self) -> list[tuple[Collection, int]]:
        """Those of its parts, in order."""
        return [part for source in self.sources for part in source.collections()]


def images_in(folder: Path) -> list[Path]:
    """All image files below a folder. Raises DataError if it is missing or holds none."""
    if not folder.is_dir():
        raise DataError("no such folder", where=str(folder), fix="check the path")
    found = list_images(folder)
    if not found:
        raise DataError("folder without images", where=str(folder), fix="check the path")
    return found


def size_problem(hr: Sequence[int], lr: Sequence[int], *, scale: int) -> str:
    """Empty if LR (h, w) = HR (H, W) // scale, else a sentence with both sizes."""
    expected = (hr[0] // scale, hr[1] // scale)
    if tuple(lr) == expected:
        return ""
    return (
        f"LR is {lr[1]}x{lr[0]}, but HR {hr[1]}x{hr[0]} / {scale} makes {expected[1]}x{expected[0]}"
    )


def _folder_files(folder: Path) -> Files:
    paths = images_in(folder)
    relative = [path.relative_to(folder) for path in paths]
    stems = [path.with_suffix("").as_posix() for path in relative]
    shared = {stem for stem, count in Counter(stems).items() if count > 1}
    names = [
        path.as_posix() if stem in shared else stem
        for path, stem in zip(relative, stems, strict=True)
    ]
    return Files(names, [(path,) for path in paths])


def _path_and_repeat(entry: FolderEntry) -> tuple[Path, int]:
    if not isinstance(entry, Mapping):
        return Path(entry).expanduser(), 1
    if "path" not in entry or not set(entry) <= {"path", "repeat"}:
        raise ConfigError(
            f"{dict(entry)} must have the keys path and, if wanted, repeat", where="data.train"
        )
    return Path(str(entry["path"])).expanduser(), int(str(entry.get("repeat", 1)))


def _bundled_folder() -> Path:
    found = importlib.util.find_spec("skimage")  # found, not imported: that would cost seconds
    if found is None or not found.submodule_search_locations:
        raise DataError("scikit-image is not installed", fix="pip install scikit-image")
    return Path(found.submodule_search_locations[0]) / "data"


def _some(items: Sequence[object], limit: int = 3) -> str:
    if not items:
        return ""
    names = [
        "/".join(path.name for path in item) if isinstance(item, tuple) else Path(str(item)).name
        for item in items[:limit]
    ]
    return f"({', '.join(names)}{', …' if len(items) > limit else ''})"
