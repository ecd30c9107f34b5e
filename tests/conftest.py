"""What all tests share: no network, one thread, one cache, and a way to run the program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]

# Before anything imports torch or wandb; subprocesses inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ.pop("WANDB_API_KEY", None)
os.environ.pop("SLURM_JOB_ID", None)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, too, a terminal can be closed


@dataclass(frozen=True)
class Finished:
    """A process that ended."""

    rc: int
    stdout: str
    stderr: str


@contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Within, it runs; a test that fails does not wait for its end."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stop-after",
        type=float,
        metavar="MINUTES",
        help="skip what would start later: as many tests as fit (used by .ci/run)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_STARTED] = time.monotonic()


def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("--stop-after")
    if minutes and time.monotonic() - item.config.stash[_STARTED] > 60 * minutes:
        pytest.skip("not started: --stop-after")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What time may cut off comes last; with ``--no-loadscope-reorder`` xdist leaves it so."""
    if config.getoption("--stop-after"):
        items.sort(key=lambda item: not item.nodeid.startswith(FIRST))


FIRST = ("tests/test_slurm.py", "tests/faults/", "tests/test_chaos.py")
_STARTED = pytest.StashKey[float]()


@pytest.fixture(scope="session", autouse=True)
def _session(tmp_path_factory: pytest.TempPathFactory) -> None:
    # Workers of one session share the cache of decoded images: it is built once.
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent
    os.environ["SRTRAIN_CACHE"] = str(base / "srtrain-cache")
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images and weights beside the checkout: ``$SRTRAIN_SHARED``, else ``../shared``."""
    folder = Path(os.environ.get("SRTRAIN_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("shared material not found")
    return folder


@pytest.fixture(scope="session")
def run_srtrain() -> Callable[..., Finished]:
    """``python -m srtrain ARGS…`` in a process of its own, from the checkout or ``cwd``."""

    def run(
        *args: str | Path,
        cwd: Path = ROOT,
        env: dict[str, str] | None = None,
        timeout: float = 600.0,
        module: tuple[str, ...] = ("-m", "srtrain"),
    ) -> Finished:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, *module, *map(str, args)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run
