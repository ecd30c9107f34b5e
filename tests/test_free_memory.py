"""What the machine, a container and a batch job leave to a process, on drawn /proc and /sys."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from srtrain import memory
from srtrain.data import resident
from srtrain.errors import DataError
from srtrain.inference.memory import available

MACHINE = 4_000 * 1024
LIMIT, USED = "memory.limit_in_bytes", "memory.usage_in_bytes"


def _v2(limit: object, used: int, cached: int = 0) -> dict[str, str]:
    stat = f"anon 5\nactive_file {cached // 2}\ninactive_file {cached - cached // 2}\n"
    return {"memory.max": f"{limit}\n", "memory.current": f"{used}\n", "memory.stat": stat}


def _v1(limit: int, used: int, cached: int = 0) -> dict[str, str]:
    own = "active_file 1\ninactive_file 1\n"  # of this group without those below it
    whole = f"total_active_file {cached // 2}\ntotal_inactive_file {cached - cached // 2}\n"
    return {LIMIT: f"{limit}\n", USED: f"{used}\n", "memory.stat": own + whole}


CASES = {
    "no group": ("", {}, MACHINE),
    "no limit": ("0::/\n", {".": _v2("max", 7)}, MACHINE),
    "a container": ("0::/\n", {".": _v2(1_000_000, 900_000)}, 100_000),
    "its cache of files gives way": ("0::/\n", {".": _v2(1_000_000, 900_000, 50_000)}, 150_000),
    "no statistics": (
        "0::/\n",
        {".": {"memory.max": "1000000", "memory.current": "900000"}},
        100_000,
    ),
    "a Slurm job above its step": (
        "1:cpu:/\n0::/slurm/job_7/step_0\n",
        {"slurm/job_7": _v2(10_000, 4_000), "slurm/job_7/step_0": _v2("max", 3_000)},
        6_000,
    ),
    "the tightest of all": (
        "0::/job/step\n",
        {"job": _v2(10_000, 4_000), "job/step": _v2(5_000, 3_000, 500), "other": _v2(9, 9)},
        2_500,
    ),
    "the host's path within a container": ("0::/kube/pod\n", {".": _v2(9_000, 1_000)}, 8_000),
    "more than the limit": ("0::/\n", {".": _v2(5_000, 6_000)}, 0),
    "v1": ("4:cpu:/a\n3:memory:/job\n0::/\n", {"memory/job": _v1(8_000, 7_000, 400)}, 1_400),
    "v1 above": (
        "3:memory:/job/step\n",
        {"memory/job": _v1(8_000, 6_000), "memory/job/step": _v1(2**63 - 4096, 5_000)},
        2_000,
    ),
    "v1, mounted together": ("3:cpu,memory:/job\n", {"memory/job": _v1(8_000, 6_000)}, 2_000),
}


def _fit(images: Any, device: torch.device) -> None:  # noqa: ANN401
    resident.check_room(images, "ram", device)


@pytest.mark.parametrize(("of", "groups", "expected"), CASES.values(), ids=CASES.keys())
def test_training_and_inference_see_what_machine_and_groups_leave(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    of: str,
    groups: dict[str, dict[str, str]],
    expected: int,
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    (tmp_path / "of").write_text(of)
    for place, files in groups.items():
        (tmp_path / "sys" / place).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (tmp_path / "sys" / place / name).write_text(content)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUP_OF", tmp_path / "of")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "sys")
    monkeypatch.setattr(resident, "SPARE_BYTES", 0)
    cpu, images = torch.device("cpu"), SimpleNamespace(sizes=[expected])
    assert available(cpu) == expected
    _fit(images, cpu)
    images.sizes.append(1)
    with pytest.raises(DataError):
        _fit(images, cpu)


@pytest.mark.parametrize("content", [None, "", "no such lines\n", "MemAvailable: much kB\n"])
def test_without_figures_half_of_the_machine_is_assumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "meminfo").write_text(content)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUP_OF", tmp_path / "none")
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}.get)
    assert memory.free_memory() == 5 * 4096
