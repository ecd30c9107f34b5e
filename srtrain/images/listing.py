"""Finding image files below a folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path

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

    Raises: NotADirectoryError, PermissionError as the file system gives them for ``folder``.
    """
    found: list[Path] = []
    visited: set[tuple[int, int]] = set()
    pending = [Path(folder)]
    while pending:
        current = pending.pop()
        status = current.stat()
        if (status.st_dev, status.st_ino) in visited:
            _log.warning("%s: skipped, this folder was already visited through a link", current)
            continue
        visited.add((status.st_dev, status.st_ino))
        links: list[Path] = []
        with os.scandir(current) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = current / entry.name
                if _is_folder(entry):
                    (links if entry.is_symlink() else pending).append(path)
                elif path.suffix.lower() in IMAGE_SUFFIXES:
                    if path.is_file():
                        found.append(path)
                    else:
                        _log.warning("%s: skipped, not a regular file", path)
        pending[:0] = sorted(links)  # after all real folders, which own what the links repeat
    return sorted(found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
