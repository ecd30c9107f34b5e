"""A save without a training around it, and a kill or an error at any call that it makes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from srtrain.training.checkpointing import Checkpointing, OneFile
from srtrain.training.ranking import Ranking
from srtrain.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


class Saver:
    """``Checkpointing`` with a trainer that has nothing but a step and ``size`` floats of state."""

    def __init__(self, path: Path, *, size: int = 64, keep_last: int = 1, **options: Any) -> None:  # noqa: ANN401
        self.folder = RunFolder(path)
        self.folder.create()
        self.validation: Any = SimpleNamespace(val={}, mean=lambda name: None)
        ranking = Ranking(monitor="psnr_y", mode="max")
        self.checkpointing = Checkpointing(
            self.folder, self.validation, ranking, every_n_steps=1, keep_last=keep_last, **options
        )
        self.files = OneFile(_about, self.checkpointing)
        self.size = size
        self.trainer: Any = SimpleNamespace(
            lightning_module=torch.nn.Linear(1, 1), save_checkpoint=self._save_checkpoint
        )

    def save(self, step: int, *, psnr: float | None = None) -> None:
        """Save one step, measured or not, and wait until it is written."""
        self.trainer.global_step = step
        ranked = None
        if psnr is not None:
            ranked = self.checkpointing.ranking.with_candidate(
                self.checkpointing.kept, step, {"psnr_y": psnr}
            )
        self.folder.append_metrics(step, {"train/loss": 1 / step})
        self.checkpointing.save(self.trainer, ranked)
        self.checkpointing.flush()

    def names(self) -> list[str]:
        """What lies in the folder of checkpoints, hidden files too."""
        return sorted(path.name for path in self.folder.checkpoints.iterdir())

    def _save_checkpoint(self, path: Path) -> None:
        step = self.trainer.global_step
        state = {"generator.net.weight": torch.full((self.size,), float(step))}
        self.files.save_checkpoint({"global_step": step, "state_dict": state}, path)


def _about(step: int) -> dict[str, Any]:
    spec = {"_target_": "srtrain.networks.edsr.EDSRLite", "kwargs": {}}
    return {"generator": spec, "scale": 2, "config": {}, "reached": {"generator_steps": step}}


class Point(NamedTuple):
    """One call: ``open write fsync replace unlink`` and the name of the file."""

    call: str
    name: str


class Points:
    """Every call that changes a file below ``root``; ``strike`` comes before the one at ``at``.

    With ``half``, a write is half done by then.
    """

    def __init__(
        self,
        root: Path,
        patch: pytest.MonkeyPatch,
        *,
        at: Callable[[int, Point], bool] = lambda number, point: False,
        strike: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL),
        half: bool = False,
    ) -> None:
        self.seen: list[Point] = []
        self.at = at
        self._root, self._strike, self._half = root, strike, half
        self._calls = {name: getattr(os, name) for name in ("open", "fsync", "replace", "unlink")}
        for name in self._calls:
            patch.setattr(os, name, self._wrapped(name))
        self._fdopen = os.fdopen
        patch.setattr(os, "fdopen", self._opened)

    def reached(self, call: str, path: Path) -> bool:
        """Note a call; whether it is the one to strike at."""
        if not path.is_relative_to(self._root):
            return False
        self.seen.append(Point(call, path.name))
        return self.at(len(self.seen) - 1, self.seen[-1])

    def written(self, path: Path, write: Callable[[bytes], int], data: bytes) -> int:
        """Write, or be struck before, or in the midst of it."""
        if self.reached("write", path):
            if self._half:
                write(data[: len(data) // 2])
            self._strike()
        return write(data)

    def _opened(self, descriptor: int, *rest: Any, **options: Any) -> Any:  # noqa: ANN401
        if rest[:1] == ("wb",) and file_of(descriptor).is_relative_to(self._root):
            return _Unbuffered(descriptor, self)
        return self._fdopen(descriptor, *rest, **options)

    def _wrapped(self, name: str) -> Callable[..., Any]:
        call = self._calls[name]

        def wrapped(target: Any, *rest: Any) -> Any:  # noqa: ANN401
            # Of a rename, what it makes is told.
            told = rest[0] if name == "replace" else target
            if self.reached(name, file_of(told) if isinstance(told, int) else Path(told)):
                self._strike()
            return call(target, *rest)

        return wrapped


class _Unbuffered:
    """A stream whose every write is a call."""

    def __init__(self, descriptor: int, points: Points) -> None:
        self._stream = open(descriptor, "wb", buffering=0)  # noqa: SIM115
        self._path, self._points = file_of(descriptor), points

    def __enter__(self) -> _Unbuffered:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def write(self, data: bytes) -> int:
        return self._points.written(self._path, self._stream.write, bytes(data))

    def flush(self) -> None:
        """Nothing is held back."""

    def fileno(self) -> int:
        return self._stream.fileno()


def file_of(descriptor: int) -> Path:
    """What a descriptor is open on."""
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def in_a_fork(act: Callable[[], None]) -> int:
    """``act`` in a child process; its exit code, minus the number of the signal that killed it."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
