"""A small adversarial module for the tests, trained by plain SGD on colours drawn here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from srtrain.degradation.resize import Bicubic
from srtrain.losses.adversarial import (
    Adversarial,
    Objective,
    Vanilla,
)
from srtrain.losses.weighted_sum import WeightedSum
from srtrain.metrics.image_metrics import ImageMetrics
from srtrain.networks.build import build_discriminator, build_generator
from srtrain.training.adversarial import AdversarialSR
from srtrain.training.checkpointing import OneFile
from srtrain.training.loop import Callback, Trainer, TrainerOptions, make_trainer
from srtrain.training.schedules import constant

SIDE = 32

ROWS = 4

GENERATOR = "srtrain.networks.edsr.EDSRLite"

PATCHGAN = "srtrain.networks.discriminators.patchgan.PatchGAN"


def make(
    objective: Objective | None = None,
    *,
    weights: dict[str, float] | None = None,
    norm: str = "spectral",
    **options: Any,  # noqa: ANN401
) -> AdversarialSR:
    """A two-block generator against a 16×16 PatchGAN; SGD, so that a step is its gradient."""
    torch.manual_seed(0)
    kwargs = {"num_features": 4, "num_blocks": 1, "scale": 2}
    generator = build_generator({"_target_": GENERATOR, "kwargs": kwargs}, scale=2)
    with torch.no_grad():
        for parameter in generator.parameters():  # its tail starts at 0, and stops all gradients
            parameter += 0.05 * torch.randn_like(parameter)
    kwargs = {"n_layers": 1, "base_channels": 4, "norm": norm}
    judge = build_discriminator({"_target_": PATCHGAN, "kwargs": kwargs})
    objective = objective or Vanilla()
    terms: dict[str, nn.Module] = {
        "pixel": nn.MSELoss(),
        "pixel_l1": nn.L1Loss(),
        "adversarial": Adversarial(objective, judge),
    }
    weights = weights or {"pixel": 1.0, "adversarial": 0.1}
    given = {
        "validation": SimpleNamespace(metrics=ImageMetrics(scale=2)),
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.125),
        "discriminator_optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.25),
        "scheduler": lambda optimizer, max_steps: constant(
            optimizer, max_steps=max_steps, warmup_share=0.0
        ),
    }
    return AdversarialSR(
        generator=generator,
        loss=WeightedSum({name: terms[name] for name in weights}, weights),
        degradation=Bicubic(scale=2),
        discriminator=judge,
        objective=objective,
        downscale=Bicubic(scale=2),
        seed=1,
        **{**given, **options},
    )


def batch(step: int) -> dict[str, Any]:
    """Smooth colours that differ from step to step."""
    torch.manual_seed(100 + step)
    coarse = torch.rand(ROWS, 3, 8, 8)
    hr = nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    return {"hr": hr, "name": ["image"] * ROWS, "sample": torch.arange(ROWS) + ROWS * step}


class Watch(Callback):
    """What each step left behind, fetched."""

    def __init__(self) -> None:
        self.values: list[dict[str, float]] = []
        self.judged: list[int] = []
        self.weights: list[dict[str, Tensor]] = []

    def on_train_batch_end(
        self,
        trainer: Trainer,
        module: AdversarialSR,
        *_: Any,  # type: ignore[override] # noqa: ANN401
    ) -> None:
        self.values.append({name: float(value) for name, value in module.step_values.items()})
        self.judged.append(module.discriminator_steps)
        state = module.discriminator.state_dict()
        self.weights.append({name: value.clone() for name, value in state.items()})


def fit(
    module: AdversarialSR,
    steps: int,
    *callbacks: Callback,
    precision: Literal["fp32", "bf16"] = "fp32",
    accelerator: Literal["cpu", "gpu"] = "cpu",
    same: bool = False,
) -> Watch:
    watch = Watch()
    trainer = make_trainer(
        TrainerOptions(max_steps=steps, accelerator=accelerator, precision=precision),
        run_dir=Path(),
        callbacks=[*callbacks, watch],
        loggers=[],
        checkpoint_io=OneFile(lambda _: {}, cast("Any", None)),  # nothing is saved
    )
    batches = [batch(0 if same else step) for step in range(steps)]
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    assert trainer.global_step == steps
    return watch


def gradients(module: nn.Module, before: nn.Module, *, lr: float) -> list[Tensor]:
    """What plain SGD stepped by."""
    pairs = zip(before.parameters(), module.parameters(), strict=True)
    return [(old - new).detach() / lr for old, new in pairs]
