"""Trainings that belong together: each in a folder, trained once, continued by the same command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from srtrain.errors import ConfigError, SrtrainError, StorageError
from srtrain.files import read_json, write_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from omegaconf import DictConfig


@dataclass(frozen=True)
class Arm:
    """One training: what it is called in tables, its folder, and the words that it is.

    ``begin``: words that say from what, beside ``words``; what they name may yet be to be trained.
    """

    name: str
    folder: Path
    words: list[str]
    begin: tuple[str, ...] = ()


def trained(arms: Sequence[Arm], record: Path) -> dict[str, list[str]]:
    """FOLDER → words, of what lies there and of ``arms``.

    Raises: ConfigError where a folder was trained with other words; StorageError.
    """
    try:
        before = dict(read_json(record)) if record.exists() else {}
    except (OSError, ValueError) as error:
        raise StorageError(
            f"cannot be read: {error}", where=str(record), fix="another -o"
        ) from error
    for arm in arms:
        words = before.setdefault(arm.folder.name, arm.words)
        if words != arm.words:
            what = f"trained before with other words: {' '.join(words)}"
            raise ConfigError(what, where=str(arm.folder), fix="another -o")
    return before


def write_record(record: Path, words: dict[str, list[str]]) -> None:
    """What `trained` reads. Raises: StorageError."""
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, words)
    except OSError as error:
        what = f"cannot write: {error.strerror or error}"
        raise StorageError(what, where=str(record), fix="another -o") from error


def compose(arms: Sequence[Arm]) -> list[DictConfig]:
    """What each trains, before anything does.

    Raises: RefusedError with the problems of all.
    """
    from srtrain.config.preflight import prepare
    from srtrain.config.problems import RefusedError, refuse

    composed: list[DictConfig] = []
    problems: dict[str, SrtrainError] = {}
    for arm in arms:
        try:
            composed.append(prepare([*arm.words, *map(_standing_in, arm.begin)]).config)
        except RefusedError as error:
            problems |= {str(problem): problem for problem in error.problems}
    refuse([*problems.values()])
    return composed


def _standing_in(word: str) -> str:
    """A path that exists for one that will: rules ask whether there is one."""
    key, _, value = word.partition("=")
    return word if value in {"true", "false"} else f"{key}=."


def look_at_data(options: argparse.Namespace, *, scale: int) -> None:
    """What is evaluated at the end must be there at the beginning.

    Raises: DataError, ConfigError, StorageError.
    """
    from srtrain.cli.evaluate.sets import open_sets

    open_sets(options.data, scale=scale)
    if options.features is not None and not options.features.is_file():
        what, fix = "no such file", "give the backbone of --lpips NET"
        raise StorageError(what, where=str(options.features), fix=fix)


def train(arm: Arm, *, steps: int) -> int:
    """The exit code of the training, if it has not trained and measured all ``steps`` before."""
    if _finished(arm.folder, steps):
        print(f"{arm.name}: trained before ({arm.folder})", flush=True)
        return 0
    return start_training(arm)


def start_training(arm: Arm) -> int:
    """As `srtrain` of these words."""
    from srtrain.cli import main as program

    print(f"\n{arm.name}", flush=True)
    return program.main([*arm.words, *arm.begin, f"run_dir={arm.folder}"])


def _finished(folder: Path, steps: int) -> bool:
    path = folder / "summary.json"
    if not path.exists():
        return False
    summary = read_json(path)
    return bool(summary["generator_steps"] >= steps and summary["val_step"] >= steps)


def measures(options: argparse.Namespace, *, scale: int) -> list[str]:
    """The words of `srtrain evaluate` that say on what and by what is measured."""
    words = ["--scale", str(scale), "--data", *options.data]
    for flag in ("lpips", "features", "dists", "device"):
        if (value := getattr(options, flag)) is not None:
            words += [f"--{flag}", str(value)]
    return words + [word for package in options.trust for word in ("--trust", package)]
