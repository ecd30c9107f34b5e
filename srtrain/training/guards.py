"""Steps that are not taken, because a loss or a gradient is not finite; and when that is too much.

A step is refused on the device: the host hears of it when figures are fetched anyway, or in copies
that were launched long before they are read. Gradients are averaged before they are judged, so all
ranks refuse the same steps, and give up at the same one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from srtrain.errors import DivergedError
from srtrain.process_group import anywhere
from srtrain.training.divergence import Divergence

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from srtrain.training.run_folder import RunFolder
    from srtrain.training.supervised import SupervisedSR

PATIENCE = 10  # steps refused in a row
SQUARABLE = 1e18  # float32 ends at 3.4e38
# Of a coin d_loss is 2 at most (hinge; 2 log 2 of the logistic ones, 0 of Wasserstein's). Learning
# rates 10⁴ times too high bring it to between 10² and 10¹⁰; one that can be recovered from, below.
EXPLODED = 50.0
SKIPPED = ("skipped", "d_skipped")  # among a step's figures: 1 where a network's step was refused
DISCRIMINATOR = "discriminator"  # where it broke, if not in the generator


class RollBack(DivergedError):  # noqa: N818 - a request; an error only if it cannot be granted
    """The state of ``step`` is lost; that of steps before ``limit`` is not known to be."""

    def __init__(self, what: str, *, term: str, step: int, limit: int | None = None) -> None:
        judge = term == "adversarial" or term.startswith("d_")  # SR itself was finite
        super().__init__(what, where=DISCRIMINATOR if judge else "")
        self.term = term
        self.step = step
        self.limit = step if limit is None else limit


def spoil(gradients: Sequence[Tensor], loss: Tensor) -> None:
    """Make a gradient NaN where the ``loss`` is not finite: then its norm is, on all ranks."""
    gradients[0].add_(loss.detach() * 0)


def refuse(optimizer: Any, norm: Tensor) -> Tensor:
    """1 if the gradient's ``norm`` is not finite, else 0; the next ``step()`` then does nothing.

    Fused optimizers look at their ``found_inf`` on the device, as ``GradScaler`` has it: neither
    weights, moments nor counters change. Others are waited for, and find no gradients. So is the
    first step: of it, SGD makes its momentum whatever ``found_inf`` says.
    """
    found = norm.mul(0.0).ne_(0.0)  # NaN and infinity times 0 are NaN
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)
    if fused and hasattr(optimizer, "found_inf"):
        optimizer.found_inf = found
    elif bool(found):
        optimizer.zero_grad(set_to_none=True)
    elif fused:
        optimizer.found_inf, optimizer.grad_scale = found, None
    return found


def blamed(not_finite: Collection[str], terms: Iterable[str]) -> str:
    """Which of a step's figures to name: a term of the loss before what it made of others."""
    order = (*terms, "loss", "grad_norm", "d_loss", "d_grad_norm")
    return next((name for name in order if name in not_finite), "grad_norm")


def refuse_to_save(module: nn.Module, step: int) -> None:
    """Nothing, if the weights and the statistics of ``module`` are finite on all ranks.

    Raises: RollBack if they are not, or so large that a squared error is not.
    """
    values = [p.detach() for p in module.parameters()]
    values += [b for b in _statistics(module) if b.is_floating_point()]
    largest = torch.stack(torch._foreach_norm(values, math.inf))
    if anywhere((largest < SQUARABLE).all().logical_not()):
        what = f"the weights are not finite, or beyond {SQUARABLE:g}, at step {step}"
        raise RollBack(what, term="weights", step=step)


def refuse_exploded(means: Mapping[str, float], *, first: int, step: int) -> None:
    """Nothing, unless the discriminator was absurdly wrong from step ``first`` to ``step``.

    Raises: RollBack.
    """
    wrong = means.get("d_loss", 0.0)
    if wrong > EXPLODED:
        what = (
            f"`d_loss` is {wrong:.0f} on average, above {EXPLODED:g}, from step {first} to {step}"
        )
        raise RollBack(what, term="d_loss", step=step, limit=first)


class Guard(Callback):
    """Keeps what a refused step must not move, and gives up after ``PATIENCE`` of them in a row.

    Where a loss is not finite, the images often were not, and batch norm has averaged them. The
    learning rates of a run that was rolled back are lowered here (``rates``: as configured). It
    must come before whoever reads the statistics or the figures of a step.

    Raises: RollBack, on all ranks at the same step.
    """

    def __init__(self, folder: RunFolder, rates: Mapping[str, float]) -> None:
        super().__init__()
        self.folder = folder
        self.rates = rates
        self.streak = Streak()
        self._live: list[Tensor] = []
        self._kept: list[Tensor] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before there are optimizers. Rank 0 says: its file may not have reached other nodes."""
        module: SupervisedSR = pl_module  # type: ignore[assignment]
        factor = Divergence(self.folder.path, self.rates).lr_factor
        module.lr_factor = trainer.strategy.broadcast(factor)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the statistics."""
        self._live = _statistics(pl_module)
        self._kept = [value.clone() for value in self._live]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the statistics."""
        if self._live:
            torch._foreach_copy_(self._kept, self._live)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Put the statistics back if the step was refused; see whether it is one of too many."""
        module: SupervisedSR = pl_module  # type: ignore[assignment]
        values, step = module.step_values, trainer.global_step
        flags = [values[name] for name in SKIPPED if name in values]
        refused = flags[0] if len(flags) == 1 else torch.maximum(*flags)
        if self._live:
            self._put_back(refused, values)
        if self.streak.add(step, refused, last=step == trainer.max_steps):
            term = self._blamed(trainer, module)
            first = self.streak.first
            what = f"`{term}` is not finite, from step {first} to {step}"
            raise RollBack(what, term=term, step=step, limit=first)

    def state_dict(self) -> dict[str, Any]:
        """The streak, for resuming."""
        return self.streak.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue an earlier streak."""
        self.streak.load_state_dict(state_dict)

    def _put_back(self, refused: Tensor, values: Mapping[str, Tensor]) -> None:
        losses = torch.stack([values[name] for name in ("loss", "d_loss") if name in values])
        broken = refused.bool() | torch.isfinite(losses).all().logical_not()
        for live, kept in zip(self._live, self._kept, strict=True):
            live.copy_(torch.where(broken, kept, live))

    def _blamed(self, trainer: Trainer, module: SupervisedSR) -> str:
        """Of this step's figures on whichever rank."""
        values = module.step_values
        means = trainer.strategy.reduce(torch.stack(list(values.values())), reduce_op="mean")
        pairs = zip(values, means.tolist(), strict=True)
        found = {name for name, mean in pairs if not math.isfinite(mean)}
        return blamed(found, module.loss.weights)


class Streak:
    """How many steps were refused in a row, as far as the host has heard.

    Every ``PATIENCE`` steps it launches a copy of their flags and reads the one launched before: on
    a GPU nobody waits for it, on a CPU it is read at once. Which steps make a block depends on
    their number alone, so a resumed run gives up where the undisturbed one would have.
    """

    def __init__(self) -> None:
        self.length = 0
        self.first = 0  # step of the streak
        self._flags: list[Tensor] = []
        self._copied: list[tuple[int, Tensor, torch.cuda.Event | None]] = []  # one at most

    def add(self, step: int, refused: Tensor, *, last: bool) -> bool:
        """One more step; whether too many in a row were refused. The ``last`` is waited for."""
        self._flags.append(refused.detach())
        if step % PATIENCE and not last:
            return False
        self._read()
        self._launch(step)
        if last or not refused.is_cuda:
            self._read()
        return self.length >= PATIENCE

    def state_dict(self) -> dict[str, Any]:
        """What was read, what is on its way, and what is not."""
        self._wait()
        flags = [float(flag) for flag in self._flags]  # a checkpoint's are on the CPU
        copied = [[step, block.tolist()] for step, block, _ in self._copied]
        return {"length": self.length, "first": self.first, "flags": flags, "copied": copied}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue an earlier streak."""
        self.length, self.first = int(state_dict["length"]), int(state_dict["first"])
        self._flags = [torch.tensor(flag) for flag in state_dict["flags"]]
        self._copied = [(step, torch.tensor(block), None) for step, block in state_dict["copied"]]

    def _launch(self, step: int) -> None:
        device = self._flags[-1].device
        block = torch.stack([flag.to(device, non_blocking=True) for flag in self._flags])
        copied, event = block.to("cpu", non_blocking=True), None
        if device.type == "cuda":
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))
        self._flags, self._copied = [], [(step, copied, event)]

    def _wait(self) -> None:
        for _, _, event in self._copied:
            if event is not None:
                event.synchronize()

    def _read(self) -> None:
        self._wait()
        for end, block, _ in self._copied:
            for step, refused in enumerate(block.tolist(), start=end - len(block) + 1):
                self.first = self.first if self.length else step
                self.length = self.length + 1 if refused else 0
        self._copied = []


def _statistics(module: nn.Module) -> list[Tensor]:
    """What batch norm and its like average while they train."""
    of = (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._NormBase))
    return [buffer for norm in of for buffer in norm.buffers(recurse=False)]
