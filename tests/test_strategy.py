"""Flat data parallel on two gloo ranks, forked from this process."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn

from srtrain.training.strategy import FlatDDP, average_gradients

if TYPE_CHECKING:
    from pathlib import Path

RANKS = 2


class _Ranks(FlatDDP):
    world_size = RANKS  # type: ignore[assignment]


def _net(seed: int) -> nn.Sequential:
    """Parameters, buffers, one layer that gets no gradient, one gradient that lies transposed."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4))


def _gradient(shape: torch.Size, rank: int, index: int) -> torch.Tensor:
    seeded = torch.Generator().manual_seed(100 * rank + index)
    return torch.randn(shape, generator=seeded)


def _fill(net: nn.Sequential, rank: int) -> None:
    for index, parameter in enumerate(net[:2].parameters()):
        gradient = _gradient(parameter.shape, rank, index)
        if gradient.ndim == 4:
            gradient = gradient.contiguous(memory_format=torch.channels_last)
        parameter.grad = gradient


def _rank(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS
    )
    net = _net(seed=rank)
    net[1].running_mean.fill_(rank + 1)
    strategy = _Ranks()
    strategy._lightning_module = net  # type: ignore[assignment]
    strategy.configure_ddp()
    _fill(net, rank)
    average_gradients(strategy, net)
    gradients = [parameter.grad for parameter in net.parameters()]
    torch.save({"state": net.state_dict(), "gradients": gradients}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    mp.start_processes(_rank, args=(port, str(folder)), nprocs=RANKS, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


def test_all_start_as_rank_0(ranks: list[dict]) -> None:
    expected = _net(seed=0).state_dict()
    expected["1.running_mean"].fill_(1)
    for rank in ranks:
        assert rank["state"].keys() == expected.keys()
        assert all(torch.equal(rank["state"][name], value) for name, value in expected.items())


def test_gradients_are_the_mean_over_ranks(ranks: list[dict]) -> None:
    shapes = [parameter.shape for parameter in _net(seed=0).parameters()]
    for rank in ranks:
        *averaged, without_weight, without_bias = rank["gradients"]
        assert without_weight is None
        assert without_bias is None
        for index, gradient in enumerate(averaged):
            parts = [_gradient(shapes[index], other, index) for other in range(RANKS)]
            torch.testing.assert_close(gradient, sum(parts) / RANKS, atol=1e-6, rtol=0)


def test_all_ranks_hold_the_same_bits(ranks: list[dict]) -> None:
    first, second = ([g for g in rank["gradients"] if g is not None] for rank in ranks)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "strategy", [SingleDeviceStrategy(), FlatDDP()], ids=["single", "one rank"]
)
def test_one_process_is_left_alone(strategy: SingleDeviceStrategy | FlatDDP) -> None:
    net = _net(seed=0)
    _fill(net, rank=0)
    average_gradients(strategy, net)  # without a process group an all-reduce would raise
    for index, parameter in enumerate(net[:2].parameters()):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, _gradient(parameter.shape, 0, index))


def test_without_a_module() -> None:
    with pytest.raises(RuntimeError, match="before the module"):
        FlatDDP().configure_ddp()
