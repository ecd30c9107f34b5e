"""Where ranks meet before anything is built: a store that one process keeps for all."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.fabric.plugins.environments import (
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from torch.distributed import DistError, TCPStore

from srtrain.errors import DistributedError
from srtrain.files import write_atomic
from srtrain.ranks import by_srun, granted, launched, rank
from srtrain.training.board import place, within

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.fabric.plugins.environments import ClusterEnvironment
    from torch.distributed import Store

ANSWER_S = 5.0
HELLO = "srtrain/meeting"


class Srun(SLURMEnvironment):
    """The ranks of one srun step.

    Unlike the stock one: `srun -n2` is as good as `--ntasks-per-node=2`, nobody but
    ``train.sbatch`` requeues, and two steps of one job meet at places of their own.
    """

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    @property
    def main_address(self) -> str:
        """The node of rank 0, unless ``MASTER_ADDR`` says another."""
        nodes = os.environ.get("SLURM_STEP_NODELIST", os.environ.get("SLURM_NODELIST", "127.0.0.1"))
        return os.environ.get("MASTER_ADDR") or self.resolve_root_node_address(nodes)

    @property
    def main_port(self) -> int:
        """10000…29999, from the job and step, unless ``MASTER_PORT`` says another."""
        job, step = (int(os.environ.get(f"SLURM_{part}_ID", "0")) for part in ("JOB", "STEP"))
        return int(os.environ.get("MASTER_PORT") or 10_000 + (101 * job + step) % 20_000)

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Nothing: the pre-flight has compared what was asked for with what srun started."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """Nothing: the stock check wants --ntasks-per-node and calls --ntasks a mistake."""


def cluster_environment() -> ClusterEnvironment:
    """Who started the ranks; never guessed by Lightning, which takes any allocation for srun."""
    if by_srun():
        return Srun()
    return TorchElasticEnvironment() if launched() else LightningEnvironment()


def by_agent(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun's agent keeps the store, which outlives any rank then."""
    return environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def meet(*, timeout_s: float) -> TCPStore:
    """The store of this run's ranks, wherever they are.

    On one node under srun rank 0 takes any free port and says which in a file that is named by job
    and step; on several, all derive one from these.

    Raises: DistributedError when the port is taken, or rank 0 does not come within ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    if by_srun():
        return _of_srun(Srun(), deadline)
    host, port = _given()
    if rank() == 0 and not by_agent():
        return _keep(host, port)
    return _visit(host, port, deadline, hello="" if by_agent() else _name())


def _of_srun(step: Srun, deadline: float) -> TCPStore:
    given = granted()
    if given is None or given.nodes > 1:
        if rank() == 0:
            return _keep(step.main_address, step.main_port)
        return _visit(step.main_address, step.main_port, deadline, hello=_name())
    file = Path(tempfile.gettempdir()) / f"{_name()}.port"
    if rank() == 0:
        store = _keep("127.0.0.1", 0)
        write_atomic(file, str(store.port).encode())
        return store
    while not (file.exists() and file.stat().st_uid == os.getuid()):
        if time.monotonic() > deadline:
            raise _nobody(str(file))
        time.sleep(0.1)
    return _visit("127.0.0.1", int(file.read_text()), deadline, hello=_name())


def gather(
    store: Store, what: str, text: str, *, rank: int, total: int, timeout_s: float
) -> list[str]:
    """Every rank's ``text``, once all have come here; signals are heard meanwhile.

    Raises: DistributedError when one does not come within ``timeout_s``.
    """
    keys = [f"{place(what)}/{other}" for other in range(total)]
    store.set(keys[rank], text)
    deadline = time.monotonic() + timeout_s
    said = []
    for other, key in enumerate(keys):
        while not store.check([key]):
            if time.monotonic() > deadline:
                raise DistributedError(
                    f"rank {other} did not come within {timeout_s:g} s",
                    where=f"rank {rank}",
                    fix="its own message says why, or the ranks cannot reach each other",
                )
            time.sleep(0.1)
        said.append(store.get(key).decode())
    return said


def forget() -> None:
    """Remove what rank 0 may have published, once all have come."""
    with suppress(OSError):
        (Path(tempfile.gettempdir()) / f"{_name()}.port").unlink()


def _name() -> str:
    """What tells this start of this step from all others on this machine."""
    parts = ("JOB_ID", "STEP_ID", "RESTART_COUNT", "SRUN_COMM_PORT")
    said = [os.environ.get(f"SLURM_{part}", "0") for part in parts]
    return "-".join(["srtrain", str(os.getuid()), *said])


def _given() -> tuple[str, int]:
    try:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError) as error:
        raise DistributedError(
            f"RANK={rank()} is set, but not where the ranks meet",
            where="MASTER_ADDR, MASTER_PORT",
            fix="start them by torchrun, or unset RANK and WORLD_SIZE",
        ) from error


def _keep(host: str, port: int) -> TCPStore:
    try:
        store = TCPStore(host, port, is_master=True, wait_for_workers=False)
    except DistError as error:
        raise DistributedError(
            f"rank 0 cannot listen on port {port}: it is taken, or {host} is another machine",
            where=f"{host}:{port}",
            fix="export MASTER_PORT=<a free port>, or submit the job again",
        ) from error
    store.set(HELLO, _name())
    return store


def _visit(host: str, port: int, deadline: float, *, hello: str) -> TCPStore:
    """A client, once the keeper listens and says ``hello``."""
    _listening(host, port, deadline)
    try:
        return within(ANSWER_S, lambda: _greeted(host, port, hello))
    except (DistError, TimeoutError, ValueError) as error:
        raise DistributedError(
            f"rank {rank()} met somebody else than rank 0",
            where=f"{host}:{port}",
            fix="another program has this port: export MASTER_PORT=<a free port>",
        ) from error


def _greeted(host: str, port: int, hello: str) -> TCPStore:
    store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=ANSWER_S))
    if hello and store.get(HELLO).decode() != hello:
        raise ValueError(f"another job keeps this store, not {hello}")
    return store


def _listening(host: str, port: int, deadline: float) -> None:
    while True:
        try:
            socket.create_connection((host, port), timeout=ANSWER_S).close()
        except OSError as error:  # not yet
            if time.monotonic() > deadline:
                raise _nobody(f"{host}:{port}") from error
            time.sleep(0.2)
        else:
            return


def _nobody(where: str) -> DistributedError:
    return DistributedError(
        f"rank {rank()} did not find rank 0",
        where=where,
        fix="its own message says why, or the ranks cannot reach each other",
    )
