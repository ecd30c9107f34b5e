"""Between two lines of figures nobody waits for the device: a GPU would run dry.

Without a GPU its place is taken by what would make it wait: reading a number or an image back.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import srtrain.cli.train
from srtrain.training.guards import PATIENCE, Streak
from srtrain.training.loop import make_trainer
from tests.training import draw_sets, train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer

aten = torch.ops.aten
STEPS, LINES = 24, 6  # steps, and how many lie between two lines
READS = (
    "new_tensor",
    "item",
    "tolist",
    "numpy",
    "cpu",
    "__bool__",
    "__float__",
    "__int__",
    "__index__",
)
# What CUDA must know the result of, to go on.
NEEDS_RESULT = {
    aten._local_scalar_dense,
    aten.equal,
    aten.is_nonzero,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.bincount,
}


class WaitedError(Exception):
    """Somebody would have waited for the device."""


class _Dispatch(TorchDispatchMode):
    """Also what C++ asks for itself, as an optimizer may."""

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        masks = args[1] if func.overloadpacket in {aten.index, aten.index_put_} else ()
        masked = any(mask is not None and mask.dtype == torch.bool for mask in masks)
        if func.overloadpacket in NEEDS_RESULT or masked:
            raise WaitedError(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def watched() -> Iterator[None]:
    """Within, reading from a tensor raises; numbers of samples are the host's own."""

    def refused(name: str, whole: Callable[..., Any]) -> Callable[..., Any]:
        def read(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            if tensor.dtype != torch.int64:
                raise WaitedError(f"Tensor.{name}")
            return whole(tensor, *args, **kwargs)

        return read

    with pytest.MonkeyPatch.context() as patch, _Dispatch():
        for name in READS:
            patch.setattr(Tensor, name, refused(name, getattr(Tensor, name)))
        yield


@contextmanager
def watched_gpu() -> Iterator[None]:
    """Within, torch raises where it would wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class _Steps:
    """From before the first callback to after the last one, of every step between two lines."""

    def __init__(self, watch: Callable[[], Any]) -> None:
        self.watch = watch
        self.seen: list[int] = []
        self.within = ExitStack()
        self.first, self.last = Callback(), Callback()
        self.first.on_train_batch_start = self.enter  # type: ignore[method-assign]
        self.last.on_train_batch_end = self.leave  # type: ignore[method-assign]

    def enter(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        step = trainer.global_step + 1
        if 1 < step < STEPS and step % LINES:  # of the first, see `refuse`
            self.seen.append(step)
            self.within.enter_context(self.watch())

    def leave(self, *_: object) -> None:
        self.within.close()


def _watched_run(
    images: Path, folder: Path, words: list[str], watch: Callable[[], Any]
) -> list[int]:
    """The steps that were watched."""
    steps = _Steps(watch)

    def make(options: Any, *, callbacks: list[Callback], **given: Any) -> Trainer:  # noqa: ANN401
        return make_trainer(options, callbacks=[steps.first, *callbacks, steps.last], **given)

    often = [
        f"trainer.max_steps={STEPS}",
        f"trainer.log_every_n_steps={LINES}",
        f"trainer.val_every_n_steps={STEPS}",
        f"checkpoint.every_n_steps={STEPS}",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(srtrain.cli.train, "make_trainer", make)
        try:
            train(images, folder, *often, *words)
        finally:
            steps.within.close()
    return steps.seen


RUNS = {
    "supervised": ["loss.weights.pixel_charbonnier=0.1", "loss.weights.fft=0.05"],
    "batch norm": ["generator=srresnet", "generator.num_features=4", "generator.num_blocks=1"],
    "bf16, accumulated": ["trainer.precision=bf16", "trainer.accumulate=2"],
    "quantiles": ["experiment=quantile"],
    "adversarial": [
        "discriminator=patchgan",
        "discriminator.n_layers=1",
        "discriminator.base_channels=4",
        "loss.weights.perceptual=0.009",
    ],
    "relativistic, penalised": [
        "discriminator=patchgan",
        "discriminator.n_layers=1",
        "discriminator.base_channels=4",
        "objective=ragan",
        "objective.r1_gamma=0.1",
        "model.clip_norm=1",
        "model.discriminator_clip_norm=1",
    ],
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS.keys())
def test_nobody_waits(
    words: list[str], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A CPU's flags are read at once; a GPU's, from a copy that was launched ten steps before.
    monkeypatch.setattr(Streak, "_read", lambda streak: streak._copied.clear())
    seen = _watched_run(images, tmp_path / "run", words, watched)
    assert seen == [n for n in range(2, STEPS) if n % LINES]
    assert {PATIENCE, 2 * PATIENCE} <= {*seen}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS.keys())
def test_nobody_waits_for_a_gpu(words: list[str], images: Path, tmp_path: Path) -> None:
    words = [*words, "trainer.accelerator=gpu"]
    seen = _watched_run(images, tmp_path / "run", words, watched_gpu)
    assert seen == [n for n in range(2, STEPS) if n % LINES]


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.mean().item(),
        lambda x: float(x.mean()),
        lambda x: bool((x > 0).all()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: x.new_tensor(1.0),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.nn.utils.clip_grad_norm_([x], 1.0, error_if_nonfinite=True),
    ],
)
def test_waiting_is_seen(wait: Callable[[Tensor], object]) -> None:
    x = torch.ones(3)
    x.grad = torch.ones(3)
    with pytest.raises(WaitedError), watched():
        wait(x)
    wait(x)
