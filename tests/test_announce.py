"""What a run says of itself before it starts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from torch import nn

from srtrain.cli import announce
from srtrain.losses import precision
from srtrain.losses.perceptual import Perceptual
from srtrain.training.loop import TrainerOptions

if TYPE_CHECKING:
    from srtrain.losses.precision import Precision


@pytest.mark.parametrize(
    ("asked", "amx", "uses_gpu", "said"),
    [
        ("auto", True, False, ["perceptual in bf16"]),
        ("auto", False, False, []),
        ("auto", True, True, []),
        ("bf16", False, True, ["perceptual in bf16"]),
        ("fp32", True, False, []),
    ],
)
def test_a_term_in_bf16_is_told(
    asked: Precision, amx: bool, uses_gpu: bool, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: amx)
    terms = {"pixel": nn.MSELoss(), "perceptual": Perceptual(precision=asked)}
    module: Any = SimpleNamespace(loss=SimpleNamespace(terms=terms))
    options: Any = SimpleNamespace(uses_gpu=uses_gpu)
    assert list(announce._narrow(module, options)) == said


@pytest.mark.parametrize(
    ("asked", "amx", "said"),
    [
        ("auto", True, "1 × CPU, 32-true; trainer.precision=bf16 may be faster here"),
        ("auto", False, "1 × CPU, 32-true"),
        ("fp32", True, "1 × CPU, 32-true"),
        ("bf16", True, "1 × CPU, bf16-mixed"),
    ],
)
def test_a_cpu_that_gains_by_bf16_is_told(
    asked: Precision, amx: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: amx)
    options = TrainerOptions(max_steps=1, accelerator="cpu", precision=asked)
    assert announce.devices(options) == said


@pytest.mark.parametrize(
    ("asked", "amx", "uses_gpu", "narrow"),
    [
        ("auto", True, False, True),
        ("auto", False, False, False),
        ("auto", True, True, False),
        ("bf16", False, False, True),
        ("fp32", True, False, False),
    ],
)
def test_a_mean_in_bf16_is_told(
    asked: Precision, amx: bool, uses_gpu: bool, narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: amx)
    options: Any = SimpleNamespace(uses_gpu=uses_gpu)
    for net, told in ((nn.Identity(), narrow), (None, False)):
        assert announce._narrow_mean(net, asked, options) == (", mean in bf16" if told else "")
