"""Memory that a step frees is kept for the next one; what a start makes is not looked through."""

from __future__ import annotations

import ctypes
import gc
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# glibc's mallopt(3). Larger blocks always go back to the system: 32 MiB is the most it takes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MMAP_BYTES = 32 * 2**20
TRIM_BYTES = 2**30
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")
TUNABLES = {"glibc.malloc.trim_threshold", "glibc.malloc.mmap_threshold"}


def keep_freed_memory() -> None:
    """From now on, up to 1 GiB that is free at the heap's end stays with the process.

    Else the activations of every step are given back and faulted in again, page by page: 1500 of
    them, a twelfth of a small network's step. Nothing happens without glibc, or where the
    environment says something about just that.
    """
    tuned = {word.partition("=")[0] for word in os.environ.get("GLIBC_TUNABLES", "").split(":")}
    given = bool(TUNABLES & tuned) or any(name in os.environ for name in VARIABLES)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if given or mallopt is None:
        return
    mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
    mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)


@contextmanager
def uncollected() -> Iterator[None]:
    """Until ``collect`` is called, or the end, nobody looks for garbage in cycles.

    Imports and composition make hundreds of thousands of objects that stay: to look through them
    again and again is a twentieth of a start.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def collect() -> None:
    """From now on there is garbage to be looked for."""
    gc.enable()
