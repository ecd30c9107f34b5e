"""W&B: what an offline run holds, read back; and that no trouble of its own ends a training."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import ROOT, Finished
from tests.training import draw_images, train, words
from tests.wandb_file import Logged, read_wandb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from srtrain.training.run_folder import RunFolder

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


def _runs(folder: RunFolder) -> list[Path]:
    return sorted(folder.path.glob("wandb/*run-*/run-*.wandb"))


def test_run_read_back(images: Path, lpips: list[str], tmp_path: Path) -> None:
    folder = train(images, tmp_path / "run", "logger=wandb", "seed=3", *lpips)
    (file,) = _runs(folder)
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
    train(images, folder.path, "logger=wandb", "trainer.max_steps=8")
    first, second = sorted((read_wandb(file) for file in _runs(folder)), key=_first_step)
    assert first.run_id == second.run_id
    assert list(first.series("train/loss")) == [1, 2, 3, 4, 5, 6]
    assert list(second.series("train/loss")) == [7, 8]


def test_two_runs_in_one_process_are_two(images: Path, tmp_path: Path) -> None:
    runs = [
        read_wandb(_runs(train(images, tmp_path / name, "logger=wandb"))[0]) for name in ("a", "b")
    ]
    assert runs[0].run_id != runs[1].run_id
    assert [list(run.series("train/loss")) for run in runs] == [[1, 2, 3, 4, 5, 6]] * 2


def _first_step(logged: Logged) -> int:
    return min(logged.series("train/loss"))


@pytest.mark.parametrize("method", ["log_metrics", "log_image", "log_hyperparams"])
def test_failing_logger_costs_one_warning(
    method: str,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from lightning.pytorch.loggers import WandbLogger

    def fail(*_: object, **__: object) -> None:
        raise BrokenPipeError("the service died")

    monkeypatch.setattr(WandbLogger, method, fail)
    folder = train(images, tmp_path / "run", "logger=wandb")
    said = [record.getMessage() for record in caplog.records if record.name == "srtrain"]
    assert said == [
        "W&B stopped logging (the service died). "
        f"Upload later with: wandb sync {folder.path}/wandb/*run-2*"
    ]
    assert folder.summary.exists()


def test_failing_init_leaves_it_out(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import wandb

    def fail(**_: object) -> None:
        raise wandb.Error("no service")

    monkeypatch.setattr(wandb, "init", fail)
    train(images, tmp_path / "run", "logger=wandb")
    assert "W&B is left out: no service" in caplog.text


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


_LOGGERS = """
import json, logging, os, sys, time
from pathlib import Path
from srtrain.training import wandb

mode = sys.argv[1]
if mode == "unprobed":
    mode, wandb._problem = "online", lambda _: None
logging.basicConfig(format="srtrain: %(message)s", level=logging.WARNING)

def start(mode, name):
    began = time.monotonic()
    options = dict(project="p", entity=None, name=None, tags=[], mode=mode)
    logger = wandb.wandb_logger(run_dir=Path(name).absolute(), **options)
    logger.log_metrics({"a": 1.0}, step=1)
    logger.close()
    return time.monotonic() - began

usual = start("offline", "usual")  # the first also starts W&B's service
usual = start("offline", "usual")
print(json.dumps({"extra": start(mode, "run") - usual}))
"""


@pytest.mark.parametrize(
    ("server", "mode", "said"),
    [
        (_closed, "auto", "is not reachable ([Errno 111] Connection refused)"),
        (_silent, "auto", "is not reachable (timed out)"),
        (lambda: _answering(401), "auto", "refuses the API key (401)"),
        (lambda: _answering(503), "online", "answers 503"),
        (lambda: _answering(200), "auto", "is no W&B server"),
        (lambda: _answering(401), "unprobed", "401"),  # seen by wandb itself
    ],
    ids=["closed", "silent", "refusing", "failing", "not W&B at all", "unprobed"],
)
def test_useless_server_costs_seconds_and_one_warning(
    server: Callable[[], Any], mode: str, said: str, tmp_path: Path
) -> None:
    with server() as url:
        environment = _environment(tmp_path, WANDB_BASE_URL=url, WANDB_API_KEY=FAKE_KEY)
        done = _python(["-c", _LOGGERS, mode], tmp_path, environment)
    assert done.rc == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert said in lines[0]
    assert lines[0].endswith(f"Upload later with: wandb sync {tmp_path / 'run'}/wandb/*run-2*")
    assert json.loads(done.stdout)["extra"] <= 10
    (file,) = tmp_path.glob("run/wandb/offline-run-*/run-*.wandb")
    assert read_wandb(file).series("a") == {1: 1.0}


def test_command_without_key_is_offline_and_silent(images: Path, tmp_path: Path) -> None:
    command = ["-m", "srtrain", *words(images, tmp_path / "run", "logger=wandb")]
    done = _python(command, ROOT, _environment(tmp_path))
    assert done.rc == 0, done.stderr
    assert "wandb" not in done.stdout.lower() + done.stderr.lower()
    (file,) = tmp_path.glob("run/wandb/offline-run-*/run-*.wandb")
    assert read_wandb(file).finished


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
    from srtrain.training import wandb

    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "netrc").write_text(netrc)
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wandb._mode_from_environment() == expected


def test_online_without_a_key_never_asks_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from srtrain.training.wandb import wandb_logger

    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    logger = wandb_logger(
        run_dir=tmp_path / "run", project="p", entity=None, name=None, tags=[], mode="online"
    )
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
