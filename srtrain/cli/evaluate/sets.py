"""``--data``: which images are measured, and where their LR comes from."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from srtrain.data.pairs import match
from srtrain.errors import ConfigError, DataError
from srtrain.files import sha256_of
from srtrain.images import image_size, list_images, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

DEMO = "demo"
MADE = "made of HR as MATLAB's imresize does to 8-bit files (bicubic)"
_LISTED = 3  # names in an error; the rest is counted


@dataclass(frozen=True)
class Item:
    """One image: ``size`` (H, W) of HR, cut to a multiple of the scale as it is measured.

    ``digest``: SHA-256 of the content of its files.
    """

    name: str
    hr: Path
    lr: Path | None
    size: tuple[int, int]
    digest: str


@dataclass(frozen=True)
class DataSet:
    """Images by one name; ``lr_from``: a sentence for people; ``bad``: name → why not measured.

    ``folders``: where its files were looked for.
    """

    name: str
    items: list[Item]
    lr_from: str
    bad: dict[str, str] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Files:
    """What a ``--data`` word means, before any file is opened."""

    names: list[str]
    rows: list[tuple[Path, Path | None]]
    lr_from: str
    title: str  # what the set is called if it was not named
    folders: tuple[Path, ...] = ()


def open_sets(words: Sequence[str], *, scale: int) -> list[DataSet]:
    """The sets that ``[NAME=]DIR``, ``[NAME=]HR:LR`` or ``demo`` name, each image's header read.

    An image whose header cannot be read is ``bad``.

    Raises: ConfigError for two sets of one name; DataError for folders that are missing or empty,
        and for LR files that do not match their HR by name or by size.
    """
    found = [_open(word, scale=scale) for word in words]
    names = [each.name for each in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        fix = "name them: --data NAME=DIR"
        raise ConfigError(f"two sets are called {', '.join(twice)}", where="--data", fix=fix)
    return found


def large_enough(data: DataSet, smallest: int, *, border: int = 0, bordered: int = 0) -> DataSet:
    """The set without images of fewer pixels a side, which are ``bad``.

    ``bordered``: the pixels a side that ``--border`` takes, if ``border`` is the largest of them.
    """
    small: dict[str, str] = {}
    for item in data.items:
        side = min(item.size)
        if side >= max(smallest, bordered):
            continue
        own = side < smallest
        what, takes = ("measuring", smallest) if own else (f"--border {border}", bordered)
        said = [f"{item.size[1]}x{item.size[0]} pixels, {what} takes {takes} a side"]
        fix = [] if own else ["a smaller --border, or none"]
        small[item.name] = " · ".join([*said, shown(item.hr), *fix])
    items = [item for item in data.items if item.name not in small]
    return replace(data, items=items, bad={**data.bad, **small})


def split_name(word: str) -> tuple[str, str]:
    """``NAME=PLACE`` as both; a path that holds ``=`` and exists is no name."""
    name, equals, place = word.partition("=")
    if not equals or Path(word).expanduser().exists():
        return "", word
    if not name or not place or not {"", ".", ".."}.isdisjoint(name.split("/")):
        fix = "a name may become that of a folder"
        raise ConfigError(f"{word!r} is no NAME=PLACE", where="command line", fix=fix)
    return name, place


def _open(word: str, *, scale: int) -> DataSet:
    name, place = split_name(word)
    files = _files(place, scale)
    items: list[Item] = []
    bad: dict[str, str] = {}
    for own, (hr, lr) in zip(files.names, files.rows, strict=True):
        try:
            size = image_size(hr)
            lr_size = None if lr is None else image_size(lr)
        except DataError as error:
            bad[own] = str(error)
            continue
        if lr is not None and lr_size is not None:
            _refuse_wrong_size(size, lr_size, lr, scale)
        whole = (size[0] - size[0] % scale, size[1] - size[1] % scale)
        digest = " ".join(sha256_of(path) for path in (hr, lr) if path is not None)
        items.append(Item(own, hr, lr, whole, digest))
    return DataSet(name or files.title, items, files.lr_from, bad, files.folders)


def _files(place: str, scale: int) -> _Files:
    if place == DEMO and not Path(place).is_dir():
        from srtrain.data.sources import Bundled

        bundled = Bundled()
        return _Files([*bundled.names], [(row[0], None) for row in bundled.rows], MADE, DEMO)
    path = Path(place).expanduser()
    hr, colon, lr = place.rpartition(":")
    if colon and not path.exists():
        folders = Path(hr).expanduser(), Path(lr).expanduser()
        return _paired(*folders, scale=scale, title=_title(folders[0]))
    return _published(path, scale)


def _published(path: Path, scale: int) -> _Files:
    """As benchmarks come: HR alone, HR/ beside LR…/X4, or ``…_HR`` beside ``…_LR`` files."""
    hr = _one(path, [each for each in _folders(path) if _is_hr(each.name)], "HR")
    if hr is None:
        files = _images(path)
        both = {role: [file for file in files if file.stem.endswith(role)] for role in _ROLES}
        if both["_HR"] and both["_LR"]:
            return _matched(both["_HR"], both["_LR"], path, path, scale=scale, title=_title(path))
        names = _names(files, path)
        return _Files(names, [(file, None) for file in files], MADE, _title(path), (path,))
    lr = _one(path, _lr_folders(path, scale), "LR")
    if lr is not None:
        return _paired(hr, lr, scale=scale, title=_title(path))
    files = _images(hr)
    rows: list[tuple[Path, Path | None]] = [(file, None) for file in files]
    return _Files(_names(files, hr), rows, MADE, _title(path), (hr,))


_ROLES = ("_HR", "_LR")


def _is_hr(name: str) -> bool:
    return re.fullmatch(r"hr|gt|gtmod\d+", name.lower()) is not None


def _lr_folders(path: Path, scale: int) -> list[Path]:
    """Folders with the LR images of ``scale``: ``LR_bicubic/X4``, ``LR/x4``, ``LR_x4``, ``LR``."""
    found: list[Path] = []
    for folder in _folders(path):
        lowered = folder.name.lower()
        if not (lowered.startswith("lr") or re.fullmatch(r"x\d", lowered)):
            continue
        scales = {each.name.lower(): each for each in _folders(folder)}
        said = re.search(r"x(\d)$", lowered)
        if said is not None:
            found += [folder] if int(said[1]) == scale else []
        elif f"x{scale}" in scales:
            found.append(scales[f"x{scale}"])
        elif not any(re.fullmatch(r"x\d", name) for name in scales):
            found += [folder] if list_images(folder) else []
    return found


def _one(path: Path, found: list[Path], role: str) -> Path | None:
    if len(found) > 1:
        raise ConfigError(
            f"several {role} folders: {', '.join(each.name for each in found)}",
            where=shown(path),
            fix="say which: --data NAME=HR_DIR:LR_DIR, or NAME=HR_DIR to have LR made",
        )
    return found[0] if found else None


def _paired(hr: Path, lr: Path, *, scale: int, title: str) -> _Files:
    return _matched(_images(hr), _images(lr), hr, lr, scale=scale, title=title)


def _matched(
    hr_files: list[Path], lr_files: list[Path], hr: Path, lr: Path, *, scale: int, title: str
) -> _Files:
    pairs = match(hr_files, lr_files, hr=hr, lr=lr, scale=scale)
    if pairs.without_lr or pairs.ambiguous:
        alone = [path.name for path in pairs.without_lr]
        several = ["/".join(path.name for path in group) for group in pairs.ambiguous]
        said = [f"{len(alone)} HR images without LR ({some(alone)})"] if alone else []
        said += [f"{len(several)} ambiguous ({some(several)})"] if several else []
        fix = "LR is called as HR is, or with x4 or _LR behind; NAME=HR_DIR has it made"
        raise DataError(", ".join(said), where=f"{shown(hr)}, {shown(lr)}", fix=fix)
    rows: list[tuple[Path, Path | None]] = [*pairs.rows]
    return _Files(pairs.names, rows, f"given: {lr.parent.name}/{lr.name}", title, (hr, lr))


def _refuse_wrong_size(hr: tuple[int, int], lr: tuple[int, int], path: Path, scale: int) -> None:
    expected = (hr[0] // scale, hr[1] // scale)
    if lr != expected:
        raise DataError(
            f"LR is {lr[1]}x{lr[0]}, but HR {hr[1]}x{hr[0]} / {scale} makes"
            f" {expected[1]}x{expected[0]}",
            where=shown(path),
            fix="give the LR images of this scale, or only HR: NAME=HR_DIR",
        )


def _folders(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_dir()) if path.is_dir() else []


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        fix = "check the spelling; `demo` means the bundled photos"
        raise DataError("no such folder", where=shown(folder), fix=fix)
    found = list_images(folder)
    if not found:
        raise DataError("the folder holds no images", where=shown(folder), fix="check the path")
    return found


def _names(files: list[Path], folder: Path) -> list[str]:
    """Paths below ``folder`` without suffix, with it where two would be alike."""
    relative = [path.relative_to(folder) for path in files]
    stems = [path.with_suffix("").as_posix() for path in relative]
    counts = Counter(stems)
    return [
        path.as_posix() if counts[stem] > 1 else stem
        for path, stem in zip(relative, stems, strict=True)
    ]


def _title(path: Path) -> str:
    parts = spelled_out(path).parts
    last = parts[-1]
    return parts[-2] if _is_hr(last) and len(parts) > 2 else last


def spelled_out(path: Path) -> Path:
    """Absolute, without ``..``: names of sets and models become those of folders."""
    return Path(os.path.normpath(path.absolute()))


def some(names: Sequence[str]) -> str:
    """The first few, and that there are more."""
    return ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
