"""EMA: against an independent computation; swapped in for validation and out again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from srtrain.training.ema import EMA

TRAINER: Any = None  # EMA asks nothing of it


def _module(net: nn.Module) -> SimpleNamespace:
    return SimpleNamespace(generator=SimpleNamespace(net=net))


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def _step(net: nn.Module, seed: int) -> None:
    """New weights, running statistics and batch counter, as an optimizer and a batch leave them."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += torch.randn_like(parameter)
    net(torch.randn(2, 3, 5, 5))


def _copy(net: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.98])
def test_average_is_the_recursion_over_weights_and_buffers(decay: float) -> None:
    net = _net()
    module, ema = _module(net), EMA(decay=decay)
    ema.on_train_start(TRAINER, module)
    expected = {name: value.astype(np.float64) for name, value in _copy(net).items()}
    for n in range(20):
        _step(net, n)
        ema.on_train_batch_end(TRAINER, module, None, None, n)
        d = min(decay, (1 + n) / (10 + n))
        for name, value in _copy(net).items():
            expected[name] = d * expected[name] + (1 - d) * value
    assert ema.average.keys() == expected.keys()
    assert "1.running_var" in expected
    assert int(ema.average.pop("1.num_batches_tracked")) == 20  # a count is taken, not averaged
    for name, value in ema.average.items():
        np.testing.assert_allclose(value.numpy(), expected[name], atol=2e-6)


def test_updates_in_place_of_nothing_else() -> None:
    net = _net()
    module, ema = _module(net), EMA(decay=0.9)
    ema.on_train_start(TRAINER, module)
    _step(net, 0)
    before = _copy(net)
    ema.on_train_batch_end(TRAINER, module, None, None, 0)
    assert all(np.array_equal(value, before[name]) for name, value in _copy(net).items())


@pytest.mark.parametrize("leave", ["on_validation_end", "on_exception"])
def test_swap_and_back(leave: str) -> None:
    net = _net()
    module, ema = _module(net), EMA(decay=0.9)
    ema.on_train_start(TRAINER, module)
    for n in range(3):
        _step(net, n)
        ema.on_train_batch_end(TRAINER, module, None, None, n)
    raw = _copy(net)
    pointers = [parameter.data_ptr() for parameter in net.parameters()]
    average = {name: value.numpy().copy() for name, value in ema.average.items()}

    ema.on_validation_start(TRAINER, module)
    ema.on_validation_start(TRAINER, module)  # twice: the weights must not be forgotten
    assert all(np.array_equal(value, average[name]) for name, value in _copy(net).items())
    assert not np.array_equal(average["0.weight"], raw["0.weight"])
    {
        "on_validation_end": lambda: ema.on_validation_end(TRAINER, module),
        "on_exception": lambda: ema.on_exception(TRAINER, module, KeyboardInterrupt()),
    }[leave]()
    assert all(np.array_equal(value, raw[name]) for name, value in _copy(net).items())
    assert [parameter.data_ptr() for parameter in net.parameters()] == pointers
    assert all(np.array_equal(v.numpy(), average[name]) for name, v in ema.average.items())


def test_validation_before_training_changes_nothing() -> None:
    net = _net()
    before, ema = _copy(net), EMA(decay=0.9)
    ema.on_validation_start(TRAINER, _module(net))
    ema.on_validation_end(TRAINER, _module(net))
    assert all(np.array_equal(value, before[name]) for name, value in _copy(net).items())


def test_resume_goes_on_where_it_stopped() -> None:
    averages = []
    for cut in (None, 4):
        net = _net()
        module, ema = _module(net), EMA(decay=0.9)
        ema.on_train_start(TRAINER, module)
        for n in range(8):
            if n == cut:
                state = ema.state_dict()
                ema = EMA(decay=0.9)
                ema.load_state_dict(state)
                ema.on_train_start(TRAINER, module)
            _step(net, n)
            ema.on_train_batch_end(TRAINER, module, None, None, n)
        averages.append(ema.average)
    straight, resumed = averages
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, float("nan")])
def test_impossible_decay(decay: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
        EMA(decay=decay)
