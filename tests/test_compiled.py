"""``trainer.compile``: the same training, by programs that nobody else meets."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from srtrain.errors import ConfigError
from srtrain.training.compiled import compile_while_training
from tests.adversary import fit, make
from tests.training import cut_back, draw_sets, train, weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from srtrain.training.run_folder import RunFolder

    Forward = Callable[..., Tensor]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What torch.compile was asked; what it gives adds 1 to the result."""
    asked: list[dict[str, Any]] = []

    def compile_(whole: Forward, **options: object) -> Forward:
        asked.append(options)
        return lambda *inputs: whole(*inputs) + 1

    monkeypatch.setattr(torch, "compile", compile_)
    return asked


def test_what_is_evaluated_is_not_compiled(compiled: list[dict[str, Any]]) -> None:
    net, image = nn.Sequential(nn.Conv2d(1, 1, 1)), torch.ones(1, 1, 2, 2)
    names, plain = list(net.state_dict()), net(image)
    compile_while_training(net, mode="reduce-overhead")
    assert compiled == [{"dynamic": False, "mode": "reduce-overhead"}]
    assert list(net.state_dict()) == names
    assert torch.equal(net(image), plain + 1)
    assert torch.equal(net.eval()(image), plain)


def test_a_copy_has_its_own_weights(compiled: list[dict[str, Any]]) -> None:
    net, image = nn.Conv2d(1, 1, 1), torch.ones(1, 1, 2, 2)
    compile_while_training(net)
    other = deepcopy(net)
    nn.init.zeros_(other.weight)
    assert torch.equal(other(image), other.bias.view(1, 1, 1, 1).expand(1, 1, 2, 2) + 1)
    assert len(compiled) == 1


def test_what_cannot_be_compiled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_(whole: Forward, **options: object) -> Forward:
        def fail(*inputs: object) -> Tensor:
            raise torch._dynamo.exc.Unsupported("\n  this operator\nand more")

        return fail

    monkeypatch.setattr(torch, "compile", compile_)
    net = nn.Conv2d(1, 1, 1)
    compile_while_training(net)
    with pytest.raises(ConfigError, match=r"Conv2d cannot be compiled: this operator · trainer"):
        net(torch.ones(1, 1, 2, 2))


@pytest.mark.filterwarnings("ignore:.*`srun` command is available:UserWarning")
@pytest.mark.filterwarnings("ignore:.*no `val_dataloader`:UserWarning")
def test_what_outlives_a_step_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA graph writes where it wrote the step before."""
    begun: list[int] = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(1))
    module = make(accumulate=2)
    module.cuda_graphs = True
    given: list[Tensor] = []  # none is freed, so no place is used twice

    def note(_: object, __: object, output: Tensor) -> None:
        given.append(output)

    module.generator.net.register_forward_hook(note)
    module.discriminator.register_forward_hook(note)
    fit(module, 2)
    assert len(begun) == 2
    assert module.last is not None
    assert module.last_logits is not None
    assert len(given) == 2 * 2 * (1 + 3)  # a discriminator judges once, then learns from two
    looked_at = (module.last.output, *module.last_logits)
    places = [{t.untyped_storage().data_ptr() for t in tensors} for tensors in (looked_at, given)]
    assert not places[0] & places[1]


ADVERSARIAL = [
    "discriminator=patchgan_lite",
    "discriminator.n_layers=1",
    "discriminator.base_channels=4",
    "loss.weights.perceptual=0.009",
    "trainer.max_steps=20",
    "trainer.val_every_n_steps=10",
    "checkpoint.every_n_steps=10",
]


@pytest.mark.slow
def test_compiled_is_eager(tmp_path: Path) -> None:
    """Generator, discriminator and features; to the rounding of 20 steps, and on from either.

    Adam moves a discriminator's bias whose gradient is all rounding by whole steps: what the
    discriminator says is compared, not that.
    """
    images = draw_sets(tmp_path / "images")
    eager = train(images, tmp_path / "eager", *ADVERSARIAL)
    fast = train(images, tmp_path / "fast", *ADVERSARIAL, "trainer.compile=true")
    _agree(eager, fast)
    for run, word in ((eager, "true"), (fast, "false")):
        cut = cut_back(run, tmp_path / f"on {word}", 10)
        train(images, cut.path, *ADVERSARIAL, f"trainer.compile={word}")
        _agree(eager, cut)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graphs_are_eager(tmp_path: Path) -> None:
    images = draw_sets(tmp_path / "images")
    on_gpu = [*ADVERSARIAL, "trainer.accelerator=gpu", "trainer.precision=fp32"]
    eager = train(images, tmp_path / "eager", *on_gpu)
    graphs = ["trainer.compile=true", "trainer.cuda_graphs=true"]
    _agree(eager, train(images, tmp_path / "graphs", *on_gpu, *graphs))


def _agree(one: RunFolder, other: RunFolder) -> None:
    told, found = ({row[:2]: row[2] for row in run.read_metrics()} for run in (one, other))
    assert told.keys() == found.keys()
    for name in ("train/loss", "train/d_loss"):
        steps = [(step, name) for step in range(1, 21)]
        assert [found[s] for s in steps] == pytest.approx([told[s] for s in steps], rel=1e-4)
    whole, same = weights(one, 20), weights(other, 20)
    assert whole.keys() == same.keys()
    for name in (name for name in whole if "discriminator" not in name):
        torch.testing.assert_close(same[name], whole[name], rtol=0, atol=1e-4, msg=name)
