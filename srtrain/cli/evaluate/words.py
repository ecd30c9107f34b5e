"""What a MODEL on the command line is, and what it is called, without importing torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from srtrain.cli.evaluate.sets import spelled_out, split_name
from srtrain.config.nearest import did_you_mean, nearest
from srtrain.errors import ConfigError, DataError, StorageError
from srtrain.images import list_images, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

CLASSIC = ("bicubic", "lanczos", "nearest")
BICUBIC = CLASSIC[0]
Kind = Literal["classic", "network", "finished"]
_STEP = re.compile(r"step-(\d+)\.ckpt")
_DATED = re.compile(r"\d{4}-\d\d-\d\d_.*|slurm-\d.*")


@dataclass(frozen=True)
class Named:
    """One model: ``place`` is a file, a run folder, a folder of images, or a classic's word."""

    name: str
    kind: Kind
    place: Path
    run: Path | None = None  # the run folder that it comes from


@dataclass(frozen=True)
class _Found:
    """A model and what it may be called, the shortest first."""

    names: tuple[str, ...]
    kind: Kind
    place: Path
    run: Path | None = None


def name_models(
    words: Sequence[str],
    *,
    sets: Sequence[str] = (),
    every_checkpoint: bool = False,
    baseline: bool = True,
) -> list[Named]:
    """The models that ``[NAME=]MODEL`` words mean, each by a name of its own.

    ``every_checkpoint``: a run folder means all of its checkpoints. ``baseline``: bicubic comes
    last where nobody named it. ``sets``: folders of SR images that are called so are named after
    the folder around them.

    Raises: StorageError, DataError for what is not there; ConfigError for two of one name,
        or where ``every_checkpoint`` has no run folder to mean.
    """
    found = [one for word in words for one in _found(word, sets, every_checkpoint)]
    places = [Path(split_name(word)[1]).expanduser() for word in words]
    if every_checkpoint and not any(map(_checkpoints, places)):
        fix = "give the run folder, not a file of it; or leave it out"
        raise ConfigError("no MODEL is a run folder", where="--every-checkpoint", fix=fix)
    if baseline and not any(one.place == Path(BICUBIC) for one in found):
        found.append(_Found((BICUBIC,), "classic", Path(BICUBIC)))
    return [
        Named(name, one.kind, one.place, one.run)
        for name, one in zip(_distinct(found), found, strict=True)
    ]


def _found(word: str, sets: Sequence[str], every_checkpoint: bool) -> list[_Found]:
    name, place = split_name(word)
    names = (name,) if name else ()
    path = Path(place).expanduser()
    if place in CLASSIC and not path.exists():
        return [_Found(names or (place,), "classic", Path(place))]
    if not path.exists():
        guess = did_you_mean(nearest(place, CLASSIC), f"or one of {', '.join(CLASSIC)}")
        raise StorageError("no such model", where=shown(path), fix=f"check the path; {guess}")
    if path.is_file():
        return [_file(path, names)]
    checkpoints = _checkpoints(path)
    if not checkpoints:
        if not list_images(path):
            fix = "give a run folder, a model file, or a folder of SR images"
            raise DataError("neither checkpoints nor images here", where=shown(path), fix=fix)
        titled = spelled_out(path).parent if spelled_out(path).name in sets else path
        return [_Found(names or _longer(titled), "finished", path)]
    run = path.parent if path.name == "checkpoints" else path
    titles = names or _of_run(run)
    if not every_checkpoint:
        return [_Found(titles, "network", path, run)]
    return [
        _Found(tuple(f"{title}/{_step(file)}" for title in titles), "network", file, run)
        for file in checkpoints
    ]


def _file(path: Path, names: tuple[str, ...]) -> _Found:
    inside = spelled_out(path).parent
    run = inside.parent if inside.name == "checkpoints" else None
    if names or run is None:
        return _Found(names or _longer(path.with_suffix("")), "network", path, run)
    if _STEP.fullmatch(path.name):
        titles = tuple(f"{title}/{_step(path)}" for title in _of_run(run))
        return _Found(titles, "network", path, run)
    return _Found(_of_run(run), "network", path, run)


def _of_run(run: Path) -> tuple[str, ...]:
    """``outputs/mse/2026-01-01_12-00-00`` is ``mse`` unless there are several."""
    longer = _longer(run)
    dated = len(longer) > 1 and _DATED.fullmatch(longer[0])
    return (spelled_out(run).parent.name, *longer[1:]) if dated else longer


def _longer(path: Path) -> tuple[str, ...]:
    """The last part of a path, the last two and so on, up to all of it."""
    parts = spelled_out(path).parts[1:] or (path.name,)
    return tuple("/".join(parts[-length:]) for length in range(1, len(parts) + 1))


def _distinct(found: Sequence[_Found]) -> list[str]:
    lengths = [0] * len(found)
    while True:
        names = [one.names[length] for one, length in zip(found, lengths, strict=True)]
        alike = [index for index, name in enumerate(names) if names.count(name) > 1]
        if not alike:
            return names
        grown = [index for index in alike if lengths[index] + 1 < len(found[index].names)]
        if not grown:
            raise _of_one_name([one for one in found if one.names[-1] == names[alike[0]]])
        for index in grown:
            lengths[index] += 1


def _of_one_name(found: Sequence[_Found]) -> ConfigError:
    places = list(dict.fromkeys(os.path.normpath(one.place) for one in found))
    if len({spelled_out(one.place) for one in found}) == 1:
        return ConfigError("the same model twice", where=places[0], fix="give it once")
    what = f"two models are called {found[0].names[0]}"
    return ConfigError(what, where=", ".join(places), fix="name them: NAME=MODEL")


def _checkpoints(folder: Path) -> list[Path]:
    """Oldest first."""
    inside = folder / "checkpoints"
    files = (inside if inside.is_dir() else folder).glob("step-*.ckpt")
    return sorted((file for file in files if _STEP.fullmatch(file.name)), key=_step)


def _step(path: Path) -> int:
    named = _STEP.fullmatch(path.name)
    return int(named[1]) if named else -1
