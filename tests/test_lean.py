"""What Lightning would do around a step is left out where nobody listens, and only there."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from torch import nn
from torch.utils.data import DataLoader

from srtrain.training.checkpointing import OneFile
from srtrain.training.keyed import KeyedSteps
from srtrain.training.lean import HOOKS, Unmeasured, is_heard, precision
from srtrain.training.loop import (
    SIGNAL_CONNECTOR,
    SIGNAL_HANDLERS,
    SIGTERM_QUESTION,
    STEP_ARGUMENTS,
    TrainerOptions,
    _step_arguments,
    make_trainer,
    replaced,
)
from srtrain.training.supervised import SupervisedSR

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:.*`srun` command is available:UserWarning")


class _Line(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.net(batch).square().mean())
        optimizer.step()
        optimizer.zero_grad()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class _Told(Callback):
    """Overrides one of the hooks, as a user's callback may."""

    def __init__(self) -> None:
        self.calls = 0


def _hear(callback: _Told, *_: object) -> None:
    callback.calls += 1


def _fit(callbacks: list[Callback], *, name: str = "32-true") -> tuple[Trainer, _Line]:
    torch.manual_seed(0)
    module = _Line()
    trainer = Trainer(
        max_steps=3,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        callbacks=callbacks,
        profiler=Unmeasured(),
        plugins=[precision(name, "cpu")],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(torch.ones(6, 1), batch_size=2))  # type: ignore[arg-type]
    return trainer, module


@pytest.mark.parametrize("name", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("hook", [None, *HOOKS])
def test_a_hook_that_somebody_has_is_called(hook: str | None, name: str) -> None:
    told = type("_One", (_Told,), {hook: _hear} if hook else {})()
    trainer, module = _fit([told], name=name)
    assert told.calls == (3 if hook else 0)
    assert trainer.global_step == 3  # steps are counted all the same
    _, same = _fit([], name=name)
    assert torch.equal(module.net.weight, same.net.weight)
    assert is_heard(trainer, module) == (hook is not None)


def test_what_a_step_is_given_is_what_lightning_would_give() -> None:
    """Its own way is replaced by name."""
    loop = _TrainingEpochLoop(Trainer(accelerator="cpu", logger=False))
    loop.trainer.strategy._lightning_module = SupervisedSR.__new__(SupervisedSR)
    whole = getattr(loop, STEP_ARGUMENTS)(OrderedDict(), "batch", 3)
    assert whole == _step_arguments(OrderedDict(), "batch", 3)


class _Later:
    """A loop of Lightning's in some later version."""

    def asked(self) -> str:
        return "own"

    def told(self, step: int) -> str:
        return f"own {step}"


@pytest.mark.parametrize(
    ("name", "by", "log"),
    [
        ("asked", lambda: "ours", ""),
        ("told", lambda step: "ours", ""),
        ("renamed", lambda: "ours", "renamed is left as it is: it is not there"),
        ("told", lambda: "ours", "told is left as it is: it takes something else"),
        ("told", lambda step, loss: "ours", "told is left as it is: it takes something else"),
        ("asked", lambda step: "ours", "asked is left as it is: it takes something else"),
    ],
)
def test_what_lightning_has_no_more_or_calls_otherwise_stays(
    caplog: pytest.LogCaptureFixture, name: str, by: Callable[..., str], log: str
) -> None:
    later: Any = _Later()
    with caplog.at_level("DEBUG", logger="srtrain"):
        replaced(later, name, by)
    assert len(caplog.records) == bool(log)
    assert log in caplog.text
    assert vars(later) == ({} if log else {name: by})


def _trainer(folder: Path) -> Trainer:
    options = TrainerOptions(max_steps=1, accelerator="cpu")
    files = OneFile(lambda _: {}, cast("Any", None))  # nothing is saved
    return make_trainer(options, run_dir=folder, callbacks=[], loggers=[], checkpoint_io=files)


def _build_kwargs(self: object, kwargs: Any, batch: object, batch_idx: int, rest: object) -> Any:  # noqa: ANN401
    return kwargs


@pytest.mark.parametrize("later", [False, True])
def test_a_later_lightning_makes_a_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, later: bool
) -> None:
    if later:
        monkeypatch.setattr(_TrainingEpochLoop, STEP_ARGUMENTS, _build_kwargs)
        monkeypatch.delattr(_TrainingEpochLoop, SIGTERM_QUESTION)
        monkeypatch.delattr(_SignalConnector, SIGNAL_HANDLERS)
    with caplog.at_level("DEBUG", logger="srtrain"):
        trainer = _trainer(tmp_path)
    ours = vars(trainer.fit_loop.epoch_loop)
    connector = vars(getattr(trainer, SIGNAL_CONNECTOR))
    found = [STEP_ARGUMENTS in ours, SIGTERM_QUESTION in ours, SIGNAL_HANDLERS in connector]
    assert found == 3 * [not later]
    assert caplog.text.count("is left as it is") == 3 * later


def test_a_step_is_seeded_without_leaving_a_trace() -> None:
    """torch.manual_seed would queue one call a step for every kind of device not in use."""
    queue: list[Any] = torch.cuda._queued_calls
    before, draws = len(queue), []

    class _Draws(Callback):
        def on_train_batch_end(self, *_: object) -> None:
            draws.append(torch.rand(()).item())

    _fit([KeyedSteps(seed=1), _Draws()])
    again, draws = draws, []
    torch.rand(5)
    _fit([KeyedSteps(seed=1), _Draws()])
    assert draws == again
    assert len(set(draws)) == 3
    if not torch.cuda.is_initialized():
        assert len(queue) <= before + 2  # those of _fit itself
