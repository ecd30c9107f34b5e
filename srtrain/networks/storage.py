"""The checkpoint file: one torch zip of plain tensors and JSON types, whole or absent.

Keys: ``format`` (1), ``generator`` {``_target_``, ``kwargs``}, ``scale``, ``step``, ``state_dict``
(bare keys of the generator's network; the EMA where there is one), ``train_state`` (all that
resuming needs), ``protocol``, ``version``; of a generator that predicts more than an image also
``head`` {``_target_``, ``kwargs``} and its ``calibration``, made by the validation at its ``step``.
Read with ``weights_only=True`` alone, and believed only while every byte is what was written.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import torch
from safetensors.torch import load_file

from srtrain.errors import StorageError
from srtrain.files import read_json, sha256_of, write_atomic, write_json
from srtrain.networks.spec import refuse_unbuildable
from srtrain.networks.untrusted import refuse_bombs, refuse_claims

if TYPE_CHECKING:
    from collections.abc import Callable

FORMAT = 1
REQUIRED = ("format", "generator", "scale", "step", "state_dict")
POINTER = "last"
_FOLDER = 0x10  # of an entry's external attributes in a zip, as MS-DOS has it
log = logging.getLogger(__name__)
NAMED = re.compile(r"step-(\d+)\.ckpt")


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` to ``path`` atomically, then the pointer ``last`` beside it.

    Raises: StorageError naming the folder when the disk refuses; what was there before stays.
    """
    hashing = _Hashing()

    def save(stream: BinaryIO) -> None:
        hashing.stream = stream
        torch.save({"format": FORMAT, **content}, cast("BinaryIO", hashing))
        if hashing.refused is not None:
            raise hashing.refused

    try:
        write_atomic(path, save)
        digest = hashing.sha256.hexdigest()
        pointer = {"file": path.name, "step": content["step"], "sha256": digest}
        write_json(path.parent / POINTER, pointer)
    except OSError as error:
        raise StorageError(
            f"cannot save the checkpoint: {error.strerror or error}",
            where=str(path),
            fix="free some space or choose another run_dir; earlier checkpoints are untouched",
        ) from error


class _Hashing:
    """What torch writes goes to ``stream`` and into a SHA-256.

    Of what a disk refuses torch makes an error of its own that does not say why. So the first
    refusal is kept, nothing is written after it, and torch hears of none.
    """

    stream: BinaryIO

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()
        self.refused: OSError | None = None

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        if self.refused is None:
            try:
                self.stream.write(data)
            except OSError as error:
                self.refused = error
        return len(data)

    def flush(self) -> None:
        """Nothing: whoever opened the stream flushes it."""


def is_own_checkpoint(content: object) -> bool:
    """Whether a loaded file is a checkpoint of this project (of any format number)."""
    return isinstance(content, dict) and all(key in content for key in REQUIRED)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of an own checkpoint, tensors on the CPU.

    Raises: StorageError when the file is missing, torn, changed, unsafe, or no checkpoint of ours.
    """
    content = load_tensors(path)
    if not is_own_checkpoint(content):
        raise StorageError(
            "not a srtrain checkpoint", where=str(path), fix="give a step-*.ckpt or a run folder"
        )
    return own_content(content, path)


def own_content(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """``content`` of an own checkpoint, if this srtrain reads its format and no byte has changed.

    Raises: StorageError for another format number, for a file that is not as it was written, and
        for one that names no network.
    """
    if content["format"] != FORMAT:
        raise StorageError(
            f"checkpoint format {content['format']}, this srtrain reads {FORMAT}",
            where=str(path),
            fix="use the srtrain version that wrote it",
        )
    if not _as_written(path):
        raise StorageError(
            "damaged file: its content has changed since it was written",
            where=str(path),
            fix="copy it again, or take an earlier checkpoint",
        )
    refuse_unbuildable(content, path)
    return dict(content)


def _as_written(path: Path) -> bool:
    """Whether the SHA-256 in the pointer holds, or else every entry's CRC-32.

    torch checks neither. The pointer may be of the file's earlier content: a kill comes between.
    """
    if _recorded(path.parent / POINTER, only=path) is not None:
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            # What is marked as a folder torch reads as zeros.
            marked = any(entry.external_attr & _FOLDER for entry in archive.infolist())
            return not marked and archive.testzip() is None
    except (OSError, ValueError, NotImplementedError, EOFError, zlib.error, zipfile.BadZipFile):
        return False


def load_tensors(path: Path) -> Any:  # noqa: ANN401 - whatever a torch file holds
    """A safetensors file, or ``torch.load`` with ``weights_only=True``; failures told apart.

    Raises: StorageError for a missing, unreadable, empty, truncated, HTML or git-LFS file, or a
    pickle that asks for more than tensors.
    """
    if not path.is_file():
        raise StorageError("no such file", where=str(path), fix="check the path")
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
        raise StorageError(what, where=str(path), fix="check its permissions") from error
    reason = _not_weights(path, head)
    if reason:
        raise StorageError(reason[0], where=str(path), fix=reason[1])
    try:
        if is_safetensors(path):
            return load_file(path)
        with warnings.catch_warnings():
            for noise in ("Detected pickle protocol", "Validating sparse tensor invariants"):
                warnings.filterwarnings("ignore", message=noise)
            refuse_bombs(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
            refuse_claims(content, path)
            return content
    except StorageError:
        raise
    except pickle.UnpicklingError as error:
        # torch's own message recommends weights_only=False: only what it found is passed on.
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        asked = f": it asks for {found[1]}" if found else ""
        raise StorageError(
            f"unsafe or broken pickle{asked}",
            where=str(path),
            fix="nothing was executed; ask for a file that holds plain tensors, or .safetensors",
        ) from error
    except Exception as error:  # a changed byte can make the readers raise anything
        raise StorageError(
            "truncated or damaged file", where=str(path), fix="download or copy it again"
        ) from error


def is_safetensors(path: Path) -> bool:
    """By its name, or, whatever it is named, by the JSON after its length."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as stream:
        return stream.read(10)[8:] == b'{"'


def _not_weights(path: Path, head: bytes) -> tuple[str, str] | None:
    if path.suffix == ".onnx":
        return "an ONNX program, not weights", "give the checkpoint that it was made from"
    if not head:
        return "empty file", "download or copy it again"
    if head.startswith(b"version https://git-lfs"):
        return "a git-LFS pointer, not the file itself", "run `git lfs pull` where it came from"
    if head.lstrip().lower().startswith((b"<!", b"<html", b"<?xml")):
        return "an HTML page, not weights", "download the raw file"
    return None


def resolve(path: Path) -> Path:
    """The checkpoint file that ``path`` means: a file, the pointer ``last``, or a run folder.

    Raises: StorageError when nothing valid is found.
    """
    if path.is_dir():
        found = newest_valid(path)
        if found is None:
            raise StorageError(
                "no valid checkpoint in this folder", where=str(path), fix="give another run folder"
            )
        return found
    if path.name == POINTER and path.is_file():
        return _recorded(path) or resolve(path.parent)
    if not path.is_file():
        raise StorageError("no such file or folder", where=str(path), fix="check the path")
    return path


def newest_valid(run_dir: Path) -> Path | None:
    """The checkpoint with the highest step that loads, below ``run_dir``; None without any."""
    found = read_newest(run_dir)
    return None if found is None else found[0]


def read_newest(
    run_dir: Path, *, passed_over: Callable[[StorageError], None] | None = None
) -> tuple[Path, dict[str, Any]] | None:
    """That checkpoint and its content.

    Torn and wrong files are passed over, each with its reason to ``passed_over``, or else to the
    log: names carry the step, content decides, times of files mean nothing.
    """
    folder = run_dir / "checkpoints" if (run_dir / "checkpoints").is_dir() else run_dir
    for path in reversed(by_step(folder)):
        try:
            return path, read_checkpoint(path)
        except StorageError as error:
            if passed_over is None:
                log.warning("passed over %s: %s", path.name, error.what)
            else:
                passed_over(error)
    return None


def is_valid(path: Path) -> bool:
    """Whether this is a whole checkpoint that can be read."""
    try:
        read_checkpoint(path)
    except StorageError:
        return False
    return True


def checkpoint_name(step: int) -> str:
    """``step-000123.ckpt``; from a million on one digit more."""
    return f"step-{step:06d}.ckpt"


def step_of(path: Path) -> int:
    """The step that a checkpoint's name says; -1 of any other file."""
    named = NAMED.fullmatch(path.name)
    return int(named[1]) if named else -1


def by_step(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first."""
    return sorted((p for p in folder.glob("step-*.ckpt") if step_of(p) >= 0), key=step_of)


def _recorded(pointer: Path, *, only: Path | None = None) -> Path | None:
    """The file that the pointer ``last`` names, if it is there and has the recorded content.

    ``only`` of this file is asked; others are not read.
    """
    try:
        content = read_json(pointer)
        path = pointer.parent / Path(content["file"]).name
        asked = only in (None, path)
        return path if asked and sha256_of(path) == content["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
