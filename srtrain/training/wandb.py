"""Weights & Biases: offline by itself without a key, and never a reason for a run to fail."""

from __future__ import annotations

import logging
import netrc
import os
import secrets
import socket
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lightning.pytorch.loggers import WandbLogger

Mode = Literal["auto", "online", "offline", "disabled"]
REACHABLE_S = 3.0
INIT_S = 6.0

log = logging.getLogger("srtrain")


def wandb_logger(
    *,
    run_dir: Path,
    project: str,
    entity: str | None,
    name: str | None,
    tags: Sequence[str],
    mode: Mode,
) -> WandbLogger | None:
    """A logger that writes below ``run_dir/wandb``; None when disabled or broken.

    ``auto`` is online where a key is set. An unreachable server costs at most REACHABLE_S +
    INIT_S seconds and a warning with the command that uploads the run later. One run folder is one
    W&B run: the id is kept in ``wandb/run-id``.
    """
    if mode == "disabled":
        return None
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    online = mode == "online" or (mode == "auto" and _wants_online())
    if online and not _reachable():
        log.warning("W&B is not reachable; logging offline. %s", _sync_hint(run_dir))
        online = False
    folder = run_dir / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    for attempt in ("online", "offline") if online else ("offline",):
        try:
            run = wandb.init(
                dir=str(run_dir),
                project=project,
                entity=entity,
                name=name or run_dir.name,
                tags=list(tags),
                id=_run_id(folder),
                resume="allow",
                mode=attempt,
                settings=wandb.Settings(init_timeout=INIT_S, silent=True, console="off"),
            )
        except Exception as error:  # whatever it is, the run goes on
            log.warning("W&B failed (%s); %s", str(error)[:160], _sync_hint(run_dir))
            continue
        run.define_metric("generator_step")
        run.define_metric("*", step_metric="generator_step")
        return WandbLogger(experiment=run, save_dir=str(run_dir))
    return None


def _wants_online() -> bool:
    forced = os.environ.get("WANDB_MODE")
    if forced:
        return forced == "online"
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(_base_url()).hostname
    try:
        return host is not None and netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _base_url() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def _reachable() -> bool:
    url = urlsplit(_base_url())
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        with socket.create_connection((url.hostname or "", port), timeout=REACHABLE_S):
            return True
    except OSError:
        return False


def _run_id(folder: Path) -> str:
    path = folder / "run-id"
    if not path.exists():
        path.write_text(secrets.token_hex(4), encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def _sync_hint(run_dir: Path) -> str:
    return f"Upload later with: wandb sync {run_dir}/wandb/offline-run-*"
