"""Weights & Biases: offline by itself without a key, and never a reason for a run to fail."""

from __future__ import annotations

import json
import logging
import netrc
import os
import secrets
from base64 import b64encode
from typing import TYPE_CHECKING, Any, Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
from lightning.pytorch.loggers import WandbLogger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor
    from wandb import Run

Mode = Literal["auto", "online", "offline", "disabled"]
PROBE_S = 3.0  # seconds until a server that does not answer counts as unreachable
INIT_S = 5.0
FINISH_S = 5.0  # what was not uploaded by then stays on disk for `wandb sync`
STEP = "generator_step"
HISTOGRAM_BINS = 64  # W&B's own

log = logging.getLogger("srtrain")


class Wandb(WandbLogger):
    """Lightning's logger; whatever goes wrong in it costs one warning, not the run.

    Every row carries ``generator_step``: pictures too, whatever was logged before them.
    """

    def __init__(self, run: Run, *, run_dir: Path) -> None:
        super().__init__(experiment=run, save_dir=str(run_dir))
        self.run_dir = run_dir
        self.broken = False

    def log_hyperparams(self, params: Any) -> None:
        """The resolved configuration."""
        self._tolerate(super().log_hyperparams, params)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """One row of figures."""
        row = metrics if step is None else {**metrics, STEP: step}
        self._tolerate(super().log_metrics, row, step)

    def log_image(
        self, key: str, images: list[Any], step: int | None = None, **captions: Any
    ) -> None:
        """One list of pictures under ``key``."""
        self._tolerate(super().log_image, key, images, step, **captions)

    def log_histogram(self, key: str, values: Tensor, step: int) -> None:
        """How ``values`` are spread, as one histogram under ``key``."""
        import wandb

        counts, edges = np.histogram(values.cpu().numpy(), bins=HISTOGRAM_BINS)
        self.log_metrics({key: wandb.Histogram(np_histogram=(counts, edges))}, step)

    def finalize(self, status: str) -> None:
        """Nothing yet: Lightning calls this after every loop, `close` comes once."""

    def close(self) -> None:
        """End the run; an upload gets FINISH_S seconds more."""
        self._tolerate(self.experiment.finish)
        self.broken = True

    def _tolerate(self, act: Callable[..., None], *args: Any, **options: Any) -> None:
        if self.broken:
            return
        try:
            act(*args, **options)
        except Exception as error:  # whatever it is, the run goes on
            self.broken = True
            log.warning("W&B stopped logging (%s). %s", _brief(error), _sync_hint(self.run_dir))


def wandb_logger(
    *,
    run_dir: Path,
    project: str,
    entity: str | None,
    name: str | None,
    tags: Sequence[str],
    mode: Mode,
) -> Wandb | None:
    """A logger that writes below ``run_dir/wandb``; None when disabled or broken.

    ``auto`` is online where a key is set, unless WANDB_MODE says otherwise. A server that cannot
    be reached, is silent, or refuses the key costs at most PROBE_S + INIT_S seconds and one
    warning with the command that uploads the run later. One run folder is one W&B run: the id is
    kept in ``wandb/run-id``.
    """
    if mode == "auto":
        mode = _mode_from_environment()
    if mode == "disabled":
        return None
    try:
        folder = run_dir / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        options = {
            "dir": str(run_dir),
            "project": project,
            "entity": entity,
            "name": name or run_dir.name,
            "tags": list(tags),
            "id": _run_id(folder),
            "resume": "allow",
        }
        run = (_start_online(run_dir, options) if mode == "online" else None) or _start(options)
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        return Wandb(run, run_dir=run_dir)
    except Exception as error:  # whatever it is, the run goes on
        log.warning("W&B is left out: %s", _brief(error))
        return None


def _start_online(run_dir: Path, options: dict[str, Any]) -> Run | None:
    """A run on the server; None and a warning when that cannot be."""
    problem = _problem(_base_url())
    if problem is None:
        try:
            return _start(options, mode="online")
        except Exception as error:  # the probe saw nothing, wandb did
            import wandb

            wandb.teardown()  # its service still holds the run id
            problem = _brief(error)
    log.warning("W&B: %s; logging offline. %s", problem, _sync_hint(run_dir))
    return None


def _start(options: dict[str, Any], *, mode: Literal["online", "offline"] = "offline") -> Run:
    """``wandb.init`` without a word on the terminal."""
    import wandb

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # W&B's own telemetry
    wandb.setup(wandb.Settings(silent=True))
    settings = wandb.Settings(
        init_timeout=INIT_S,
        finish_timeout=FINISH_S,
        finish_timeout_raises=True,
        reinit="finish_previous",  # one process may train several runs
        silent=True,
        console="off",
    )
    return wandb.init(**options, mode=mode, settings=settings)


def _mode_from_environment() -> Mode:
    forced = os.environ.get("WANDB_MODE")
    if forced in {"online", "disabled"}:
        return forced  # type: ignore[return-value]
    return "online" if not forced and _key(_base_url()) else "offline"


def _base_url() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")


def _key(base_url: str) -> str | None:
    """The API key for a server: from the environment, else as `wandb login` left it."""
    if os.environ.get("WANDB_API_KEY"):
        return os.environ["WANDB_API_KEY"]
    try:
        entry = netrc.netrc(os.environ.get("NETRC")).authenticators(
            urlsplit(base_url).hostname or ""
        )
    except (OSError, netrc.NetrcParseError):
        return None
    return entry[2] if entry else None


def _problem(base_url: str) -> str | None:
    """Why nothing could be logged there, asked with one small query; None if all is well."""
    key = _key(base_url)
    if key is None:
        return f"no API key for {base_url} (wandb login)"
    question = Request(
        f"{base_url}/graphql",
        data=b'{"query": "query { viewer { id } }"}',
        headers={
            "Content-Type": "application/json",
            "Authorization": "Basic " + b64encode(f"api:{key}".encode()).decode(),
        },
    )
    try:
        with urlopen(question, timeout=PROBE_S) as answer:
            viewer = json.load(answer)["data"]["viewer"]
    except HTTPError as error:
        if error.code in {401, 403}:
            return f"{base_url} refuses the API key ({error.code})"
        return f"{base_url} answers {error.code}"
    except OSError as error:
        return f"{base_url} is not reachable ({_brief(getattr(error, 'reason', error))})"
    except (ValueError, KeyError, TypeError):  # a wrong answer can make W&B's own service crash
        return f"{base_url} is no W&B server"
    return None if viewer else f"{base_url} does not know the API key"


def _run_id(folder: Path) -> str:
    path = folder / "run-id"
    if not path.exists():
        path.write_text(secrets.token_hex(4), encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def _sync_hint(run_dir: Path) -> str:
    return f"Upload later with: wandb sync {run_dir}/wandb/*run-2*"


def _brief(error: object) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:160]
