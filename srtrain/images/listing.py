"""Finding image files below a folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from srtrain.errors import DataError
from srtrain.images.opening import shown

IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("png", "jpg", "jpeg", "jfif", "webp", "tif", "tiff"),
        *("bmp", "gif", "ppm", "pgm", "pnm", "jp2", "avif"),
    )
)

_log = logging.getLogger(__name__)


def list_images(folder: Path) -> list[Path]:
    """All image files below ``folder`` at any depth, sorted; symbolic links are followed once.

    Hidden names, loops of links, dangling links, FIFOs and devices are skipped, with the reason
    in the log.

    Raises: DataError for a folder that cannot be read, at any depth: its images would be missed.
    """
    found: list[Path] = []
    visited: set[tuple[int, int]] = set()
    pending = [Path(folder)]
    while pending:
        current = pending.pop()
        try:
            folders, links = _visit(current, visited, found)
        except OSError as error:
            what = f"cannot be read: {error.strerror or error}"
            raise DataError(what, where=shown(current), fix="check its permissions") from error
        # After all real folders, which own what the links repeat.
        pending = [*sorted(links), *pending, *folders]
    return sorted(found)


def _visit(
    folder: Path, visited: set[tuple[int, int]], found: list[Path]
) -> tuple[list[Path], list[Path]]:
    """Adds the images right in ``folder``; returns its folders, and links to folders."""
    folders: list[Path] = []
    links: list[Path] = []
    status = folder.stat()
    if (status.st_dev, status.st_ino) in visited:
        _log.warning("%s: skipped, this folder was already visited through a link", shown(folder))
        return folders, links
    visited.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = folder / entry.name
            if _is_folder(entry):
                (links if entry.is_symlink() else folders).append(path)
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                if path.is_file():
                    found.append(path)
                else:
                    _log.warning("%s: skipped, not a regular file", shown(path))
    return folders, links


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
