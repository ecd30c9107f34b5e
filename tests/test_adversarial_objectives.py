"""Every objective in the adversarial step, in halves of a batch, in bf16 and on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from srtrain.cli.quiet import quiet_libraries
from srtrain.degradation.resize import Bicubic
from srtrain.losses.adversarial import (
    Objective,
    RelativisticAverage,
    Vanilla,
    Wasserstein,
)
from srtrain.networks.discriminators.blocks import Norm
from srtrain.networks.discriminators.patchgan import PatchGAN
from tests.adversary import ROWS, batch, fit, gradients, make

pytestmark = pytest.mark.filterwarnings("ignore:.*no `val_dataloader`.*")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet_libraries()


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


def wasserstein(fake: Tensor, real: Tensor) -> tuple[float, float]:
    """G and D of eq. 3 without its penalty, in float64 by NumPy."""
    f, r = (logits.double().numpy() for logits in (fake, real))
    return -f.mean(), f.mean() - r.mean()


def relativistic(fake: Tensor, real: Tensor) -> tuple[float, float]:
    """ESRGAN's equations 1 and 2 halved, by probabilities, in float64 by NumPy."""
    f, r = (logits.double().numpy() for logits in (fake, real))
    real_more = 1 / (1 + np.exp(-(r - f.mean())))
    fake_more = 1 / (1 + np.exp(-(f - r.mean())))
    generator = -np.log(1 - real_more).mean() - np.log(fake_more).mean()
    judge = -np.log(real_more).mean() - np.log(1 - fake_more).mean()
    return generator / 2, judge / 2


@pytest.mark.parametrize(
    ("objective", "by_hand"),
    [(Wasserstein(), wasserstein), (RelativisticAverage(), relativistic)],
)
def test_figures_are_those_of_the_logits(
    objective: Objective, by_hand: Callable[[Tensor, Tensor], tuple[float, float]]
) -> None:
    """The first step's, from logits of copies of both networks as they were."""
    module = make(objective, norm="none")
    generator, judge = copy.deepcopy(module.generator), copy.deepcopy(module.discriminator)
    values = fit(module, 1).values[0]
    hr = batch(0)["hr"]
    with torch.no_grad():
        fake, real = judge(generator(Bicubic(scale=2)(hr))), judge(hr)
    expected = by_hand(fake, real)
    assert (values["adversarial"], values["d_loss"]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert module.last_logits is not None
    torch.testing.assert_close(module.last_logits[0], real, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("objective", [Wasserstein(), RelativisticAverage()])
def test_the_discriminator_learns_to_tell(objective: Objective) -> None:
    """On one batch again and again, against a generator that stands still."""
    stands = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=1e-9)}
    quick = {"discriminator_optimizer": lambda parameters: torch.optim.Adam(parameters, lr=5e-3)}
    module = make(objective, norm="none", **stands, **quick)
    watch = fit(module, 12, same=True)
    assert watch.judged == list(range(1, 13))
    losses = [values["d_loss"] for values in watch.values]
    assert losses[-1] < losses[0] - 0.02


@pytest.mark.parametrize("norm", ["none", "instance"])
def test_wgan_gps_penalty_can_be_paid(norm: Norm) -> None:
    """Under the norms that it is allowed, slopes grow from about 0 towards 1."""
    torch.manual_seed(0)
    judge = PatchGAN(n_layers=1, base_channels=4, norm=norm)
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-2)
    hr = batch(0)["hr"]
    images = {"hr": hr, "sr": hr.flip(0), "mix": torch.full((ROWS, 1, 1, 1), 0.5)}
    paid = []
    for step in range(40):
        penalty = Wasserstein().penalty(judge, **images, step=step)
        assert penalty is not None
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        paid.append(penalty.item())
    assert paid[0] > 5
    assert paid[-1] < 1


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("objective", [Wasserstein(), RelativisticAverage()])
def test_on_a_gpu_in_bf16(objective: Objective) -> None:
    module = make(objective, norm="none", discriminator_start=2)
    module.discriminator.bf16 = True
    watch = fit(module, 4, precision="bf16", accelerator="gpu")
    assert watch.judged == [0, 0, 1, 2]
    assert ["adversarial" in values for values in watch.values] == [False, False, True, True]
    assert [values["d_grad_norm"] > 0 for values in watch.values] == [False, False, True, True]
    assert all(abs(value) < 1e3 for values in watch.values for value in values.values())
    assert module.last_logits is not None
    assert module.last_logits[0].device.type == "cuda"
