"""The adversarial step: who learns from what, and that nothing leaks between the two."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from srtrain.cli.quiet import quiet_libraries
from srtrain.degradation.resize import Bicubic
from srtrain.losses.weighted_sum import WeightedSum
from srtrain.training.ema import EMA
from srtrain.training.examples import Example, mixes
from srtrain.training.honesty import honesty
from srtrain.training.loop import Callback
from tests.adversary import batch, fit, gradients, make

pytestmark = pytest.mark.filterwarnings("ignore:.*no `val_dataloader`.*")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet_libraries()


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
        "skipped",
        "d_loss",
        "d_accuracy_real",
        "d_accuracy_fake",
        "d_grad_norm",
        "d_skipped",
        "colour_drift_r",
        "colour_drift_g",
        "colour_drift_b",
        "lr_psnr",
    }
    assert values["loss"] == pytest.approx(values["pixel"] + 0.1 * values["adversarial"])
    assert 0 <= values["d_accuracy_real"] <= 1
    assert values["d_loss"] > 0


def test_gradient_shares_move_no_statistics() -> None:
    """A look in training mode would move the running means of the discriminator's batch norm."""
    module = make(norm="batch")
    fit(module, 1)
    before = copy.deepcopy(module.discriminator.state_dict())
    norms, _ = module.loss_details()
    assert float(norms["adversarial"]) > 0
    after = module.discriminator.state_dict()
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(part.training for part in module.discriminator.modules())


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
