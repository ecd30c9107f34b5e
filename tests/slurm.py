"""A Slurm of two nodes for the tests: its own munge, ports and files, gone when the test is.

Both nodes are this machine; a step that spans them must be told ``MASTER_ADDR``, as no resolver
knows their names.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

NODES = ("n1", "n2")
DAEMONS = ("munged", "slurmctld", "slurmd")
PATH = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"

# A requeued job may start again so many seconds later; slurmd refuses its credential until then.
CREDENTIAL_EXPIRES_S = 5

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={expires}
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1
JobRequeue=1
MinJobAge=3600
ReturnToService=2
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = """\
NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=1000
"""


def missing() -> list[str]:
    """What this machine lacks for a Slurm of one's own."""
    lacking = [name for name in (*DAEMONS, "mungekey", "srun") if not shutil.which(name, path=PATH)]
    return lacking if os.geteuid() == 0 else [*lacking, "root"]


@dataclass(frozen=True)
class Slurm:
    """A running cluster; ``environ`` is what its commands need."""

    environ: Mapping[str, str]

    def run(self, *words: str, cwd: Path, env: Mapping[str, str] | None = None) -> str:
        """The output of ``srun``, ``sbatch``, ``scontrol``…, which must succeed."""
        done = subprocess.run(
            words,
            cwd=cwd,
            env={**self.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{words[0]}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """What ``scontrol show job`` knows."""
        shown = self.run("scontrol", "show", "job", "--oneliner", number, cwd=Path("/"))
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)


@contextmanager
def two_nodes() -> Iterator[Slurm]:
    """Munge, controller and node daemons of one cluster, in a temporary folder."""
    with ExitStack() as stack:
        # Not below pytest's folder: a socket's path is short, and munge wants it open to all.
        folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        conf = _configure(folder)
        environ = {**os.environ, "PATH": PATH, "SLURM_CONF": str(conf)}
        daemons: list[subprocess.Popen[bytes]] = []
        stack.callback(_reap, daemons)
        # The variable by which everything that this cluster starts is found again.
        stack.callback(_end_all, f"SLURM_CONF={conf}".encode())
        subprocess.run(["mungekey", f"--keyfile={folder}/munge.key"], env=environ, check=True)
        files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "log", "pid", "seed")]
        for command in (
            ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files],
            ["slurmctld", "-D"],
            *(["slurmd", "-D", "-N", name] for name in NODES),
        ):
            with (folder / f"{command[0]}.out").open("a") as output:
                daemons.append(subprocess.Popen(command, env=environ, stdout=output, stderr=output))
            _until((folder / "munge.socket").exists, folder)
        idle = f"{len(NODES)} idle"
        _until(lambda: idle in _output("sinfo", "-h", "-o", "%D %T", environ=environ), folder)
        yield Slurm(environ)


def _configure(folder: Path) -> Path:
    """The file that all daemons and commands read."""
    ctld_port, *ports = _free_ports(1 + len(NODES))
    host = socket.gethostname().split(".")[0]
    nodes = [
        NODE.format(name=name, host=host, port=port)
        for name, port in zip(NODES, ports, strict=True)
    ]
    conf = folder / "slurm.conf"
    conf.write_text(
        CONF.format(
            folder=folder,
            host=host,
            ctld_port=ctld_port,
            nodes="".join(nodes),
            expires=CREDENTIAL_EXPIRES_S,
        )
    )
    return conf


def _output(*words: str, environ: Mapping[str, str]) -> str:
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
    return done.stdout


def _until(condition: Callable[[], bool], folder: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            logs = (f"--- {p.name}\n{p.read_text()[-3000:]}" for p in folder.glob("*.[lo][ou][gt]"))
            raise TimeoutError("Slurm did not come up\n" + "\n".join(logs))
        time.sleep(0.1)


def _end_all(mark: bytes) -> None:
    """End every process whose environment holds the mark: daemons, steps, and what they ran."""
    for number, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
        deadline = time.monotonic() + seconds
        for pid in _marked(mark):
            _kill(pid, number)
        while _marked(mark) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert not _marked(mark)


def _reap(daemons: list[subprocess.Popen[bytes]]) -> None:
    for daemon in daemons:
        daemon.wait(timeout=30)


def _marked(mark: bytes) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        pid = int(path.parent.name)
        try:
            if pid != os.getpid() and mark in path.read_bytes().split(b"\0"):
                found.append(pid)
        except OSError:  # gone meanwhile
            continue
    return found


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [taken.getsockname()[1] for taken in sockets]
