"""What is wrong with the images of a run, all of it at once, before the first step."""

from __future__ import annotations

import functools
from collections import defaultdict
from typing import TYPE_CHECKING

import torch

from srtrain.data.cache import cached
from srtrain.data.collection import Files
from srtrain.data.parallel import HEADERS_PER_PROCESS, parallel
from srtrain.data.report import (
    AMBIGUOUS,
    LEAKED,
    NOT_BICUBIC,
    SIZES,
    SMALL,
    UNREADABLE,
    WITHOUT_HR,
    WITHOUT_LR,
    Report,
)
from srtrain.data.sources import Concat, Folder, Paired, PairFiles, size_problem
from srtrain.degradation.resize import bicubic_uint8
from srtrain.errors import DataError
from srtrain.files import fingerprint_of
from srtrain.images import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from srtrain.data.collection import Collection, Source
    from srtrain.data.imageset import ImageSet, Store

    Sizes = Sequence[Sequence[int]]

PREFLIGHT_PAIRS = 32
"""Pairs whose LR a training run compares with the bicubic; `srtrain check-data` takes all."""
ROUNDING_SHARE = 1e-3
"""Share of values in which LR may be off by one: ties that another MATLAB version rounds up."""


def check_training_data(
    train: Source,
    val: Mapping[str, Source],
    *,
    scale: int,
    hr_patch_size: int,
    min_val_size: int = 1,
    lr_is_bicubic: bool = False,
    list_damaged: bool = False,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> Report:
    """Pairs, sizes and leaks of a run; decoding finds the rest.

    Sizes are the cache's where the images are in it, else their headers'.

    ``min_val_size``: what the metrics need on each side of a validation image.
    ``lr_is_bicubic``: also decode some pairs, evenly spread, and compare their LR with MATLAB's.
    ``list_damaged``: if a header cannot be read, decode all, so that no second run finds more.
    """
    report = Report()
    unknown: list[Collection] = []

    def sizes(part: Collection, smallest: int) -> None:
        store = cached(part, cache_dir=cache_dir, progress=progress)
        check_sizes(part, report, scale=scale, smallest=smallest, store=store, progress=progress)
        if store is None:
            unknown.append(part)

    train_parts = matched(train, report)
    for part in train_parts:
        sizes(part, hr_patch_size)
        if lr_is_bicubic and isinstance(part, PairFiles):
            check_bicubic(part, report, limit=PREFLIGHT_PAIRS, progress=progress)
    for source in val.values():
        parts = matched(source, report)
        for part in parts:
            sizes(part, min_val_size)
        check_leaks(train_parts, parts, report)
    if list_damaged and UNREADABLE in report.problems:
        for part in unknown:
            check_decodable(part, report, progress=progress)
    return report


def matched(source: Source, report: Report) -> list[Collection]:
    """The collections of a source; what is missing or has no single partner goes to the report."""
    try:
        if isinstance(source, Concat):
            return [part for child in source.sources for part in matched(child, report)]
        if isinstance(source, Folder) and len(source.folders) > 1:
            return [part for path, _ in source.folders for part in _scanned(source, path, report)]
        if not isinstance(source, Paired):
            return [part for part, _ in source.collections()]
        pairs = source.pairs
    except DataError as error:
        report.add(error.what, error.where)
        return []
    for path in pairs.without_lr:
        report.add(WITHOUT_LR, shown(path))
    for path in pairs.without_hr:
        report.add(WITHOUT_HR, shown(path))
    for paths in pairs.ambiguous:
        report.add(AMBIGUOUS, ", ".join(map(shown, paths)))
    return [source.files] if pairs.rows else []


def check_sizes(
    part: Collection,
    report: Report,
    *,
    scale: int,
    smallest: int,
    store: Store | None = None,
    progress: bool = True,
) -> None:
    """Unreadable, HR smaller than ``smallest``, LR ≠ HR // scale; ``store`` spares the headers."""
    report.images += len(part.names)
    for where, sizes in _headers(part, progress=progress) if store is None else _in(store, part):
        if isinstance(sizes, str):
            report.add(UNREADABLE, where, sizes)
        else:
            _check_size(where, sizes, report, scale=scale, smallest=smallest)


def check_opened(images: ImageSet, report: Report, *, scale: int, smallest: int) -> None:
    """The same of decoded images: what is trained on fits, however it came into the cache."""
    report.images += len(images.names)
    for name, sizes in zip(images.names, images.shapes.tolist(), strict=True):
        _check_size(name, sizes, report, scale=scale, smallest=smallest)


def check_names(part: Collection, report: Report) -> None:
    """Files of one folder that differ in their suffix alone: often one picture saved twice."""
    twins: dict[Path, list[Path]] = defaultdict(list)
    for path, _ in _hr_files([part]):
        twins[path.with_suffix("")].append(path)
    for paths in twins.values():
        if len(paths) > 1:
            report.add(AMBIGUOUS, ", ".join(map(shown, paths)))


def check_decodable(part: Collection, report: Report, *, progress: bool = True) -> None:
    """Decodes every image: truncated and damaged ones, whose header is intact, fail here."""
    known = {where for where, _ in report.problems.get(UNREADABLE, [])}
    for index, reason in parallel(
        functools.partial(_damage, part),
        range(len(part.names)),
        title="decoding",
        progress=progress,
    ):
        if reason and part.where(index) not in known:
            report.add(UNREADABLE, part.where(index), reason)


def check_bicubic(
    part: PairFiles, report: Report, *, limit: int | None = None, progress: bool = True
) -> None:
    """Compares LR with MATLAB's bicubic of HR, in ``limit`` evenly spread pairs or in all."""
    count = len(part.names)
    chosen = range(0, count, max(1, count // limit)) if limit else range(count)
    work = functools.partial(_difference, part)
    for index, reason in parallel(work, chosen, title="comparing with bicubic", progress=progress):
        if reason:
            report.add(NOT_BICUBIC, part.where(index), reason)


def check_leaks(train: Sequence[Collection], val: Sequence[Collection], report: Report) -> None:
    """Validation files whose bytes are also a training file's; only equal sizes are compared."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path, size in _hr_files(train):
        by_size[size].append(path)
    digest = functools.cache(_digest)
    for path, size in _hr_files(val):
        for twin in by_size.get(size, []):
            if twin.samefile(path) or digest(twin) == digest(path):
                report.add(LEAKED, shown(path), f"same as {shown(twin)}")
                break


def _digest(path: Path) -> str:
    try:
        return fingerprint_of(path)
    except OSError:  # reported as unreadable
        return str(path)


def _scanned(source: Folder, folder: Path, report: Report) -> list[Collection]:
    try:
        return [source.files(folder)]
    except DataError as error:
        report.add(error.what, error.where)
        return []


def _hr_files(parts: Sequence[Collection]) -> list[tuple[Path, int]]:
    return [
        (row[0], stamps[0][0])
        for part in parts
        if isinstance(part, Files)
        for row, stamps in zip(part.rows, part.stamps, strict=True)
    ]


def _check_size(where: str, sizes: Sizes, report: Report, *, scale: int, smallest: int) -> None:
    height, width = sizes[0]
    report.cut += bool(height % scale or width % scale)
    if min(height, width) < smallest:
        reason = f"{width}x{height}, at least {smallest}x{smallest} is needed"
        report.add(SMALL, where, reason)
    if len(sizes) == 2 and (problem := size_problem(sizes[0], sizes[1], scale=scale)):
        report.add(SIZES, where, problem)


def _in(store: Store, part: Collection) -> Iterator[tuple[str, Sizes | str]]:
    yield from store.bad.items()
    places = {name: index for index, name in enumerate(part.names)}
    for name, sizes in zip(store.names, store.shapes.tolist(), strict=True):
        yield part.where(places[name]), sizes


def _headers(part: Collection, *, progress: bool) -> Iterator[tuple[str, Sizes | str]]:
    work = functools.partial(_shapes, part)
    found = parallel(
        work,
        range(len(part.names)),
        title="reading headers",
        progress=progress,
        per_process=HEADERS_PER_PROCESS,
    )
    for index, sizes in found:
        yield part.where(index), sizes


def _shapes(part: Collection, index: int) -> tuple[tuple[int, int], ...] | str:
    try:
        return part.shapes(index)
    except DataError as error:
        return error.what


def _damage(part: Collection, index: int) -> str:
    try:
        part.decode(index)
    except DataError as error:
        return error.what
    return ""


def _difference(part: PairFiles, index: int) -> str:
    try:
        hr, lr = (torch.from_numpy(side).permute(2, 0, 1) for side in part.decode(index))
    except DataError:
        return ""  # reported as unreadable
    height, width = (side - side % part.scale for side in hr.shape[1:])
    made = bicubic_uint8(hr[:, :height, :width], part.scale)
    if made.shape != lr.shape:
        return ""  # reported with both sizes
    error = (made.int() - lr.int()).abs()
    share = (error > 0).double().mean().item()
    if error.max() <= 1 and share <= ROUNDING_SHARE:
        return ""
    return f"differs by up to {int(error.max())} of 255, in {share:.1%} of the values"
