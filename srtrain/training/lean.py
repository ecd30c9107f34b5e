"""What Lightning does around every step for parts that this run does not have, left out."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.profilers import Profiler

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.pytorch import Trainer
    from torch import Tensor

HOOKS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step")
_NOTHING = nullcontext()


class Unmeasured(Profiler):
    """No profile: Lightning's own way of taking none enters 120 generators a step."""

    def start(self, action_name: str) -> None:
        """Nothing."""

    def stop(self, action_name: str) -> None:
        """Nothing."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """Nothing, around anything."""
        return _NOTHING


class _Lean(Precision):
    """Backward and step are called as they are, unless somebody listens to the hooks around them.

    Each of the three would ask every callback in turn. Gradients are clipped by the module.
    """

    _told: bool | None = None

    def pre_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:  # type: ignore[override]
        """The loss as it is."""
        return super().pre_backward(tensor, module) if self._heard(module) else tensor

    def post_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:  # type: ignore[override]
        """The loss as it is; nobody reads it."""
        return super().post_backward(tensor, module) if self._heard(module) else tensor

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Any, model: LightningModule, closure: Callable[[], Any], **options: Any
    ) -> Any:
        """``optimizer.step()``: gradients are there already."""
        if self._heard(model):
            return super().optimizer_step(optimizer, model, closure, **options)
        return optimizer.step(**options)

    def _heard(self, module: LightningModule) -> bool:
        if self._told is None:
            self._told = is_heard(module.trainer, module)
        return self._told


class Full(_Lean):
    """float32."""


class Mixed(_Lean, MixedPrecision):
    """``torch.autocast`` in bfloat16, which needs no scaler."""


def precision(name: str, device: str) -> Precision:
    """The plugin for ``bf16-mixed`` or ``32-true``."""
    return Mixed("bf16-mixed", device) if name == "bf16-mixed" else Full()


def is_heard(trainer: Trainer, module: LightningModule) -> bool:
    """Whether the module or a callback, which may be a user's own, has one of ``HOOKS``."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    own = any(getattr(type(module), hook) is not getattr(LightningModule, hook) for hook in HOOKS)
    return own or any(
        getattr(type(callback), hook) is not getattr(Callback, hook)
        for callback in callbacks
        for hook in HOOKS
    )
