"""The adversarial step: who learns when, from what, and that nothing leaks between the two."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from srtrain.cli.quiet import quiet_libraries
from srtrain.degradation.resize import Bicubic
from srtrain.losses.adversarial import (
    Adversarial,
    Objective,
    RelativisticAverage,
    Vanilla,
    Wasserstein,
)
from srtrain.losses.weighted_sum import WeightedSum
from srtrain.metrics.image_metrics import ImageMetrics
from srtrain.networks.build import build_discriminator, build_generator
from srtrain.training.adversarial import AdversarialSR
from srtrain.training.checkpointing import OneFile
from srtrain.training.ema import EMA
from srtrain.training.examples import Example, mixes
from srtrain.training.honesty import honesty
from srtrain.training.loop import Callback, Trainer, TrainerOptions, make_trainer
from srtrain.training.schedules import constant
from srtrain.training.stepping import step_network

pytestmark = pytest.mark.filterwarnings("ignore:.*no `val_dataloader`.*")

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


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet_libraries()


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
) -> Watch:
    watch = Watch()
    trainer = make_trainer(
        TrainerOptions(max_steps=steps, accelerator="cpu", precision=precision),
        run_dir=Path(),
        callbacks=[*callbacks, watch],
        loggers=[],
        checkpoint_io=OneFile(lambda _: {}),
    )
    batches = [batch(step) for step in range(steps)]
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    assert trainer.global_step == steps
    return watch


def gradients(module: nn.Module, before: nn.Module, *, lr: float) -> list[Tensor]:
    """What plain SGD stepped by."""
    pairs = zip(before.parameters(), module.parameters(), strict=True)
    return [(old - new).detach() / lr for old, new in pairs]


def test_the_generator_feels_the_adversary_alone() -> None:
    """Against -log σ(D(G(lr))), by autograd on copies of both networks as they were."""
    module = make(weights={"adversarial": 1.0})
    generator, judge = copy.deepcopy(module.generator), copy.deepcopy(module.discriminator)
    fit(module, 1)
    hr = batch(0)["hr"]
    logits = judge(generator(Bicubic(scale=2)(hr)))
    expected = torch.autograd.grad(
        -torch.sigmoid(logits).log().mean(), list(generator.parameters())
    )
    taken = gradients(module.generator, generator, lr=0.125)
    assert all(float(gradient.norm()) > 0 for gradient in expected)
    for mine, theirs in zip(taken, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_discriminator_learns_from_its_own_loss_alone(accumulate: int) -> None:
    """On the images made before the generator's step, without a trace of the generator's loss."""
    module = make(accumulate=accumulate)
    generator, judge = copy.deepcopy(module.generator), copy.deepcopy(module.discriminator)
    fit(module, 1)
    hr = batch(0)["hr"]
    with torch.no_grad():
        sr = generator(Bicubic(scale=2)(hr))
    real, fake = judge(hr), judge(sr)
    loss = -(torch.sigmoid(real).log().mean() + torch.sigmoid(-fake).log().mean())
    expected = torch.autograd.grad(loss, list(judge.parameters()))
    taken = gradients(module.discriminator, judge, lr=0.25)
    for mine, theirs in zip(taken, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=2e-6)


def test_the_generators_step_leaves_the_discriminator_no_gradient() -> None:
    module = make(discriminator_start=9)
    before = copy.deepcopy(module.discriminator.state_dict())
    seen: list[bool] = []

    class Gradients(Callback):
        def on_train_batch_end(self, *_: Any) -> None:  # noqa: ANN401
            parameters = list(module.discriminator.parameters())
            seen.extend(p.grad is None and p.requires_grad for p in parameters)

    fit(module, 2, Gradients())
    assert seen
    assert all(seen)
    after = module.discriminator.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_figures_of_every_step() -> None:
    (values,) = fit(make(), 1).values
    assert set(values) == {
        "loss",
        "pixel",
        "adversarial",
        "grad_norm",
        "d_loss",
        "d_accuracy_real",
        "d_accuracy_fake",
        "d_grad_norm",
        "colour_drift_r",
        "colour_drift_g",
        "colour_drift_b",
        "lr_psnr",
    }
    assert values["loss"] == pytest.approx(values["pixel"] + 0.1 * values["adversarial"])
    assert 0 <= values["d_accuracy_real"] <= 1
    assert values["d_loss"] > 0


def test_drift_and_consistency_of_known_images() -> None:
    hr = batch(0)["hr"] * 0.5
    lr = Bicubic(scale=2)(hr)
    shift = torch.tensor([8, 0, -4]).view(3, 1, 1) / 255
    figures = honesty(hr + shift, Example(lr, hr, hr), Bicubic(scale=2))
    drift = [float(figures[f"colour_drift_{name}"]) * 255 for name in "rgb"]
    assert drift == pytest.approx([8, 0, -4], abs=1e-3)
    # 10 log10(255² · 3 / (64 + 16)) where neither end clips; by hand.
    assert float(figures["lr_psnr"]) == pytest.approx(33.9, abs=0.5)
    assert float(honesty(hr, Example(lr, hr, hr), Bicubic(scale=2))["lr_psnr"]) == 100


def test_warmup_learns_from_pixels_alone_while_the_discriminator_trains() -> None:
    watch = fit(make(warmup_share=0.5), 6)
    assert ["adversarial" in values for values in watch.values] == [False] * 3 + [True] * 3
    assert watch.judged == [1, 2, 3, 4, 5, 6]


def test_warmup_needs_pixels() -> None:
    with pytest.raises(ValueError, match=r"needs a pixel\* term"):
        fit(make(weights={"adversarial": 1.0}, warmup_share=0.5), 2)


def test_discriminator_start() -> None:
    watch = fit(make(discriminator_start=2), 4)
    assert watch.judged == [0, 0, 1, 2]
    assert ["d_grad_norm" in values for values in watch.values] == [True] * 4
    assert [values["d_grad_norm"] > 0 for values in watch.values] == [False, False, True, True]
    assert all("adversarial" in values for values in watch.values)


def test_the_norm_of_no_gradients_lies_where_the_network_does() -> None:
    """Records stacks a log line's figures: one of another device would end the run."""
    network = nn.Linear(2, 2, device="meta")
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    scheduler = constant(optimizer, max_steps=2, warmup_share=0.0)
    module: Any = SimpleNamespace(
        optimizers=lambda: optimizer,
        lr_schedulers=lambda: scheduler,
        trainer=SimpleNamespace(strategy=None),
    )
    assert step_network(module, network, number=0, clip_norm=None).device.type == "meta"


def test_an_adaptive_discriminator_pauses_while_it_wins() -> None:
    """Its accuracy is set by hand: .99 decays by a tenth of the distance to what is seen."""
    module = make(adaptive=True, adaptive_above=0.6)
    module.accuracy.fill_(0.99)
    watch = fit(module, 8)
    expected, average, learnt = [], torch.tensor(0.99), 0
    for values in watch.values:
        learnt += float(average) <= 0.6
        seen = (values["d_accuracy_real"] + values["d_accuracy_fake"]) / 2
        average = average.lerp(torch.tensor(seen), 0.1)
        expected.append(learnt)
    assert watch.judged == expected
    assert watch.judged[0] == 0
    assert float(module.accuracy) == pytest.approx(float(average))
    assert fit(make(adaptive=True, adaptive_above=1.0), 3).judged == [1, 2, 3]


@pytest.mark.parametrize("objective", [Vanilla(), Vanilla(r1_gamma=1.0, r1_every=2)])
@pytest.mark.parametrize("norm", ["spectral", "none"])
def test_micro_batches_change_nothing(objective: Objective, norm: str) -> None:
    options = {"clip_norm": 0.1, "discriminator_clip_norm": 0.1, "norm": norm}
    one, two = (make(objective, accumulate=parts, **options) for parts in (1, 2))
    for module in (one, two):
        fit(module, 3)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, atol=1e-6, rtol=0, msg=name)


def test_r1_is_felt_at_every_second_step() -> None:
    plain = fit(make(Vanilla()), 3).weights
    lazy = fit(make(Vanilla(r1_gamma=10.0, r1_every=2)), 3).weights
    name = "net.layers.0.weight"
    assert not torch.equal(plain[0][name], lazy[0][name])
    later = fit(make(Vanilla(r1_gamma=10.0, r1_every=2), discriminator_start=1), 2).weights
    assert torch.equal(later[0][name], fit(make(discriminator_start=1), 2).weights[0][name])


@pytest.mark.parametrize("objective", [Wasserstein(), RelativisticAverage()])
def test_other_objectives_run(objective: Objective) -> None:
    watch = fit(make(objective, norm="none"), 3)
    assert watch.judged == [1, 2, 3]
    assert all(abs(value) < 1e6 for values in watch.values for value in values.values())


@pytest.mark.parametrize(("real", "same"), [("target", False), ("hr", True)])
def test_what_is_held_for_real(real: str, same: bool) -> None:
    """With another target, the discriminator sees it, unless it is told to see hr."""
    bright = fit(make(real=real, target=lambda hr: hr.sqrt(), weights={"adversarial": 1.0}), 1)
    plain = fit(make(weights={"adversarial": 1.0}), 1)
    assert (bright.values[0]["d_loss"] == plain.values[0]["d_loss"]) == same


def test_target_and_augmentation_reach_the_losses() -> None:
    def augment(hr: Tensor, lr: Tensor, *, step: int, first: int) -> tuple[Tensor, Tensor]:
        assert (step, first) == (0, 0)
        return hr.flip(0), lr.flip(0) * 0

    module = make(target=lambda hr: hr * 0, augment=augment)
    (part,) = module.parts(batch(0))
    assert torch.equal(part.hr, batch(0)["hr"].flip(0))
    assert not part.lr.any()
    assert not part.target.any()
    sr = module(part.lr).detach()
    assert fit(module, 1).values[0]["pixel"] == pytest.approx(float(sr.square().mean()))


class Towards(nn.Module):
    """``mean |sr - average|``."""

    takes_average = True

    def forward(self, sr: Tensor, hr: Tensor, average: Tensor) -> Tensor:
        return (sr - average).abs().mean()


def test_a_term_may_compare_with_the_averaged_weights() -> None:
    module = make()
    terms = {"pixel": nn.MSELoss(), "ldl": Towards()}
    module.loss = WeightedSum(terms, {"pixel": 1.0, "ldl": 1.0})
    ema = EMA(decay=0.9)
    first, second = fit(module, 2, ema).values
    assert first["ldl"] == 0  # the average begins at the weights
    assert second["ldl"] > 0
    assert module.generator.training
    lr = Bicubic(scale=2)(batch(1)["hr"])
    average = module.averaged(lr)
    net = copy.deepcopy(module.generator)
    net.net.load_state_dict(ema.average)
    torch.testing.assert_close(average, net.eval()(lr))
    assert average is not None
    assert not average.requires_grad


def test_mixes_of_two_ranks_are_those_of_one() -> None:
    def drawn(rank: int, ranks: int, rows: int, parts: int) -> list[Tensor]:
        examples = [Example(*[torch.zeros(rows // parts, 3, 8, 8)] * 3)] * parts
        return list(mixes(7, 3, examples, rank=rank, ranks=ranks))

    (whole,), split = drawn(0, 1, 6, 1), drawn(0, 1, 6, 2)
    halves = [torch.cat(drawn(rank, 2, 3, 1)) for rank in range(2)]
    assert torch.equal(torch.stack(halves, dim=1).flatten(0, 1), whole)
    assert [len(part) for part in split] == [3, 3]
    assert torch.equal(torch.cat(split), whole)
    assert whole.shape == (6, 1, 1, 1)
    assert bool(((whole >= 0) & (whole < 1)).all())


def test_the_discriminator_judges_in_bf16_where_the_generator_does() -> None:
    judge = make().discriminator
    image = batch(0)["hr"]
    with torch.autocast("cpu", enabled=False):
        assert judge(image).dtype == torch.float32
        judge.bf16 = True
        assert judge(image).dtype == torch.bfloat16
    assert judge.receptive_field == 16


@pytest.mark.parametrize("norm", ["spectral", "none"])
def test_both_networks_learn_the_same_in_bf16(norm: str) -> None:
    """Autocast keeps the bf16 copies of weights: one made while they are frozen has no gradient."""
    moved = []
    for precision in ("fp32", "bf16"):
        module = make(norm=norm, accumulate=2, weights={"adversarial": 1.0})
        module.discriminator.bf16 = precision == "bf16"
        before = copy.deepcopy(module)
        fit(module, 1, precision=precision)
        moved.append(
            [
                torch.cat([g.flatten() for g in each])
                for each in (
                    gradients(module.generator, before.generator, lr=0.125),
                    gradients(module.discriminator, before.discriminator, lr=0.25),
                )
            ]
        )
    for exact, rounded in zip(*moved, strict=True):
        assert float(torch.cosine_similarity(exact, rounded, dim=0)) > 0.99
        assert float(rounded.norm() / exact.norm()) == pytest.approx(1, abs=0.05)
