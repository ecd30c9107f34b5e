"""A W&B server that is useless or dies: seconds, one warning, all rows on disk."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT
from tests.training import draw_images, words
from tests.wandb_file import read_wandb
from tests.wandb_server import (
    FAKE_KEY,
    WandbServer,
    answering,
    closed,
    environment,
    python,
    silent,
)

if TYPE_CHECKING:
    from pathlib import Path


_USELESS = """
import json, logging, os, sys, time
from pathlib import Path
from srtrain.training import wandb

class Said(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())

logging.getLogger().addHandler(Said())
probe = wandb.problem
closed = "http://127.0.0.1:9"
offline = [["warm", "offline", closed], ["usual", "offline", closed]]
for name, mode, url in [*offline, *json.loads(sys.argv[1])]:
    os.environ["WANDB_BASE_URL"] = url
    wandb.problem = (lambda _: None) if name == "unprobed" else probe
    said, began = [], time.monotonic()
    options = dict(project="p", entity=None, name=None, tags=[], mode=mode)
    logger = wandb.wandb_logger(run_dir=Path(name).absolute(), **options)
    logger.log_metrics({"a": 1.0}, step=1)
    logger.close()
    print(json.dumps([name, time.monotonic() - began, said]), flush=True)
"""


SERVERS = {
    "closed": (closed, "auto", "is not reachable ([Errno 111] Connection refused)"),
    "silent": (silent, "auto", "is not reachable (timed out)"),
    "refusing": (lambda: answering(401), "auto", "refuses the API key (401)"),
    "failing": (lambda: answering(503), "online", "answers 503"),
    "no W&B": (lambda: answering(200), "auto", "is no W&B server"),
    "unprobed": (lambda: answering(401), "online", "Failed to get resume status"),
}


@pytest.fixture(scope="module")
def useless(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list], str]:
    """The folder, name -> [seconds, warnings], and whatever else was on stderr."""
    folder = tmp_path_factory.mktemp("useless")
    with ExitStack() as stack:
        cases = [
            [name, mode, stack.enter_context(server())]
            for name, (server, mode, _) in SERVERS.items()
        ]
        keyed = environment(folder, WANDB_API_KEY=FAKE_KEY)
        done = python(["-c", _USELESS, json.dumps(cases)], folder, keyed)
    assert done.rc == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return folder, {name: rest for name, *rest in lines}, done.stderr


@pytest.mark.parametrize("name", SERVERS)
def test_useless_server_costs_seconds_and_one_warning(
    name: str, useless: tuple[Path, dict[str, list], str]
) -> None:
    folder, found, _ = useless
    seconds, said = found[name]
    assert seconds <= found["usual"][0] + 10
    (line,) = said
    assert SERVERS[name][2] in line
    assert line.endswith(f"Upload later with: wandb sync {folder / name}/wandb/*run-2*")
    (file,) = (folder / name).glob("wandb/offline-run-*/run-*.wandb")
    assert read_wandb(file).series("a") == {1: 1.0}


def test_useless_servers_leave_nothing_else_on_the_terminal(
    useless: tuple[Path, dict[str, list], str],
) -> None:
    assert useless[2] == ""


_ONLINE = """
import logging, sys, time
from pathlib import Path
from srtrain.training.wandb import wandb_logger

logging.basicConfig(format="srtrain: %(message)s", level=logging.WARNING)
options = dict(project="p", entity=None, name=None, tags=[], mode="auto")
logger = wandb_logger(run_dir=Path("run").absolute(), **options)
assert not logger.experiment.offline
logger.log_metrics({"a": 1.0}, step=1)
print("running", flush=True)
input()
logger.log_metrics({"a": 2.0}, step=2)
logger.close()
"""


def _online(folder: Path, *, dies: bool) -> tuple[float, str, int]:
    """Seconds from the server's death (or life) to the end, stderr, rows that arrived."""
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), WandbServer)
    server.rows = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    more = {"WANDB_BASE_URL": url, "WANDB_API_KEY": FAKE_KEY, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", _ONLINE],
        cwd=folder,
        env=environment(folder, **more),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    if dies:
        server.shutdown()
        server.server_close()
    began = time.monotonic()
    _, said = process.communicate("go on\n", timeout=120)
    seconds = time.monotonic() - began
    if not dies:
        server.shutdown()
        server.server_close()
    assert process.returncode == 0, said
    (file,) = folder.glob("run/wandb/run-*/run-*.wandb")
    assert read_wandb(file, patience=1).series("a") == {1: 1.0, 2: 2.0}
    return seconds, said, server.rows


@pytest.mark.slow
def test_online_run_and_a_server_that_dies_under_it(tmp_path: Path) -> None:
    usual, said, rows = _online(tmp_path / "lives", dies=False)
    assert said == ""
    assert rows > 0
    seconds, said, _ = _online(tmp_path / "dies", dies=True)
    assert seconds <= usual + 10
    hint = f"Upload later with: wandb sync {tmp_path / 'dies' / 'run'}/wandb/*run-2*\n"
    assert said == f"srtrain: W&B stopped logging (Timed out finishing run.). {hint}"


@pytest.mark.slow
def test_command_survives_an_unreachable_server(tmp_path: Path) -> None:
    images = tmp_path
    draw_images(images / "train", count=2, size=40, first=10)
    draw_images(images / "val", count=1, size=40)
    more = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": FAKE_KEY}
    command = ["-m", "srtrain", *words(images, tmp_path / "run", "logger=wandb")]
    done = python(command, ROOT, environment(tmp_path, **more))
    assert done.rc == 0, done.stderr
    about = [line for line in done.stderr.splitlines() if "wandb" in line or "W&B" in line]
    assert len(about) == 1
    assert about[0].startswith("srtrain: W&B: http://127.0.0.1:9 is not reachable")
    assert list(tmp_path.glob("run/wandb/offline-run-*/run-*.wandb"))
