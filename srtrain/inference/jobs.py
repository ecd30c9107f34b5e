"""Where each file goes: decided before anything is computed."""

from __future__ import annotations

import glob
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from srtrain.errors import ConfigError, DataError, StorageError
from srtrain.files import HeldError, held, remove_leftovers
from srtrain.images import WRITABLE_SUFFIXES, list_images, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LISTED = 10  # names in an error; the rest is counted
_LOCK = ".srtrain-infer.lock"
Existing = Literal["refuse", "replace", "keep"]


@dataclass(frozen=True)
class Job:
    """One image, and the file that its larger form becomes.

    Of ``samples`` (0: none, one image) each is a file, ``target`` with ``_sample0`` … before its
    suffix; of two and more there are their ``_mean`` and ``_spread.png``, and with ``values``
    ``_spread.npy``.
    """

    source: Path
    target: Path
    samples: int = 0
    values: bool = False

    def beside(self, word: str, suffix: str = "") -> Path:
        """``target``, its name followed by ``_word``, its suffix replaced by a given one."""
        return self.target.with_name(f"{self.target.stem}_{word}{suffix or self.target.suffix}")

    @property
    def files(self) -> list[Path]:
        """All that is written for this image, in the order in which it is."""
        if not self.samples:
            return [self.target]
        found = [self.beside(f"sample{number}") for number in range(self.samples)]
        if self.samples > 1:
            found += [self.beside("mean"), self.beside("spread", ".png")]
            found += [self.beside("spread", ".npy")] * self.values
        return found

    @property
    def further(self) -> list[Path]:
        """What an earlier call with more samples has left, which would stand beside these files."""
        found, number = [], self.samples
        while self.samples and self.beside(f"sample{number}").exists():
            found.append(self.beside(f"sample{number}"))
            number += 1
        of_several = [self.beside("mean"), self.beside("spread", ".png")] * (self.samples == 1)
        return found + [file for file in of_several if file.exists()]


def plan(
    inputs: Sequence[str],
    output: Path,
    *,
    existing: Existing = "refuse",
    samples: int = 0,
    values: bool = False,
) -> list[Job]:
    """What goes where, decided and checked before anything is computed.

    Folders are searched at any depth and mirrored below ``output``, and so is what a glob finds
    below its fixed part; single files go directly into it. Names stay; formats that cannot be
    written (GIF, PPM …) become .png. One file with an ``output`` that has an image's suffix is
    written just there.

    Outputs that exist are refused, replaced, or kept: then there is no job for an image whose files
    are all there. ``samples`` and ``values`` as in ``Job``.

    Raises: DataError if an input does not exist or holds no images; ConfigError if an output
    would replace an input, two inputs want one output, outputs exist and are refused, or samples
    beyond these exist.
    """
    named = len(inputs) == 1 and Path(inputs[0]).is_file() and _names_an_image(output)
    if output.exists() and not output.is_dir() and not named:
        raise ConfigError("-o must be a folder", where=shown(output), fix="another -o")
    if named:
        found = [Job(Path(inputs[0]), output)]
    else:
        found = list(dict.fromkeys(job for text in inputs for job in _jobs_of(text, output)))
    found = [replace(job, samples=samples, values=values) for job in found]
    _refuse_lost_inputs(found)
    _refuse_collisions(found)
    _refuse_further(found, output)
    return _without_existing(found, output, existing)


@contextmanager
def alone(jobs: Sequence[Job], output: Path, *, existing: Existing = "refuse") -> Iterator[None]:
    """Hold ``output`` for this process while it does ``jobs``; a killed run's torsos are removed.

    Raises: ConfigError naming the process that has it, or if outputs came into being since
    ``plan``; StorageError if the folder cannot be written to.
    """
    named = bool(jobs) and jobs[0].target == output
    lock = output.with_name(f".{output.name[:200]}.lock") if named else output / _LOCK
    with ExitStack() as stack:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(lock))
            stack.callback(lock.unlink, missing_ok=True)
            remove_leftovers(file for job in jobs for file in job.files)
        except HeldError as error:
            what = f"{error} is writing there"
            raise ConfigError(
                what, where=shown(output), fix="wait for it, or another -o"
            ) from error
        except OSError as error:
            what = f"cannot write: {error.strerror or error}"
            raise StorageError(what, where=shown(output), fix="another -o") from error
        _without_existing(jobs, output, existing)
        yield


def _without_existing(jobs: Sequence[Job], output: Path, existing: Existing) -> list[Job]:
    wanted = [file for job in jobs for file in job.files]
    made = [file for file in wanted if existing != "replace" and file.exists()]
    if made and existing == "refuse":
        what = f"{len(made)} of {len(wanted)} outputs exist: {_some(made)}"
        fix = "another -o, --continue to make only the others, or --overwrite"
        raise ConfigError(what, where=shown(output), fix=fix)
    kept = set(made)
    return [job for job in jobs if not kept.issuperset(job.files)]


def _names_an_image(output: Path) -> bool:
    return output.suffix.lower() in WRITABLE_SUFFIXES and not output.is_dir()


def _jobs_of(text: str, output: Path) -> list[Job]:
    path = Path(text)
    if path.is_dir():
        return _mirrored(_outside(list_images(path), output, path), path, output)
    if path.exists():
        return _mirrored([path], path.parent, output)
    if not glob.has_magic(text):
        raise DataError("no such file or folder", where=shown(path), fix="check the spelling")
    matches = sorted(Path(match) for match in glob.glob(text, recursive=True))  # noqa: PTH207 - may be absolute
    files = [match for match in matches if match.is_file()]
    if not files:
        raise DataError("no file matches", where=text, fix="check the pattern")
    return _mirrored(_outside(files, output, path), _fixed_part(path), output)


def _mirrored(files: list[Path], root: Path, output: Path) -> list[Job]:
    return [Job(file, output / _written_name(file.relative_to(root))) for file in files]


def _outside(files: list[Path], output: Path, where: Path) -> list[Path]:
    """Without what lies in the output folder: an earlier run's results are no inputs."""
    folder = output.resolve()
    searched = where.resolve()
    inside = folder != searched and folder.is_relative_to(searched)
    kept = [f for f in files if not (inside and f.resolve().is_relative_to(folder))]
    if not kept:
        raise DataError("no images found", where=shown(where), fix="check the folder")
    return kept


def _fixed_part(pattern: Path) -> Path:
    fixed = Path(pattern.anchor)
    for part in pattern.parts[len(fixed.parts) : -1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


def _written_name(name: Path) -> Path:
    return name if name.suffix.lower() in WRITABLE_SUFFIXES else name.with_suffix(".png")


def _refuse_lost_inputs(jobs: list[Job]) -> None:
    sources = {job.source.resolve() for job in jobs}
    lost = [file for job in jobs for file in job.files if file.resolve() in sources]
    if lost:
        what = f"{len(lost)} outputs would replace inputs: {_some(lost)}"
        raise ConfigError(what, fix="give another folder as -o")


def _refuse_collisions(jobs: list[Job]) -> None:
    wanted: dict[Path, list[Path]] = {}
    for job in jobs:
        for file in job.files:
            wanted.setdefault(file, []).append(job.source)
    clashes = [sources for sources in wanted.values() if len(sources) > 1]
    if clashes:
        names = "; ".join(" and ".join(map(shown, sources)) for sources in clashes[:_LISTED])
        what = f"{len(clashes)} outputs are wanted twice: {names}"
        raise ConfigError(what, fix="run them apart, or give their common folder")


def _refuse_further(jobs: list[Job], output: Path) -> None:
    if further := [file for job in jobs for file in job.further]:
        what = f"{len(further)} files of an earlier call with more samples: {_some(further)}"
        fix = "another -o, as many samples as there, or remove them"
        raise ConfigError(what, where=shown(output), fix=fix)


def _some(paths: list[Path]) -> str:
    names = ", ".join(map(shown, paths[:_LISTED]))
    return names if len(paths) <= _LISTED else f"{names} and {len(paths) - _LISTED} more"
