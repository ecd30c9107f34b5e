"""Pages that a step gives back and takes again, counted by the kernel."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from srtrain.cli import heap
from tests.conftest import ROOT

STEPS = """
import resource
from srtrain.cli.heap import keep_freed_memory

def step():
    blocks = [bytearray(b"x") * 3_000_000 for _ in range(20)]

keep_freed_memory()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environ: str) -> int:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    words = [sys.executable, "-c", STEPS]
    return int(subprocess.run(words, env=env, capture_output=True, check=True).stdout)


# Of the environment, and whether it is about what is given back.
GIVEN = [
    ({}, False),
    ({"MALLOC_ARENA_MAX": "2"}, False),
    ({"MALLOC_CONF": "background_thread:true"}, False),
    ({"GLIBC_TUNABLES": "glibc.cpu.x86_ibt=on:glibc.malloc.arena_max=2"}, False),
    ({"GLIBC_TUNABLES": ""}, False),
    ({"MALLOC_TRIM_THRESHOLD_": "131072"}, True),
    ({"MALLOC_MMAP_THRESHOLD_": "131072"}, True),
    ({"MALLOC_TOP_PAD_": "0"}, True),
    ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}, True),
    ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=2:glibc.malloc.mmap_threshold=131072"}, True),
]


@pytest.mark.parametrize(("environ", "given"), GIVEN)
def test_only_who_sets_those_thresholds_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], given: bool
) -> None:
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    options: list[int] = []
    libc = SimpleNamespace(mallopt=lambda option, _: options.append(option))
    monkeypatch.setattr("ctypes.CDLL", lambda _: libc)
    heap.keep_freed_memory()
    assert options == ([] if given else [heap.M_MMAP_THRESHOLD, heap.M_TRIM_THRESHOLD])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept_unless_the_environment_says_otherwise() -> None:
    own, default = faults(), faults(MALLOC_TRIM_THRESHOLD_="131072")
    assert default > 3 * 20 * 3_000_000 / 65536 / 2  # pages may be of 64 KiB
    assert own < default / 10
