"""Decode every image once, into one flat file that all runs and processes share.

``<cache>/images/<content>/`` holds ``pixels.u8`` and ``index.json``. ``<cache>/keys/<quick>.json``
remembers what content the names, sizes and times of some files stood for: a known folder opens
without reading a file but those that could not be read. ``<cache>/alike/`` remembers it for the
images' names and sizes in pixels: a folder that was moved, copied or touched is hashed but not
decoded again. What is like nothing known is read once, hashed and decoded from the same bytes.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import filelock
import numpy as np

from srtrain.data.collection import Survey, hashed
from srtrain.data.decoding import decode_all, digest_all, places, still_bad, survey_all
from srtrain.data.imageset import ImageSet, Store
from srtrain.errors import DataError, StorageError
from srtrain.files import cache_dir as default_cache_dir
from srtrain.files import read_json, sync_folder, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from srtrain.data.collection import Collection, Source

OnBad = Literal["error", "skip"]

FORMAT = 2
"""To be raised when the same files decode to other pixels, or the layout or the hashes change."""
SPARE_BYTES = 64 * 2**20
"""Left free on the disk for everybody else."""
LISTED = 10
"""So many offending files are named; the rest is counted."""

log = logging.getLogger(__name__)


def open_images(
    source: Source,
    *,
    cache_dir: Path | None = None,
    on_bad: OnBad = "error",
    progress: bool = True,
) -> ImageSet:
    """All images of a source, decoded now unless some run has done it before.

    Safe when several processes open the same source at once: one builds, the others wait.

    Raises: DataError listing every unreadable image (``on_bad="skip"`` leaves them out, counted);
        StorageError if the cache does not fit on the disk or cannot be written.
    """
    root = cache_dir or default_cache_dir()
    with _storage(root):
        stores = [
            (_open_store(part, root, on_bad=on_bad, progress=progress), repeat)
            for part, repeat in source.collections()
        ]
    bad = {path: reason for store, _ in stores for path, reason in store.bad.items()}
    count = len(bad) + sum(len(store.names) for store, _ in stores)
    if len(bad) == count or (bad and on_bad == "error"):
        raise _unreadable(bad, count)
    if bad:
        log.warning("%s: left out: %s", _unreadable(bad, count).what, _listed(bad))
    notes = {path: note for store, _ in stores for path, note in store.notes.items()}
    if notes:
        log.warning("%d of %d images lose something: %s", len(notes), count, _listed(notes))
    return ImageSet([(store, repeat) for store, repeat in stores if store.names])


def cached(
    collection: Collection, *, cache_dir: Path | None = None, progress: bool = True
) -> Store | None:
    """What `open_images` would open of a collection without decoding it; None if it is unknown.

    What could not be read is tried again, and nothing else: if it now can be, None.
    """
    root = cache_dir or default_cache_dir()
    with _storage(root):
        store = _read(root, _linked(_link(root, collection.quick_key())))
        return store and _as_bad_as_ever(collection, store, progress=progress)


def _open_store(collection: Collection, root: Path, *, on_bad: OnBad, progress: bool) -> Store:
    store = cached(collection, cache_dir=root, progress=progress)
    if store is not None:
        return store
    quick = collection.quick_key()
    with _locked(root, quick):
        store = cached(collection, cache_dir=root, progress=progress)
        if store is not None:
            return store
        surveys = survey_all(collection, progress=progress)
        links = [_link(root, quick), _link_alike(root, collection, surveys)]
        if _linked(links[1]):
            digests = digest_all(collection, surveys, progress=progress)
            store = _read(root, _content(collection, digests))
            store = store and _as_bad_as_ever(collection, store, progress=progress)
        if store is None:
            partial = root / "images" / f"{hashed([FORMAT, quick])}.partial"
            content = _build(collection, surveys, partial, on_bad, progress=progress)
            store = _read(root, content)
        if store is None:
            raise StorageError("a cache that was just written is gone", where=str(root))
        for link in links:
            link.parent.mkdir(exist_ok=True)
            write_json(link, {"content": store.digest})
    return store


def _content(collection: Collection, digests: list[str]) -> str:
    return hashed([FORMAT, list(collection.names), digests])


def _link(root: Path, quick: str) -> Path:
    return root / "keys" / f"{hashed([FORMAT, quick])}.json"


def _link_alike(root: Path, collection: Collection, surveys: list[Survey | str]) -> Path:
    shapes = [item.shapes if isinstance(item, Survey) else () for item in surveys]
    return root / "alike" / f"{hashed([FORMAT, list(collection.names), shapes])}.json"


def _linked(link: Path) -> str | None:
    try:
        return str(read_json(link)["content"])
    except (FileNotFoundError, ValueError, LookupError, TypeError):  # none, or damaged
        return None


def _as_bad_as_ever(collection: Collection, store: Store, *, progress: bool) -> Store | None:
    read = set(store.names)
    left_out = [index for index, name in enumerate(collection.names) if name not in read]
    bad = still_bad(collection, left_out, progress=progress)
    if len(bad) < len(left_out):
        return None
    return replace(store, bad={collection.where(index): why for index, why in bad.items()})


def _build(
    collection: Collection,
    surveys: list[Survey | str],
    partial: Path,
    on_bad: OnBad,
    *,
    progress: bool,
) -> str:
    """Decode all, beside the stores; returns the name of the one that it becomes."""
    partial.mkdir(parents=True, exist_ok=True)
    pixels, journal = partial / "pixels.u8", partial / "journal"
    shapes, offsets = places(surveys, collection.sides)
    _check_space(partial, int(shapes.prod(axis=2).sum()) * 3)
    failed = {index: item for index, item in enumerate(surveys) if isinstance(item, str)}
    digests, undecoded = decode_all(collection, surveys, pixels, journal, progress=progress)
    failed |= undecoded
    bad = {collection.where(index): failed[index] for index in sorted(failed)}
    if bad and on_bad == "error":
        shutil.rmtree(partial)
        raise _unreadable(bad, len(surveys))
    good = [index for index in range(len(surveys)) if index not in failed]
    index = {
        "bytes": pixels.stat().st_size,
        "names": [collection.names[i] for i in good],
        "shapes": shapes[good].tolist(),
        "offsets": offsets[good].tolist(),
        "bad": bad,
        "notes": {
            collection.where(i): item.note
            for i, item in enumerate(surveys)
            if i not in failed and isinstance(item, Survey) and item.note
        },
    }
    write_json(partial / "index.json", index)
    journal.unlink()
    content = _content(collection, digests)
    with _locked(partial.parent.parent, content):
        _put(partial, content, index["names"])
    return content


def _put(partial: Path, content: str, names: object) -> None:
    """Make it the store of this content, unless another process has just made as good a one."""
    root, folder = partial.parent.parent, partial.with_name(content)
    found = _read(root, content)
    if found is not None and found.names == names:
        shutil.rmtree(partial)
        return
    if folder.exists():  # damaged, or what it lacks can now be read
        shutil.rmtree(folder)
    partial.rename(folder)
    sync_folder(folder.parent)


def _read(root: Path, content: str | None) -> Store | None:
    if content is None:
        return None
    folder = root / "images" / content
    try:
        index = read_json(folder / "index.json")
        if (folder / "pixels.u8").stat().st_size != index["bytes"]:
            return None
        return Store(
            pixels=folder / "pixels.u8",
            digest=content,
            names=index["names"],
            shapes=np.array(index["shapes"], np.int64),
            offsets=np.array(index["offsets"], np.int64),
            bad=index["bad"],
            notes=index.get("notes", {}),
        )
    except (FileNotFoundError, ValueError, LookupError, TypeError):  # none, or damaged
        return None


@contextlib.contextmanager
def _storage(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"the cache of decoded images fails: {error.strerror or error}",
            where=str(error.filename or root),
            fix="set SRTRAIN_CACHE to a local, writable folder",
        ) from error


@contextlib.contextmanager
def _locked(root: Path, name: str) -> Iterator[None]:
    path = root / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=1)
    except filelock.Timeout:
        log.info("another process decodes these images; waiting for it (%s)", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _check_space(folder: Path, needed: int) -> None:
    kept = sum(path.stat().st_blocks * 512 for path in folder.iterdir())
    free = shutil.disk_usage(folder).free + kept
    if free < needed + SPARE_BYTES:
        raise StorageError(
            f"decoded images need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
            where=str(folder.parent.parent),
            fix="make room, or set SRTRAIN_CACHE to a larger disk",
        )


def _unreadable(bad: Mapping[str, str], count: int) -> DataError:
    return DataError(
        f"{len(bad)} of {count} images cannot be read",
        where=_listed(bad),
        fix="mend or remove them, or leave them out with data.on_bad=skip",
    )


def _listed(reasons: Mapping[str, str]) -> str:
    named = "; ".join(f"{path} ({reason})" for path, reason in list(reasons.items())[:LISTED])
    return named + (f"; and {len(reasons) - LISTED} more" if len(reasons) > LISTED else "")
