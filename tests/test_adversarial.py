"""The objectives against values by hand; two ranks as one."""

from __future__ import annotations

import inspect
import math
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml
from hydra.utils import instantiate
from torch import Tensor, nn

from srtrain.losses.adversarial import (
    Adversarial,
    Hinge,
    LeastSquares,
    Objective,
    RelativisticAverage,
    Vanilla,
    Wasserstein,
)
from srtrain.losses.weighted_sum import WeightedSum
from srtrain.networks.discriminators.patchgan import PatchGAN
from tests.test_adversarial_penalties import Linear

CONF = Path(__file__).resolve().parents[1] / "conf" / "objective"

OPTIONS = {
    "vanilla": Vanilla,
    "lsgan": LeastSquares,
    "hinge": Hinge,
    "wgan_gp": Wasserstein,
    "ragan": RelativisticAverage,
}

RANKS = 2


@pytest.mark.parametrize(
    ("objective", "generator", "discriminator"),
    [
        # By hand for fake = [-1, 2], real = [0, 2], with s(x) = log(1 + e^x):
        # s(-2) .126928011, s(-1) .313261688, s(0) .693147181, s(1) 1.313261688, s(2) 2.126928011,
        # s(-1.5) .201413278, s(-.5) .474076984, s(.5) .974076984, s(1.5) 1.701413278.
        # G: [s(1) + s(-2)] / 2.  D: [s(0) + s(-2)] / 2 + [s(-1) + s(2)] / 2.
        (Vanilla(), 0.720094850, 1.630132446),
        # G: [(-2)² + 1²] / 2.  D: [1 + 1] / 2 + [1 + 4] / 2.
        (LeastSquares(), 2.5, 3.5),
        # G: -(-1 + 2) / 2.  D: [1 + 0] / 2 + [0 + 3] / 2.
        (Hinge(), -0.5, 2.0),
        # G: -1/2.  D: 1/2 - 1.
        (Wasserstein(), -0.5, -0.5),
        # E fake = 1/2, E real = 1: r = [-.5, 1.5], f = [-2, 1].
        # G: ([s(-.5) + s(1.5)] / 2 + [s(2) + s(-1)] / 2) / 2.
        # D: ([s(.5) + s(-1.5)] / 2 + [s(-2) + s(1)] / 2) / 2.
        (RelativisticAverage(), 1.153919990, 0.653919990),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Objective) else "",
)
def test_values(objective: Objective, generator: float, discriminator: float) -> None:
    fake, real = torch.tensor([[-1.0], [2.0]]), torch.tensor([[0.0], [2.0]])
    given = real if objective.relativistic else None
    assert float(objective.generator(fake=fake, real=given)) == pytest.approx(generator, abs=1e-6)
    value = objective.discriminator(fake=fake, real=real)
    assert float(value) == pytest.approx(discriminator, abs=1e-6)


@pytest.mark.parametrize(
    ("objective", "real", "fake"),
    [  # real = [.4, 3], fake = [-1, .25]
        (Vanilla(), 1.0, 0.5),  # above and below 0
        (LeastSquares(), 0.5, 1.0),  # above and below 1/2
        (Hinge(), 1.0, 0.5),
        (Wasserstein(), 0.5, 1.0),  # (1.7 - .375) / 2 = .6625
        (RelativisticAverage(), 1.0, 1.0),  # real above -.375, fake below 1.7
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Objective) else "",
)
def test_accuracy(objective: Objective, real: float, fake: float) -> None:
    logits = {"fake": torch.tensor([-1.0, 0.25]), "real": torch.tensor([0.4, 3.0])}
    found = objective.accuracy(**logits)
    assert [float(value) for value in found] == [real, fake]


@pytest.mark.parametrize(
    ("objective", "fake", "slope"),
    [  # ∂G/∂fake, by hand: -σ(-fake); 2 (fake - 1); -1
        (Vanilla(), -10.0, -0.999954602),  # D is sure, and G still feels it
        (Vanilla(), 0.0, -0.5),
        (Vanilla(), 10.0, -4.5397869e-5),
        (LeastSquares(), 0.0, -2.0),
        (LeastSquares(), 1.0, 0.0),
        (Hinge(), 5.0, -1.0),
        (Wasserstein(), 5.0, -1.0),
    ],
)
def test_slope_of_the_generator(objective: Objective, fake: float, slope: float) -> None:
    logit = torch.tensor([fake], requires_grad=True)
    objective.generator(fake=logit).backward()
    assert float(logit.grad) == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("objective", [kind() for kind in OPTIONS.values()])
def test_gradients(objective: Objective) -> None:
    """Against finite differences; no logit lies at a kink of the hinge."""
    torch.manual_seed(1)
    fake, real = (torch.randn(2, 1, 2, 2, dtype=torch.float64, requires_grad=True) for _ in "fr")
    assert torch.autograd.gradcheck(lambda f, r: objective.generator(fake=f, real=r), (fake, real))
    assert torch.autograd.gradcheck(
        lambda f, r: objective.discriminator(fake=f, real=r), (fake, real)
    )


@pytest.mark.parametrize("objective", [kind() for kind in OPTIONS.values()])
def test_low_precision_logits_are_raised(objective: Objective) -> None:
    fake, real = (torch.ones(2, 1, dtype=torch.bfloat16) for _ in "fr")
    assert objective.generator(fake=fake, real=real).dtype == torch.float32
    assert objective.discriminator(fake=fake, real=real).dtype == torch.float32


def test_indifferent_discriminator() -> None:
    """``D = 0`` everywhere: log 4 and log 2 in the paper's words; relativistic both log 2."""
    logits = {"fake": torch.zeros(3, 1), "real": torch.zeros(3, 1)}
    assert float(Vanilla().discriminator(**logits)) == pytest.approx(math.log(4))
    assert float(RelativisticAverage().discriminator(**logits)) == pytest.approx(math.log(2))
    assert float(RelativisticAverage().generator(**logits)) == pytest.approx(math.log(2))


def test_adversarial_is_a_term() -> None:
    """The gradient is there, the shares work, and the discriminator stays somebody else's."""
    torch.manual_seed(1)
    judge = PatchGAN(n_layers=1, base_channels=8).requires_grad_(False)
    term = Adversarial(Vanilla(), judge)
    assert not list(term.parameters())
    assert not term.state_dict()
    loss = WeightedSum({"pixel": nn.MSELoss(), "adversarial": term}, {"pixel": 1, "adversarial": 1})
    sr, hr = torch.rand(2, 3, 24, 24, requires_grad=True), torch.rand(2, 3, 24, 24)
    total, parts = loss(sr, hr)
    expected = torch.nn.functional.softplus(-judge(sr)).mean()
    torch.testing.assert_close(parts["adversarial"], expected.detach())
    (gradient,) = torch.autograd.grad(total, sr)
    (of_term,) = torch.autograd.grad(expected, sr)
    torch.testing.assert_close(gradient, of_term + 2 * (sr - hr).detach() / sr.numel())
    assert float(of_term.abs().max()) > 0
    norms = loss.gradient_shares(sr, hr)
    torch.testing.assert_close(norms["adversarial"], of_term.norm())


@pytest.mark.parametrize(("objective", "looks"), [(Vanilla(), 1), (RelativisticAverage(), 2)])
def test_real_images_are_judged_only_where_asked(objective: Objective, looks: int) -> None:
    seen = []

    def judge(image: Tensor) -> Tensor:
        seen.append(image)
        return image.mean((1, 2, 3))

    Adversarial(objective, judge)(torch.rand(1, 3, 2, 2), torch.rand(1, 3, 2, 2))
    assert len(seen) == looks


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Vanilla(r1_gamma=-1), "r1_gamma = -1 must be finite"),
        (lambda: Hinge(r1_every=0), "r1_every = 0 must be at least 1"),
        (lambda: Wasserstein(gradient_penalty=-1), "gradient_penalty = -1 must be finite"),
        (lambda: RelativisticAverage().generator(fake=torch.zeros(1)), "logits of hr"),
        (
            lambda: Adversarial(Vanilla(), Linear())(torch.zeros(1, 3, 2, 2), torch.zeros(3, 2, 2)),
            "must have one shape",
        ),
    ],
)
def test_refused(build: type[Objective], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build()


@pytest.mark.parametrize(("name", "kind"), OPTIONS.items())
def test_every_option(name: str, kind: type[Objective]) -> None:
    """The file lists every parameter with the constructor's default."""
    node = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert isinstance(instantiate(node), kind)
    node.pop("_target_")
    signature = inspect.signature(kind).parameters
    assert node == {name: parameter.default for name, parameter in signature.items()}


def test_every_option_is_tested() -> None:
    assert {path.stem for path in CONF.glob("*.yaml")} == {*OPTIONS, "none"}


def _play(images: dict[str, Tensor]) -> list[Tensor]:
    """Gradients of a discriminator in both roles, and of the images in the generator's."""
    torch.manual_seed(1)
    judge = nn.Conv2d(3, 2, 3, bias=False)
    objective = RelativisticAverage()
    sr, hr = images["sr"].requires_grad_(), images["hr"]
    d_loss = objective.discriminator(fake=judge(sr.detach()), real=judge(hr))
    of_d = torch.autograd.grad(d_loss, judge.weight)
    g_loss = Adversarial(objective, judge)(sr, hr)
    of_g = torch.autograd.grad(g_loss, (judge.weight, sr))
    accuracy = objective.accuracy(fake=judge(sr), real=judge(hr))
    return [*of_d, *of_g, d_loss.detach(), g_loss.detach(), torch.stack(accuracy)]


def _global_images() -> dict[str, Tensor]:
    """Different levels in both halves: a mean per rank would be another mean."""
    source = torch.Generator().manual_seed(1)
    sr, hr = (torch.rand(4, 3, 6, 6, generator=source) for _ in range(2))
    sr[2:] += 2
    hr[:2] *= 3
    return {"sr": sr, "hr": hr}


def _rank(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS
    )
    mine = {name: image[2 * rank : 2 * rank + 2] for name, image in _global_images().items()}
    torch.save(_play(mine), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_relativistic_on_two_ranks_is_one(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    mp.start_processes(_rank, args=(port, str(tmp_path)), nprocs=RANKS, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS))
    whole = _play(_global_images())
    for index, expected in enumerate(whole):
        if index == 2:  # each rank has the gradient of its own images, of half the batch
            found = torch.cat([first[index], second[index]]) / RANKS
        else:
            found = (first[index] + second[index]) / RANKS
        torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-5)
