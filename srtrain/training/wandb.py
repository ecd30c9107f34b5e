"""Weights & Biases: offline by itself without a key, and never a reason for a run to fail."""

from __future__ import annotations

import atexit
import contextlib
import logging
import queue
import secrets
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from lightning.pytorch.loggers import WandbLogger

from srtrain.files import write_atomic
from srtrain.training.wandb_pictures import undecoded
from srtrain.training.wandb_sent import Sent
from srtrain.training.wandb_server import Mode, base_url, brief, mode_from_environment, problem
from srtrain.training.wandb_waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from lightning.pytorch.loggers import Logger
    from torch import Tensor
    from wandb import Run

INIT_S = 5.0
FINISH_S = 5.0  # what was not uploaded by then stays on disk for `wandb sync`
PATIENCE_S = 5.0  # with W&B's own service, which may hang: stopped, or on a dead file system
WAITING = 256  # rows and pictures that the service may be behind
STEP = "generator_step"
HISTOGRAM_BINS = 64  # W&B's own
LAUNCH_INPUTS, APPLY_INPUTS = "wandb.sdk.launch.inputs.internal", "_detect_and_apply_job_inputs"

log = logging.getLogger("srtrain")


class Wandb(WandbLogger):
    """Lightning's logger in a thread of its own; whatever goes wrong there costs one warning.

    Training never waits for W&B: not for its service, which is another process, nor its server.
    Every row carries ``generator_step``: pictures too, whatever was logged before them. What the
    W&B run was given before, by this process or an earlier one, is not given again.
    """

    def __init__(self, run: Run, *, run_dir: Path) -> None:
        super().__init__(experiment=run, save_dir=str(run_dir))
        self.run_dir = run_dir
        self.broken = False
        self._stopping = threading.Lock()
        self._sent = Sent(run_dir / "wandb" / "highest-step")
        self._waiting = Waiting(run_dir / "wandb" / "waiting")
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # before W&B's own hook, which was registered earlier

    def log_hyperparams(self, params: Any) -> None:
        """The resolved configuration."""
        self._later(lambda: super(Wandb, self).log_hyperparams(params))

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """One row of figures."""
        self._later(lambda: self._log_metrics(metrics, step))

    def log_image(
        self, key: str, images: list[Any], step: int | None = None, **captions: Any
    ) -> None:
        """One list of pictures under ``key``; a file is shown as it is now, whenever it is read."""
        if self.broken:
            return
        try:
            kept = {image: self._waiting.keep(image) for image in images if isinstance(image, str)}
        except OSError as error:
            self._stop(brief(error))
            return
        shown = [kept[image] if isinstance(image, str) else image for image in images]

        def act() -> None:  # in the thread already
            if captions or len(kept) < len(images):
                super(Wandb, self).log_image(key, shown, step, **captions)
            else:
                self.log_metrics({key: [undecoded(file) for file in kept.values()]}, step)
            for file in kept.values():
                self._waiting.drop(file)

        self._later(act)

    def log_histogram(self, key: str, values: Tensor, step: int) -> None:
        """How ``values`` are spread, as one histogram under ``key``."""
        import wandb

        counts, edges = np.histogram(values.cpu().numpy(), bins=HISTOGRAM_BINS)
        self.log_metrics({key: wandb.Histogram(np_histogram=(counts, edges))}, step)

    def finalize(self, status: str) -> None:
        """Nothing yet: Lightning calls this after every loop, `close` comes once."""

    def wait(self) -> None:
        """Until W&B's service has been given all that was logged so far, or logging stopped."""
        told = threading.Event()
        self._later(told.set)
        while not (self.broken or told.wait(0.1)):
            pass

    def close(self) -> None:
        """End the run; an upload gets FINISH_S seconds more."""
        atexit.unregister(self.close)
        self._later(self.experiment.finish)
        with contextlib.suppress(queue.Full):
            self._jobs.put_nowait(None)
        if not self.broken:
            self._thread.join(FINISH_S + PATIENCE_S)
            if self._thread.is_alive():
                self._stop("its service does not answer")
        self.broken = True
        self._waiting.clear()

    def _log_metrics(self, metrics: Mapping[str, Any], step: int | None) -> None:
        row = dict(metrics)
        if step is not None:
            fresh = self._sent.new(row.keys() - {STEP}, step)
            if not fresh:
                return
            row = {name: value for name, value in row.items() if name in fresh} | {STEP: step}
        super().log_metrics(row, step)

    def _later(self, act: Callable[[], None]) -> None:
        if self.broken:
            return
        if threading.current_thread() is self._thread:
            act()
            return
        try:
            self._jobs.put(act, timeout=PATIENCE_S)
        except queue.Full:
            self._stop("its service does not answer")

    def _work(self) -> None:
        while (act := self._jobs.get()) is not None:
            if self.broken:
                continue
            try:
                act()
            except Exception as error:  # whatever it is, the run goes on
                self._stop(brief(error))

    def _stop(self, reason: str) -> None:
        with self._stopping:
            if self.broken:  # both threads may find out
                return
            self.broken = True
        log.warning("W&B stopped logging (%s). %s", reason, _sync_hint(self.run_dir))
        _end_service()


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
        mode = mode_from_environment()
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
        log.warning("W&B is left out: %s", brief(error))
        return None


def _start_online(run_dir: Path, options: dict[str, Any]) -> Run | None:
    """A run on the server; None and a warning when that cannot be."""
    reason = problem(base_url())
    if reason is None:
        try:
            return _start(options, mode="online")
        except Exception as error:  # the probe saw nothing, wandb did
            import wandb

            wandb.teardown()  # its service still holds the run id
            reason = brief(error)
    log.warning("W&B: %s; logging offline. %s", reason, _sync_hint(run_dir))
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
    with _no_launcher():
        return wandb.init(**options, mode=mode, settings=settings)


@contextlib.contextmanager
def _no_launcher() -> Iterator[None]:
    """Within, ``wandb.init`` does not import W&B's job launcher, which takes 1.3 CPU-s.

    It would ask it for inputs that this process has staged; there are none where nobody has
    imported it before.
    """
    from wandb import Run

    apply = getattr(Run, APPLY_INPUTS, None)
    if apply is None or LAUNCH_INPUTS in sys.modules:
        yield
        return
    setattr(Run, APPLY_INPUTS, lambda _: None)
    try:
        yield
    finally:
        setattr(Run, APPLY_INPUTS, apply)


def _end_service() -> None:
    """Without its service W&B neither keeps the program from ending nor prints a traceback then.

    What the service holds it may write; a service that hangs is killed.
    """
    import wandb

    connection = getattr(wandb.setup(), "_connection", None)
    service = getattr(getattr(connection, "_proc", None), "_process", None)

    def end() -> None:
        with contextlib.suppress(Exception):
            wandb.teardown()

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    ending.join(PATIENCE_S)
    if service is not None:
        if ending.is_alive():
            service.kill()
        try:
            service.wait(PATIENCE_S)  # no zombie
        except subprocess.TimeoutExpired:
            service.kill()
            service.wait()


def close_runs(loggers: Iterable[Logger]) -> None:
    """Finish the runs among ``loggers``."""
    for logger in loggers:
        if isinstance(logger, Wandb):
            logger.close()


def _run_id(folder: Path) -> str:
    path = folder / "run-id"
    if not path.exists():
        write_atomic(path, secrets.token_hex(4).encode())
    return path.read_text(encoding="utf-8").strip()


def _sync_hint(run_dir: Path) -> str:
    return f"Upload later with: wandb sync {run_dir}/wandb/*run-2*"
