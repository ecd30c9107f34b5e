"""From files to pixels: look at every image, then decode each straight into its place."""

from __future__ import annotations

import functools
import os
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from srtrain.data.collection import Survey
from srtrain.data.parallel import parallel
from srtrain.errors import SrtrainError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from srtrain.data.collection import Collection

RECORD = struct.Struct("<QI")
"""A line of the journal: number of a decoded image, CRC-32 of its pixels."""


def survey_all(collection: Collection, *, progress: bool) -> list[Survey | str]:
    """Sizes and content hash of every image, or why it cannot be read."""
    count = len(collection.names)
    found: list[Survey | str] = [""] * count
    work = functools.partial(_survey, collection)
    for index, result in parallel(work, range(count), title="reading", progress=progress):
        found[index] = result
    return found


def still_bad(collection: Collection, indices: Sequence[int], *, progress: bool) -> dict[int, str]:
    """Why these images cannot be read; those that now can are absent. Decodes, stores nothing."""
    work = functools.partial(_fault, collection)
    found = dict(parallel(work, indices, title="looking again", progress=progress))
    return {index: found[index] for index in indices if found[index]}


def places(surveys: Sequence[Survey | str], sides: int) -> tuple[np.ndarray, np.ndarray]:
    """``shapes`` (N, sides, 2) and ``offsets`` (N, sides) in the flat file; empty if unreadable."""
    nothing = ((0, 0),) * sides
    shapes = np.array(
        [item.shapes if isinstance(item, Survey) else nothing for item in surveys], np.int64
    ).reshape(-1, sides, 2)
    ends = (shapes.prod(axis=2) * 3).cumsum()
    return shapes, np.concatenate([[0], ends[:-1]]).reshape(-1, sides)


def decode_all(
    collection: Collection,
    surveys: Sequence[Survey | str],
    pixels: Path,
    journal: Path,
    *,
    progress: bool,
) -> dict[int, str]:
    """Fill ``pixels`` with every readable image; returns why the others could not be decoded.

    ``journal`` records what is done, so that a build which was killed continues where it was:
    images whose pixels still match their checksum are not decoded again.
    """
    shapes, offsets = places(surveys, collection.sides)
    with pixels.open("ab") as stream:
        stream.truncate(int((shapes.prod(axis=2) * 3).sum()))
    done = _verified(journal, pixels, shapes, offsets)
    todo = [i for i, item in enumerate(surveys) if isinstance(item, Survey) and i not in done]
    work = functools.partial(_decode_into, collection, pixels, shapes, offsets)
    failed = {}
    with journal.open("ab") as stream:
        for index, result in parallel(work, todo, title="decoding", progress=progress):
            if isinstance(result, str):
                failed[index] = result
            else:
                stream.write(RECORD.pack(index, result))
                stream.flush()
    with pixels.open("rb") as stream:
        os.fsync(stream.fileno())
    return failed


def _survey(collection: Collection, index: int) -> Survey | str:
    try:
        return collection.survey(index)
    except (SrtrainError, OSError, ValueError) as error:
        return _reason(error)


def _decode_into(
    collection: Collection, pixels: Path, shapes: np.ndarray, offsets: np.ndarray, index: int
) -> int | str:
    sides = _decoded(collection, index, shapes[index].tolist())
    if isinstance(sides, str):
        return sides
    checksum = 0
    for side, image in enumerate(sides):
        content = np.ascontiguousarray(image).data.cast("B")
        checksum = zlib.crc32(content, checksum)
        _write_at(pixels, int(offsets[index, side]), content)
    return checksum


def _fault(collection: Collection, index: int) -> str:
    survey = _survey(collection, index)
    if isinstance(survey, str):
        return survey
    sides = _decoded(collection, index, survey.shapes)
    return sides if isinstance(sides, str) else ""


def _decoded(
    collection: Collection, index: int, shapes: Sequence[Sequence[int]]
) -> tuple[np.ndarray, ...] | str:
    try:
        sides = collection.decode(index)
    except MemoryError:
        raise
    except Exception as error:  # decoders fail in many ways; each is listed with its file
        return _reason(error)
    for image, (height, width) in zip(sides, shapes, strict=True):
        if image.shape != (height, width, 3) or image.dtype != np.uint8:
            return f"decodes to {image.dtype} {image.shape}, its header says {width}x{height}"
    return sides


def _write_at(path: Path, offset: int, content: memoryview) -> None:
    with path.open("r+b", buffering=0) as stream:
        stream.seek(offset)
        while content:
            content = content[stream.write(content) :]


def _verified(journal: Path, pixels: Path, shapes: np.ndarray, offsets: np.ndarray) -> set[int]:
    if not journal.exists():
        return set()
    content = journal.read_bytes()
    whole = content[: len(content) - len(content) % RECORD.size]
    starts = offsets[:, 0]
    lengths = (shapes.prod(axis=2) * 3).sum(axis=1)
    done = set()
    with pixels.open("rb") as stream:
        for index, checksum in RECORD.iter_unpack(whole):
            stream.seek(int(starts[index]))
            if zlib.crc32(stream.read(int(lengths[index]))) == checksum:
                done.add(index)
    return done


def _reason(error: Exception) -> str:
    if isinstance(error, SrtrainError):
        return error.what
    return f"{type(error).__name__}: {error}"
