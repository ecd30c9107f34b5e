"""W&B: what an offline run holds, read back; and that no trouble of its own ends a training."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from srtrain.training.wandb import Wandb, wandb_logger
from tests.conftest import ROOT, Finished
from tests.training import draw_images, train, words
from tests.wandb_file import Logged, read_wandb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FAKE_KEY = "0123456789" * 4


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    draw_images(folder / "train", count=2, size=40, first=10)
    draw_images(folder / "val", count=2, size=72)  # LPIPS wants 64 and more
    return folder


@pytest.fixture
def lpips(shared: Path) -> list[str]:
    weights = shared / "weights" / "squeezenet1_1_features.safetensors"
    if not weights.exists():
        pytest.skip("shared material not found")
    return ["metrics.lpips.net=squeeze", f"metrics.lpips.features={weights}"]


def _files(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("wandb/*run-*/run-*.wandb"))


def test_run_read_back(images: Path, lpips: list[str], tmp_path: Path) -> None:
    folder = train(images, tmp_path / "run", "logger=wandb", "seed=3", *lpips)
    (file,) = _files(folder.path)
    logged = read_wandb(file)
    assert logged.finished
    assert logged.run_id == (folder.path / "wandb" / "run-id").read_text()

    assert logged.config["seed"] == 3
    assert logged.config["generator"]["num_features"] == 8
    assert "${" not in json.dumps(logged.config), "resolved, not as composed"

    assert logged.step_metrics == {"generator_step": "", "*": "generator_step"}
    assert list(logged.series("train/loss")) == [1, 2, 3, 4, 5, 6]
    assert list(logged.series("val/tiny/psnr_y")) == [0, 6]
    assert list(logged.series("bicubic/tiny/psnr_y")) == [0]
    assert 0 < logged.series("val/tiny/lpips_squeeze")[6] < 1
    assert 0 < logged.series("bicubic/tiny/lpips_squeeze")[0] < 1
    for step, name, value in folder.read_metrics():
        assert logged.series(name)[step] == pytest.approx(value), name

    pictures = logged.series("samples/tiny_image0.filenames")
    assert list(pictures) == [6]
    assert (file.parent / "files" / pictures[6][0]).read_bytes().startswith(b"\x89PNG")


def test_resumed_run_is_the_same_run(images: Path, tmp_path: Path) -> None:
    folder = train(images, tmp_path / "run", "logger=wandb")
    train(images, folder.path, "logger=wandb", "trainer.max_steps=8")  # and in one process
    first, second = sorted((read_wandb(file) for file in _files(folder.path)), key=_first_step)
    assert first.run_id == second.run_id
    assert first.finished
    assert second.finished
    assert list(first.series("train/loss")) == [1, 2, 3, 4, 5, 6]
    assert list(second.series("train/loss")) == [7, 8]


def _first_step(logged: Logged) -> int:
    return min(logged.series("train/loss"))


def _logger(run_dir: Path, mode: str = "offline") -> Wandb | None:
    return wandb_logger(run_dir=run_dir, project="p", entity=None, name=None, tags=["a"], mode=mode)


def test_runs_of_one_process_are_kept_apart(tmp_path: Path) -> None:
    """As in a sweep; the first was interrupted, so nobody closed it."""
    first, second = _logger(tmp_path / "first"), _logger(tmp_path / "second")
    assert first is not None
    assert second is not None
    second.log_metrics({"a": 2.0}, step=2)
    second.close()
    logged = [read_wandb(_files(tmp_path / name)[0]) for name in ("first", "second")]
    assert logged[0].run_id != logged[1].run_id
    assert [run.rows == [] for run in logged] == [True, False]
    assert all(run.finished for run in logged)


def _fail(*_: object, **__: object) -> None:
    raise BrokenPipeError("the service died")


def _stopped(folder: Path) -> list[str]:
    hint = f"Upload later with: wandb sync {folder}/wandb/*run-2*"
    return [f"W&B stopped logging (the service died). {hint}"]


def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "srtrain"]


@pytest.mark.parametrize("method", ["log_metrics", "log_image", "log_hyperparams"])
def test_failing_logger_costs_one_warning(
    method: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(WandbLogger, method, _fail)
    logger = _logger(tmp_path)
    assert logger is not None
    for step in range(3):
        logger.log_hyperparams({"a": 1})
        logger.log_metrics({"a": 1.0}, step=step)
        logger.log_image("a", [Image.new("RGB", (8, 8))], step=step)
    logger.close()
    assert _said(caplog) == _stopped(tmp_path)


def test_training_outlives_its_logger(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for method in ("log_metrics", "log_image", "log_hyperparams"):
        monkeypatch.setattr(WandbLogger, method, _fail)
    folder = train(images, tmp_path / "run", "logger=wandb", "trainer.max_steps=2")
    assert _said(caplog) == _stopped(folder.path)
    assert folder.summary.exists()


def test_failing_start_leaves_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("wandb.init", _fail)
    assert _logger(tmp_path) is None
    assert _said(caplog) == ["W&B is left out: the service died"]


class _Server(BaseHTTPRequestHandler):
    """Answers everything with one status: 401 as for a wrong key, 200 as a proxy's own page."""

    status = 401

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _answering(status: int) -> Iterator[str]:
    handler = type("Server", (_Server,), {"status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def _silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def _closed() -> Iterator[str]:
    yield "http://127.0.0.1:9"


def _environment(folder: Path, **more: str) -> dict[str, str]:
    """Ours without conftest's offline mode, and without whatever the developer's home holds."""
    own = {"HOME": str(folder), "NETRC": str(folder / "netrc"), "WANDB_CONFIG_DIR": str(folder)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return {**kept, **own, **more}


# Each start of a process costs seconds: one tries all servers. The first runs are W&B's own start.
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
    "closed": (_closed, "auto", "is not reachable ([Errno 111] Connection refused)"),
    "silent": (_silent, "auto", "is not reachable (timed out)"),
    "refusing": (lambda: _answering(401), "auto", "refuses the API key (401)"),
    "failing": (lambda: _answering(503), "online", "answers 503"),
    "no W&B": (lambda: _answering(200), "auto", "is no W&B server"),
    "unprobed": (lambda: _answering(401), "online", "Failed to get resume status"),
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
        environment = _environment(folder, WANDB_API_KEY=FAKE_KEY)
        done = _python(["-c", _USELESS, json.dumps(cases)], folder, environment)
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


class _Wandb(_Server):
    """As much of W&B's server as a run needs to start; notes what it was sent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        entity = {"id": "e", "name": "us"}
        project = {"id": "p", "name": "p", "entity": entity}
        run = {"id": "r", "name": "run", "displayName": "run", "config": "{}", "project": project}
        if "file_stream" in self.path:
            self.server.rows += body.count("generator_step")
        answers = {
            "upsertBucket": {"bucket": run, "inserted": True},
            "createRunFiles": {"runID": "r", "uploadHeaders": [], "files": []},
            "viewer": {"id": "v", "entity": "us", "username": "us", "flags": "{}"},
        }
        data = next(({name: value} for name, value in answers.items() if name in body), {})
        answer = json.dumps({"data": {"model": None, **data}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


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
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Wandb)
    server.rows = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    more = {"WANDB_BASE_URL": url, "WANDB_API_KEY": FAKE_KEY, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", _ONLINE],
        cwd=folder,
        env=_environment(folder, **more),
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


def test_command_without_key_is_offline_and_silent(images: Path, tmp_path: Path) -> None:
    command = ["-m", "srtrain", *words(images, tmp_path / "run", "logger=wandb")]
    done = _python(command, ROOT, _environment(tmp_path))
    assert done.rc == 0, done.stderr
    assert "wandb" not in done.stdout.lower() + done.stderr.lower()
    (file,) = tmp_path.glob("run/wandb/offline-run-*/run-*.wandb")
    assert read_wandb(file).finished


@pytest.mark.slow
def test_command_survives_an_unreachable_server(images: Path, tmp_path: Path) -> None:
    more = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": FAKE_KEY}
    command = ["-m", "srtrain", *words(images, tmp_path / "run", "logger=wandb")]
    done = _python(command, ROOT, _environment(tmp_path, **more))
    assert done.rc == 0, done.stderr
    about = [line for line in done.stderr.splitlines() if "wandb" in line or "W&B" in line]
    assert len(about) == 1
    assert about[0].startswith("srtrain: W&B: http://127.0.0.1:9 is not reachable")
    assert list(tmp_path.glob("run/wandb/offline-run-*/run-*.wandb"))


@pytest.mark.parametrize(
    ("variables", "netrc", "expected"),
    [
        ({}, "", "offline"),
        ({"WANDB_API_KEY": FAKE_KEY}, "", "online"),
        ({}, f"machine api.wandb.ai login user password {FAKE_KEY}", "online"),
        (
            {"WANDB_BASE_URL": "https://wandb.example"},
            "machine api.wandb.ai login u password k",
            "offline",
        ),
        ({"WANDB_API_KEY": FAKE_KEY, "WANDB_MODE": "offline"}, "", "offline"),
        ({"WANDB_API_KEY": FAKE_KEY, "WANDB_MODE": "dryrun"}, "", "offline"),
        ({"WANDB_MODE": "online"}, "", "online"),
        ({"WANDB_MODE": "disabled"}, "", "disabled"),
        ({}, "machine without end", "offline"),
    ],
)
def test_mode_auto(
    variables: dict[str, str],
    netrc: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from srtrain.training import wandb_server

    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "netrc").write_text(netrc)
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wandb_server.mode_from_environment() == expected


def test_online_without_a_key_never_asks_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    logger = _logger(tmp_path, "online")
    assert logger is not None
    assert logger.experiment.offline
    logger.close()
    assert "no API key for https://api.wandb.ai (wandb login)" in caplog.text


def _python(arguments: list[str], folder: Path, environment: dict[str, str]) -> Finished:
    path = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)
