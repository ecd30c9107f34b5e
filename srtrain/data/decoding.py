"""From files to pixels: look at every image, then decode each straight into its place."""

from __future__ import annotations

import functools
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash

from srtrain.data.collection import Survey
from srtrain.data.parallel import HEADERS_PER_PROCESS, parallel
from srtrain.errors import SrtrainError
from srtrain.files import begin_to_sync

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from srtrain.data.collection import Collection

RECORD = struct.Struct("<QQ32s")
"""A line of the journal: number of a decoded image, XXH3 of its pixels, its digest."""
WAITING = 2**24
"""Bytes that are decoded before the disk begins with them, so that little is left for the end.

Where the disk is slower than the decoders, beginning waits for it as the end would.
"""
UNREADABLE = "unreadable"
"""Stands for the digest of a file that cannot be read."""


class Decoded(NamedTuple):
    """What became of an image: XXH3 of its pixels, its digest; ``fault``: why it has none."""

    checksum: int
    digest: str
    fault: str = ""


def survey_all(collection: Collection, *, progress: bool) -> list[Survey | str]:
    """Sizes of every image by its header, or why that cannot be read."""
    count = len(collection.names)
    found: list[Survey | str] = [""] * count
    work = functools.partial(_survey, collection)
    looking = parallel(
        work, range(count), title="looking", progress=progress, per_process=HEADERS_PER_PROCESS
    )
    for index, result in looking:
        found[index] = result
    return found


def digest_all(
    collection: Collection, surveys: Sequence[Survey | str], *, progress: bool
) -> list[str]:
    """The content hash of every image whose header could be read."""
    digests = [UNREADABLE] * len(surveys)
    todo = [index for index, item in enumerate(surveys) if isinstance(item, Survey)]
    work = functools.partial(_digest, collection)
    for index, digest in parallel(work, todo, title="reading", progress=progress):
        digests[index] = digest
    return digests


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
) -> tuple[list[str], dict[int, str]]:
    """Fill ``pixels`` with every readable image; returns digests, and why others are not there.

    ``journal`` records what is done, so that a build which was killed continues where it was:
    images whose pixels still match their checksum are not decoded again.
    """
    shapes, offsets = places(surveys, collection.sides)
    with pixels.open("ab") as stream:
        stream.truncate(int((shapes.prod(axis=2) * 3).sum()))
    done = _verified(journal, pixels, shapes, offsets)
    todo = [i for i, item in enumerate(surveys) if isinstance(item, Survey) and i not in done]
    work = functools.partial(_decode_into, collection, pixels, shapes, offsets)
    digests = [done.get(index, UNREADABLE) for index in range(len(surveys))]
    failed, waiting = {}, 0
    with journal.open("ab") as stream, pixels.open("rb") as written:
        for index, found in parallel(work, todo, title="decoding", progress=progress):
            digests[index] = found.digest
            if found.fault:
                failed[index] = found.fault
                continue
            stream.write(RECORD.pack(index, found.checksum, bytes.fromhex(found.digest)))
            stream.flush()
            waiting += int(shapes[index].prod(axis=1).sum()) * 3
            if waiting >= WAITING:
                begin_to_sync(written.fileno())
                waiting = 0
        os.fsync(written.fileno())
    return digests, failed


def _survey(collection: Collection, index: int) -> Survey | str:
    try:
        return collection.survey(index)
    except (SrtrainError, OSError, ValueError) as error:
        return _reason(error)


def _decode_into(
    collection: Collection, pixels: Path, shapes: np.ndarray, offsets: np.ndarray, index: int
) -> Decoded:
    found = _decoded(collection, index, shapes[index].tolist())
    if isinstance(found, str):
        return Decoded(0, _digest(collection, index), found)
    sides, digest = found
    total = 0
    for side, image in enumerate(sides):
        content = np.ascontiguousarray(image).data.cast("B")
        total = xxhash.xxh3_64_intdigest(content, total)
        _write_at(pixels, int(offsets[index, side]), content)
    return Decoded(total, digest)


def _digest(collection: Collection, index: int) -> str:
    try:
        return collection.digest(index)
    except (SrtrainError, OSError, ValueError):
        return UNREADABLE


def _fault(collection: Collection, index: int) -> str:
    survey = _survey(collection, index)
    if isinstance(survey, str):
        return survey
    found = _decoded(collection, index, survey.shapes)
    return found if isinstance(found, str) else ""


def _decoded(
    collection: Collection, index: int, shapes: Sequence[Sequence[int]]
) -> tuple[tuple[np.ndarray, ...], str] | str:
    try:
        sides, digest = collection.decode_hashed(index)
    except MemoryError:
        raise
    except Exception as error:  # decoders fail in many ways; each is listed with its file
        return _reason(error)
    for image, (height, width) in zip(sides, shapes, strict=True):
        if image.shape != (height, width, 3) or image.dtype != np.uint8:
            return f"decodes to {image.dtype} {image.shape}, its header says {width}x{height}"
    return sides, digest


def _write_at(path: Path, offset: int, content: memoryview) -> None:
    with path.open("r+b", buffering=0) as stream:
        stream.seek(offset)
        while content:
            content = content[stream.write(content) :]


def _verified(
    journal: Path, pixels: Path, shapes: np.ndarray, offsets: np.ndarray
) -> dict[int, str]:
    """Digests of what ``pixels`` holds undamaged."""
    if not journal.exists():
        return {}
    content = journal.read_bytes()
    whole = content[: len(content) - len(content) % RECORD.size]
    starts = offsets[:, 0]
    lengths = shapes.prod(axis=2) * 3
    done = {}
    with pixels.open("rb") as stream:
        for index, total, digest in RECORD.iter_unpack(whole):
            stream.seek(int(starts[index]))
            found = 0
            for length in lengths[index].tolist():
                found = xxhash.xxh3_64_intdigest(stream.read(length), found)
            if found == total:
                done[index] = digest.hex()
    return done


def _reason(error: Exception) -> str:
    if isinstance(error, SrtrainError):
        return error.what
    return f"{type(error).__name__}: {error}"
