"""Where an export goes: decided, and refused, before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from srtrain.errors import ConfigError, StorageError
from srtrain.images import shown

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx"}


class Places(NamedTuple):
    """The model's file and the card beside it."""

    model: Path
    card: Path


def places(output: Path | None, name: str, kind: str, *, overwrite: bool) -> Places:
    """``output`` is a file of that kind, a folder, or None: the working folder.

    ``name``: of the file, where ``output`` does not say it.

    Raises: ConfigError if the file exists and ``overwrite`` is false, or if ``output`` has another
    suffix.
    """
    suffix = SUFFIXES[kind]
    model = (output or Path()) / f"{name}{suffix}" if is_folder(output) else Path(str(output))
    if model.suffix != suffix:
        raise ConfigError(
            f"--to {kind} writes {suffix} files", where=f"-o {output}", fix=f"name it *{suffix}"
        )
    if model.is_dir() or (model.exists() and not overwrite):
        raise ConfigError("the output exists", where=shown(model), fix="--overwrite replaces it")
    return Places(model, model.with_suffix(".md"))


def is_folder(output: Path | None) -> bool:
    """Whether the file's name is still open."""
    return output is None or output.is_dir() or not output.suffix


def make_folder(path: Path) -> None:
    """Raises: StorageError if there cannot be such a folder."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot be made: {error.strerror or error}", where=shown(path), fix="another -o"
        ) from error
