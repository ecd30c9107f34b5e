"""Steps that are refused: by every optimizer, on every rank, without asking the device."""

from __future__ import annotations

import errno
import math
import socket
from copy import deepcopy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from srtrain.errors import StorageError
from srtrain.files import read_json, write_json
from srtrain.training.divergence import Divergence
from srtrain.training.guards import (
    PATIENCE,
    Guard,
    RollBack,
    Streak,
    blamed,
    refuse,
    refuse_exploded,
    refuse_to_save,
    spoil,
)
from srtrain.training.run_folder import RunFolder
from srtrain.training.schedules import constant
from srtrain.training.stepping import step_network
from srtrain.training.strategy import FlatDDP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from torch.optim import Optimizer

    Make = Callable[[Iterable[nn.Parameter]], Optimizer]

RANKS = 2
RATES = {"optimizer.lr": 0.002, "discriminator_optimizer.lr": 0.0001}
BAD_RATES = '[{"to": 3, "lr_factor": 0.5, "rates": {"optimizer.lr": "x"}}]'
OPTIMIZERS: dict[str, Make] = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, fused=True),
    "plain sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, fused=True),
    "adam, not fused": lambda p: torch.optim.Adam(p, lr=0.1),
    "sgd, not fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.1),
}


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 1, 1, bias=False))


def _fill(net: nn.Module, step: int) -> None:
    for index, parameter in enumerate(net.parameters()):
        seeded = torch.Generator().manual_seed(100 * step + index)
        parameter.grad = torch.randn(parameter.shape, generator=seeded)


def _state(net: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    moments = [v for kept in optimizer.state_dict()["state"].values() for v in kept.values()]
    return [*net.state_dict().values(), *(torch.as_tensor(v) for v in moments if v is not None)]


@pytest.mark.parametrize("broken", [{0}, {1}, {0, 1, 3}], ids=["first", "second", "some"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_refused_is_as_if_never_asked(make: Make, broken: set[int]) -> None:
    """Weights, moments and counters are those of a run without the broken steps."""
    net, other = _net(), _net()
    optimizer, reference = make(net.parameters()), make(other.parameters())
    for step in range(5):
        _fill(net, step)
        norm = torch.tensor(math.nan if step in broken else 1.0)
        if step in broken:
            next(net.parameters()).grad.mul_(math.nan)  # type: ignore[union-attr]
        assert float(refuse(optimizer, norm)) == (step in broken)
        optimizer.step()
        if step not in broken:
            _fill(other, step)
            reference.step()
    pairs = zip(_state(net, optimizer), _state(other, reference), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_fused_optimizer_is_told_on_the_device(
    norm: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its second step on, nobody asks a tensor for its value."""
    net = _net()
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    for step, value in enumerate((1.0, norm, 1.0)):
        _fill(net, step)
        refuse(optimizer, torch.tensor(value))
        optimizer.step()
        monkeypatch.setattr(Tensor, "__bool__", None)
        monkeypatch.setattr(Tensor, "item", None)
    assert [int(kept["step"].tolist()) for kept in optimizer.state.values()] == [2, 2, 2]


@pytest.mark.parametrize(
    ("loss", "finite"), [(0.5, True), (-3e38, True), (math.nan, False), (math.inf, False)]
)
def test_a_loss_spoils_a_gradient(loss: float, finite: bool) -> None:
    gradients = [torch.tensor([1.0, -2.0]), torch.tensor([3.0])]
    before = deepcopy(gradients)
    spoil(gradients, torch.tensor(loss))
    assert bool(gradients[0].isfinite().all()) == finite
    assert not finite or torch.equal(gradients[0], before[0])
    assert torch.equal(gradients[1], before[1])


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"loss", "pixel", "perceptual", "grad_norm", "d_loss"}, "pixel"),
        ({"loss", "adversarial", "grad_norm"}, "adversarial"),
        ({"loss", "grad_norm"}, "loss"),
        ({"grad_norm", "lr_psnr"}, "grad_norm"),
        ({"d_loss", "d_grad_norm"}, "d_loss"),
        ({"d_grad_norm"}, "d_grad_norm"),
        ({"lr_psnr"}, "grad_norm"),
    ],
)
def test_whom_to_blame(bad: set[str], named: str) -> None:
    assert blamed(bad, ["pixel", "perceptual", "adversarial"]) == named


@pytest.mark.parametrize(
    ("means", "exploded"),
    [({"d_loss": 51.0}, True), ({"d_loss": 49.0}, False), ({"d_loss": -900.0}, False), ({}, False)],
)
def test_a_discriminator_that_is_absurdly_wrong(means: dict[str, float], exploded: bool) -> None:
    if not exploded:
        refuse_exploded(means, first=1, step=9)
        return
    what = "`d_loss` is 51 on average, above 50, from step 1 to 9"
    with pytest.raises(RollBack, match=what) as caught:
        refuse_exploded(means, first=1, step=9)
    found = caught.value.term, caught.value.step, caught.value.limit, caught.value.where
    assert found == ("d_loss", 9, 1, "discriminator")


@pytest.mark.parametrize(
    ("refused", "given_up"),
    [
        (range(0), None),
        (range(1, 11), 10),
        (range(8, 18), None),  # nine of them by 20, and over
        (range(8, 24), 20),
        ((n for n in range(1, 40) if n % 10), None),  # never ten in a row
        (range(29, 38), 38),  # too few; but see `last`
    ],
)
@pytest.mark.parametrize("resumed_at", [0, 3, 10, 15, 22])
def test_ten_in_a_row(refused: Any, given_up: int | None, resumed_at: int) -> None:  # noqa: ANN401
    streak, steps = Streak(), set(refused)
    for step in range(1, 39):
        if streak.add(step, torch.tensor(float(step in steps)), last=step == 38):
            assert step == given_up
            assert streak.first == min(steps)
            return
        if step == resumed_at:
            kept, streak = streak.state_dict(), Streak()
            streak.load_state_dict(kept)
            assert streak.state_dict() == kept
    assert given_up is None or len(steps) < PATIENCE


def test_rank_0_says_how_slow_it_goes_on(tmp_path: Path) -> None:
    module = SimpleNamespace(lr_factor=1.0)
    strategy = SimpleNamespace(broadcast=lambda own: {1.0: 0.5}[own])
    guard: Any = Guard(RunFolder(tmp_path), {})  # a node that has not seen the file yet
    guard.setup(SimpleNamespace(strategy=strategy), module, "fit")
    assert module.lr_factor == 0.5


@pytest.mark.parametrize("bad", [math.nan, -math.inf, 1e30], ids=str)
@pytest.mark.parametrize("where", ["weight", "running_var"])
def test_what_is_not_finite_is_not_saved(where: str, bad: float) -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    net.register_buffer("mask", torch.tensor(-math.inf))  # a constant may be
    net[0].weight.data.fill_(1e17)
    refuse_to_save(net, 3)
    dict(net.state_dict())[f"{'0' if where == 'weight' else '1'}.{where}"].fill_(bad)
    with pytest.raises(
        RollBack, match=r"the weights are not finite, or beyond 1e\+18, at step 3"
    ) as caught:
        refuse_to_save(net, 3)
    assert (caught.value.step, caught.value.limit, caught.value.exit_code) == (3, 3, 5)


class _Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.step_values: dict[str, Tensor] = {}


@pytest.mark.parametrize(
    "broken",
    [{"skipped": 1.0}, {"skipped": 0.0, "d_skipped": 1.0}, {"skipped": 0.0, "d_loss": math.nan}],
    ids=["generator", "discriminator", "a look of the discriminator"],
)
def test_statistics_are_of_the_steps_that_were_taken(
    broken: dict[str, float], tmp_path: Path
) -> None:
    module: Any = _Normed()
    expected, guard = deepcopy(module.norm), Guard(RunFolder(tmp_path), {})
    trainer: Any = SimpleNamespace(global_step=0, max_steps=9)
    guard.on_train_start(trainer, module)
    for step in range(3):
        images = torch.full((2, 1, 2, 2), math.nan if step == 1 else float(step))
        guard.on_train_batch_start(trainer, module, None, 0)
        module.norm(images)
        values = {"loss": 0.5, **(broken if step == 1 else {"skipped": 0.0})}
        module.step_values = {name: torch.tensor(value) for name, value in values.items()}
        trainer.global_step += 1
        guard.on_train_batch_end(trainer, module, None, None, 0)
        if step != 1:
            expected(images)
    pairs = zip(module.norm.buffers(), expected.buffers(), strict=True)
    assert all(torch.equal(found, wanted) for found, wanted in pairs)


@pytest.mark.parametrize(
    ("files", "before", "limit", "to", "aside"),
    [
        ([2, 4, 6], [], 5, 4, [6]),
        ([2, 4, 6], [], 4, 2, [4, 6]),
        ([2, 4, 6], [2], 5, 4, [6]),  # that one is newer than what failed
        ([2, 4, 6], [4], 5, 2, [4, 6]),  # and that one failed
        ([4], [4], 5, 4, []),  # nothing else is left
        ([6], [], 5, 0, [6]),
        ([], [], 5, 0, []),
    ],
)
def test_which_checkpoint_is_trusted(
    files: list[int], before: list[int], limit: int, to: int, aside: list[int], tmp_path: Path
) -> None:
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    for step in files:
        (checkpoints / f"step-{step:06d}.ckpt").touch()
    divergence = Divergence(tmp_path, RATES)
    assert divergence.lr_factor == 1.0
    divergence.entries = [{"step": 9, "to": n, "term": "x", "lr_factor": 0.5} for n in before]
    entry = divergence.roll_back(step=8, limit=limit, term="pixel")
    factor = 0.5 ** (len(before) + 1)
    assert entry == {"step": 8, "to": to, "term": "pixel", "lr_factor": factor, "rates": RATES}
    assert {path.name for path in checkpoints.glob("*.diverged")} == {
        f"step-{step:06d}.diverged" for step in aside
    }
    assert read_json(divergence.path) == Divergence(tmp_path, RATES).entries == divergence.entries
    assert Divergence(tmp_path, RATES).lr_factor == entry["lr_factor"]
    assert Divergence(tmp_path, RATES).spent == (len(before) == 1)


@pytest.mark.parametrize(
    ("noted", "factor", "spent"),
    [
        ([], 1.0, False),
        ([RATES, RATES], 0.25, True),
        ([None, None], 0.25, True),  # by a version that noted no rates
        ([None, RATES], 0.25, True),
        ([RATES, {**RATES, "optimizer.lr": 0.001}], 0.5, False),
        ([{"optimizer.lr": 0.002}] * 2, 1.0, False),  # without a discriminator
    ],
)
def test_only_rollbacks_at_the_present_rates_count(
    noted: list[dict[str, float] | None], factor: float, spent: bool, tmp_path: Path
) -> None:
    entries = [
        {"step": 9, "to": 4, "term": "x", "lr_factor": 0.5**n, **({"rates": of} if of else {})}
        for n, of in enumerate(noted, start=1)
    ]
    write_json(tmp_path / "divergence.json", entries)
    divergence = Divergence(tmp_path, RATES)
    assert (divergence.lr_factor, divergence.spent) == (factor, spent)
    assert divergence.entries == entries


def test_half_of_what_a_rate_was_at_last(tmp_path: Path) -> None:
    """The other network's does not leap back to what is configured."""
    divergence = Divergence(tmp_path, RATES)
    assert divergence.slower("optimizer.lr") == "optimizer.lr=0.001"
    divergence.entries = [{"step": 9, "to": 4, "term": "x", "lr_factor": 0.25}]
    assert divergence.slower("discriminator_optimizer.lr") == (
        "optimizer.lr=0.0005 discriminator_optimizer.lr=1.25e-05"
    )


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '[{"to": 3}]', '[{"to": 3, "lr_factor": "x"}]', BAD_RATES]
)
def test_a_mangled_note_is_not_believed(text: str, tmp_path: Path) -> None:
    (tmp_path / "divergence.json").write_text(text)
    with pytest.raises(StorageError, match="this is not what srtrain wrote") as caught:
        Divergence(tmp_path, RATES)
    assert caught.value.where.endswith("divergence.json")


def test_a_note_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srtrain.training.divergence.write_json", _full)
    with pytest.raises(StorageError, match="cannot note a rollback: No space left on device"):
        Divergence(tmp_path, RATES).roll_back(step=8, limit=5, term="pixel")


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


class _Ranks(FlatDDP):
    world_size = RANKS  # type: ignore[assignment]


def _rank(rank: int, port: int, folder: str) -> None:
    """Three steps; in the second, rank 1 alone has a loss that is not finite."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS
    )
    net = _net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1, fused=True)
    scheduler = constant(optimizer, max_steps=3, warmup_share=0.0)
    module: Any = SimpleNamespace(
        optimizers=lambda: optimizer,
        lr_schedulers=lambda: scheduler,
        guarded=True,
        trainer=SimpleNamespace(strategy=_Ranks()),
    )
    told = []
    for step in range(3):
        _fill(net, step)
        loss = torch.tensor(math.nan if (rank, step) == (1, 1) else 1.0)
        told.append(step_network(module, net, number=0, clip_norm=None, loss=loss)["skipped"])
    steps = [kept["step"] for kept in optimizer.state.values()]
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    if rank == 1:
        next(net.parameters()).data.fill_(math.inf)
    try:
        refuse_to_save(net, 3)
    except RollBack as error:
        told.append(error.step)
    torch.save({"weights": kept, "told": told, "steps": steps}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_ranks_refuse_the_same_steps(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    mp.start_processes(_rank, args=(port, str(tmp_path)), nprocs=RANKS, start_method="fork")
    net = _net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1, fused=True)
    for step in (0, 2):
        _fill(net, step)
        optimizer.step()
    for rank in range(RANKS):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert [float(told) for told in found["told"]] == [0.0, 1.0, 0.0, 3]  # 3: not saved
        assert [int(step) for step in found["steps"]] == [2, 2, 2]
        for name, value in net.state_dict().items():
            torch.testing.assert_close(found["weights"][name], value, atol=1e-7, rtol=0)
