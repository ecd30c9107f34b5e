"""How much memory of this machine a process may still take, and how many of its cores."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMINFO = Path("/proc/meminfo")
GROUP_OF = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
# Limit, use and lines of memory.stat: the cache of files counts as used, and gives way.
V2 = "memory.max", "memory.current", ("active_file", "inactive_file")
V1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_active_file", "total_inactive_file"),
)


def free_memory() -> int:
    """Bytes that can still be had: of the machine, and below each limit of a container or a job."""
    return min([_left_to_machine(), *_left_to_groups()])


def cpus() -> int:
    """Cores that this process may run on: fewer than the machine's in many containers and jobs."""
    with contextlib.suppress(AttributeError):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _left_to_machine() -> int:
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, LookupError, ValueError):  # not Linux: half of what there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _left_to_groups() -> Iterator[int]:
    """One figure for each limit on this process's control group, and on those that hold it."""
    try:
        lines = GROUP_OF.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, place = line.split(":", 2)
        if kinds == "":
            root, names = GROUPS, V2
        elif "memory" in kinds.split(","):
            root, names = GROUPS / "memory", V1
        else:
            continue
        inner = Path(root, place.lstrip("/"))
        for folder in (inner, *inner.parents):  # within a container, the path is the host's
            if folder.is_relative_to(root):
                yield from _left_below(folder, *names)


def _left_below(folder: Path, limit: str, used: str, cached: tuple[str, str]) -> Iterator[int]:
    try:
        most, now = (int((folder / name).read_text(encoding="ascii")) for name in (limit, used))
    except (OSError, ValueError):  # no such group here, or no limit ("max")
        return
    try:
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        stat = dict(line.split() for line in lines)
        gives_way = sum(int(stat[name]) for name in cached)
    except (OSError, LookupError, ValueError):
        gives_way = 0
    yield max(0, most - now + gives_way)
