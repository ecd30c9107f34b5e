"""ONNX: the network as a program that needs neither torch nor srtrain, made in a process apart."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from srtrain.errors import ConfigError, StorageError
from srtrain.files import read_json
from srtrain.inference.export.made import Made

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from srtrain.inference.export.child import Report, Request

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# In this order. The older one records a run: it takes seconds where the other takes a minute, gets
# the window networks right (``srtrain.networks.traceable``), and crashes on none that it can do.
EXPORTERS = {"torchscript": "TorchScript's exporter", "dynamo": "torch.export's exporter"}
LIMIT_S = 1800


def refuse_without_packages() -> None:
    """Raises: ConfigError naming what is not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"ONNX needs {', '.join(missing)}",
            where="--to onnx",
            fix="pip install 'srtrain[export]'",
        )


def to_onnx(
    source: Path, about: Mapping[str, str], *, half: bool, trust: Sequence[str] = ()
) -> Made:
    """The file's content: dynamic batch, height and width, ``lr`` → ``sr``, RGB in [0, 1].

    Each exporter works in a process of its own, which may crash, and its file is run by onnxruntime
    and compared with torch there; the first that agrees is taken. ``half``: fp16 inside. ``about``
    becomes metadata.

    Raises: StorageError with each exporter's reason if none agrees.
    """
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="srtrain-export-") as folder:
        for exporter, name in EXPORTERS.items():
            out = Path(folder) / f"{exporter}.onnx"
            request: Request = {
                "source": str(source.absolute()),
                "trust": list(trust),
                "exporter": exporter,
                "half": half,
                "about": dict(about),
                "out": str(out),
            }
            report = attempted(request, _in_a_process)
            if not report["failed"]:
                warnings = [f"{failure}; made by {name}" for failure in failures]
                return Made(out.read_bytes(), _facts(report, name, half=half), warnings)
            failures.append(f"{name} failed ({report['failed']})")
    raise StorageError(
        "this network cannot be had as ONNX: " + "; ".join(failures),
        where=str(source),
        fix="use --precision fp32" if half else "use --to safetensors",
    )


def attempted(request: Request, run: Callable[[Request], int]) -> Report:
    """The report of ``run(request)``, or that it crashed: it returns an exit code."""
    from srtrain.inference.export.child import report_of

    code = run(request)
    try:
        report: Report = read_json(report_of(Path(request["out"])))
    except (OSError, ValueError):
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        failed = f"the exporter crashed: {how}"
        return {"failed": failed, "opset": 0, "agreement": "", "largest": 0, "frozen": 0}
    return report


def _in_a_process(request: Request) -> int:
    """Its exit code; it hears nothing of this one but the request, and says nothing."""
    command = [sys.executable, "-m", "srtrain.inference.export.child", json.dumps(request)]
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -signal.SIGALRM
    return done.returncode


def _facts(report: Report, exporter: str, *, half: bool) -> dict[str, str]:
    inside = "fp16 inside, float lr and sr" if half else "fp32"
    up_to = f" up to {report['largest']} pixels of LR a side" if report["largest"] else ""
    frozen = (
        f"; {report['frozen']} values of Python are kept as traced: other sizes are not proven"
        if report["frozen"]
        else ""
    )
    return {
        "opens in": f"onnxruntime and others: opset {report['opset']}, {inside}; lr → sr, RGB in"
        " [0, 1], any batch, height and width" + up_to,
        "checked": f"onnxruntime's images differ from torch's by {report['agreement']}{frozen}",
        "made by": exporter,
    }
