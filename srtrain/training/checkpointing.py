"""When checkpoints are written, which stay, and how Lightning's state becomes our file."""

from __future__ import annotations

import errno
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import CheckpointIO

from srtrain.errors import ConfigError, StorageError
from srtrain.networks.storage import (
    by_step,
    checkpoint_name,
    is_valid,
    read_checkpoint,
    step_of,
    write_checkpoint,
)
from srtrain.training.guards import refuse_to_save
from srtrain.training.writer import Writer, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from lightning.pytorch import LightningModule, Trainer

    from srtrain.training.ranking import Ranked, Ranking
    from srtrain.training.run_folder import RunFolder
    from srtrain.training.validation import Validation

TRAIN_STATE = "train_state"
NETWORK = "generator.net."
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class OneFile(CheckpointIO):
    """Lightning's checkpoint dict ⇄ the file of ``srtrain.networks.storage``.

    ``about(step)`` is what the file must say about itself: ``generator``, ``scale``, ``version``,
    ``features``, ``config``… in plain JSON types. ``checkpointing`` writes it. ``read`` holds files
    that have been read already: each is given away once.
    """

    def __init__(
        self,
        about: Callable[[int], Mapping[str, Any]],
        checkpointing: Checkpointing,
        *,
        read: Mapping[Path, dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.about = about
        self.checkpointing = checkpointing
        self._read = dict(read or {})

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Hand over one self-describing copy; its ``state_dict`` is the EMA where there is one."""
        weights = {
            key.removeprefix(NETWORK): value
            for key, value in checkpoint["state_dict"].items()
            if key.startswith(NETWORK)
        }
        average = checkpoint.get("callbacks", {}).get("EMA", {}).get("average")
        step = int(checkpoint["global_step"])
        content = {
            **self.about(step),
            "step": step,
            "state_dict": average or weights,
            TRAIN_STATE: checkpoint,
        }
        self.checkpointing.taken = Path(path), snapshot(content)

    def flush(self) -> None:
        """Wait for what is being written; raises what went wrong with it."""
        self.checkpointing.flush()

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Lightning's part of the file, read with ``weights_only=True`` always."""
        content = self._read.pop(Path(path), None) or read_checkpoint(Path(path))
        if TRAIN_STATE not in content:
            raise StorageError(
                "this file holds weights only, no training state",
                where=str(path),
                fix="start from it with init_from=FILE instead of resuming",
            )
        state: dict[str, Any] = content[TRAIN_STATE]
        return state

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete one file."""
        Path(path).unlink(missing_ok=True)


class Checkpointing(Callback):
    """Saves every ``every_n_steps`` and at the end; keeps the newest ``keep_last`` and the best.

    Where validation is due at the same step, as it is at the last one, it saves after it, so that
    the file counts as measured. The step waits for a copy of the state alone; a thread writes it,
    then the pointer, and then prunes what is superseded. What went wrong there is raised at the end
    of the next step (with ``on_save_error="warn"`` it is told, and training goes on).

    ``last_step``, ``best`` and ``kept`` are what lies in the folder; ``saved_at`` is the last step
    that was handed to the thread, on every rank.

    Raises: ConfigError after the first validation if that did not measure what ``ranking`` needs.
    """

    def __init__(
        self,
        folder: RunFolder,
        validation: Validation,
        ranking: Ranking,
        *,
        every_n_steps: int,
        keep_last: int,
        on_save_error: Literal["error", "warn"] = "error",
    ) -> None:
        super().__init__()
        self.folder = folder
        self.validation = validation
        self.ranking = ranking
        self.every_n_steps = every_n_steps
        self.keep_last = max(1, keep_last)
        self.on_save_error = on_save_error
        self.last_step: int | None = None
        self.kept: list[Ranked] = []  # the best, the very best first
        self.saved_at: int | None = None
        self.taken: tuple[Path, dict[str, Any]] | None = None
        self.writer = Writer()
        self._ranked: list[Ranked] = []  # with the one that is being written

    @property
    def best(self) -> Ranked:
        """The very best; empty before any."""
        return self.kept[0] if self.kept else {}

    def restore(self, last_step: int, kept: Sequence[Ranked] = ()) -> None:
        """Go on where a checkpoint was saved; what was best counts if it is still there."""
        self.last_step = self.saved_at = last_step
        there = [k for k in kept if (self.folder.checkpoints / k["file"]).is_file()]
        self.kept = self._ranked = [k for k in there if k["metric"] == self.ranking.monitor]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save now unless validation comes first."""
        self._hear(self.writer.check)
        step = trainer.global_step
        if step == trainer.max_steps:
            trainer.should_stop = True  # Lightning validates before it stops
        elif step % self.every_n_steps == 0 and step % int(trainer.val_check_interval):
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what validation was due with, or what turned out to be among the best so far."""
        step, means = trainer.global_step, self.monitored()
        if step == 0 or means is None:
            return
        ranked = self.ranking.with_candidate(self._ranked, step, means)
        # Rank 0 decides: it alone knows what could not be written.
        better = trainer.strategy.broadcast(ranked != self._ranked)
        if better or step % self.every_n_steps == 0 or step >= trainer.max_steps:
            self.save(trainer, ranked)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last save must have come through."""
        self.flush(final=True)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """What is being written is written to its end, whatever broke."""
        with suppress(StorageError):
            self.writer.flush()

    def save(self, trainer: Trainer, ranked: Sequence[Ranked] | None = None) -> None:
        """Copy the state of this step and have it written; ``ranked``: the best, with this one."""
        self.flush()
        refuse_to_save(trainer.lightning_module, trainer.global_step)
        self._ranked = self._ranked if ranked is None else list(ranked)
        told = self.last_step, self.kept
        step = trainer.global_step
        self.last_step, self.kept = step, self._ranked  # the file names itself
        try:
            trainer.save_checkpoint(self.folder.checkpoints / checkpoint_name(step))
        finally:
            self.last_step, self.kept = told
        self.saved_at = step
        taken, self.taken = self.taken, None
        if taken is None:  # another rank than 0, which takes it for done
            self.last_step, self.kept = step, self._ranked
        else:
            self.writer.start(partial(self._commit, *taken, self._ranked))

    def flush(self, *, final: bool = False) -> None:
        """Wait until what was saved lies in the folder; a ``final`` save may not fail.

        Raises: StorageError if it could not be written.
        """
        self._hear(self.writer.flush, final=final)

    def monitored(self) -> dict[str, float] | None:
        """The last validation's means of what the ranking needs; None before any.

        Raises: ConfigError when there is no such metric, naming those that were measured.
        """
        measured = {name for figures in self.validation.val.values() for name in figures}
        means = {name: self.validation.mean(name) for name in self.ranking.metrics}
        found = {name: value for name, value in means.items() if value is not None}
        for name in means.keys() - found.keys() if measured else ():
            raise ConfigError(
                f"nothing measures {name}",
                where="checkpoint." + ("monitor" if name == self.ranking.monitor else "floor"),
                fix=f"choose one of {', '.join(sorted(measured))}{_lpips_hint(name, measured)}",
            )
        return found or None

    def _hear(self, ask: Callable[[], None], *, final: bool = False) -> None:
        try:
            ask()
        except StorageError as error:
            if final or self.on_save_error == "error":
                raise
            self._ranked = self.kept
            sys.stderr.write(f"srtrain: warning: {error}\n")

    def _commit(self, path: Path, content: dict[str, Any], ranked: list[Ranked]) -> None:
        """In the thread: the figures up to this step, the file, the pointer; then prune."""
        self.folder.check()
        self.folder.sync_metrics()
        try:
            write_checkpoint(path, content)
        except StorageError as error:
            self.folder.check()  # if it was taken away meanwhile, that is what to say
            if getattr(error.__cause__, "errno", None) not in FULL or not self._make_room(path):
                raise
            write_checkpoint(path, content)
        self.last_step, self.kept = int(content["step"]), ranked
        _remove(self._older(path)[: -self.keep_last], ranked)

    def _make_room(self, path: Path) -> bool:
        """Prune what the file will supersede before it is written, never the newest valid one."""
        older = [file for file in self._older(path) if file != path]
        newest = next((file for file in reversed(older) if is_valid(file)), None)
        if newest is None:
            return False
        superseded = older[: older.index(newest)]
        return _remove(superseded[: max(0, len(older) - self.keep_last + 1)], self.kept)

    def _older(self, path: Path) -> list[Path]:
        """The checkpoints up to this one; a file beyond it is of a future that was lost."""
        return [file for file in by_step(self.folder.checkpoints) if step_of(file) <= step_of(path)]


def _remove(superseded: Sequence[Path], best: Collection[Ranked]) -> bool:
    """Whether there was anything to remove that is not among the best."""
    names = {kept["file"] for kept in best}
    removed = [path for path in superseded if path.name not in names]
    for path in removed:
        with suppress(OSError):  # it is in nobody's way
            path.unlink(missing_ok=True)
    return bool(removed)


def _lpips_hint(name: str, measured: Collection[str]) -> str:
    unmeasured = name.startswith("lpips") and not any(m.startswith("lpips") for m in measured)
    return "; metrics.lpips.net=squeeze measures lpips_squeeze" if unmeasured else ""
