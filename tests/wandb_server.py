"""Servers that W&B would log to, each useless in its way but one; and programs that try."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from srtrain.training.wandb import Wandb, wandb_logger
from tests.conftest import ROOT, Finished

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

FAKE_KEY = "0123456789" * 4


def files_of(run_dir: Path) -> list[Path]:
    """What W&B wrote for each process of a run, oldest first."""
    return sorted(run_dir.glob("wandb/*run-*/run-*.wandb"))


def logger_in(run_dir: Path, mode: str = "offline") -> Wandb | None:
    return wandb_logger(run_dir=run_dir, project="p", entity=None, name=None, tags=["a"], mode=mode)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "srtrain"]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Ours without conftest's offline mode, and without whatever the developer's home holds."""
    own = {"HOME": str(folder), "NETRC": str(folder / "netrc"), "WANDB_CONFIG_DIR": str(folder)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return {**kept, **own, **more}


def python(arguments: list[str], folder: Path, environment: dict[str, str]) -> Finished:
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


class OneAnswer(BaseHTTPRequestHandler):
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
def answering(status: int) -> Iterator[str]:
    handler = type("Server", (OneAnswer,), {"status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def closed() -> Iterator[str]:
    yield "http://127.0.0.1:9"


class WandbServer(OneAnswer):
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
