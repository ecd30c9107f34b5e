"""``srtrain benchmark`` on tiny sizes: what it says, not how fast anything is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from srtrain.cli import benchmark, paired
from srtrain.cli.main import main
from srtrain.cli.paired import Clock, Spread, over, take_turns
from srtrain.degradation.sharpen import USM

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def test_arms_take_turns_after_one_round_unmeasured() -> None:
    order = ""

    def work(name: str) -> None:
        nonlocal order
        order += name

    arms = {name: lambda name=name: work(name) for name in "abc"}  # type: ignore[misc]
    costs = take_turns(arms, rounds=3, clock=Clock(torch.device("cpu")))
    assert order == "abc" + "abc" + "cba" + "abc"
    assert {name: len(found) for name, found in costs.items()} == {"a": 3, "b": 3, "c": 3}


def test_shares_are_of_the_same_round() -> None:
    """By hand: rounds at half speed move no share."""
    costs = {"bare": [1.0, 2.0, 4.0], "more": [1.5, 3.0, 5.0]}
    assert over(costs, "bare") == {"more": Spread(median=0.5, low=0.25, high=0.5)}


def test_cpu_seconds_are_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 12.5])
    monkeypatch.setattr(paired.time, "process_time", lambda: next(ticks))
    clock = Clock(torch.device("cpu"))
    assert clock.cost(lambda: None) == 2.5
    assert clock.unit == "CPU-s"


def test_benchmark_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    file = tmp_path / "costs.json"
    words = "--generator edsr_lite --scale 2 --batch 2 --lr-patch 8 --rounds 2 --steps 2"
    try:
        assert main(["benchmark", *words.split(), "--threads", "1", "--json", str(file)]) == 0
    finally:
        torch.set_num_threads(threads)
    result = json.loads(file.read_text(encoding="utf-8"))
    assert list(result["arms"]) == ["bare", "bicubic", "real_esrgan", "real_esrgan + target"]
    assert (result["unit"], result["batch"], result["lr_patch"]) == ("CPU-s", 2, 8)
    for name, arm in result["arms"].items():
        assert len(arm["rounds"]) == 2
        assert 0 < arm["low"] <= arm["median"] <= arm["high"]
        assert (arm["beyond_bare"] is None) is (name == benchmark.BARE)
    said = capsys.readouterr().out
    assert "edsr_lite ×2, 2 patches of 8² LR pixels" in said
    assert all(name in said for name in result["arms"])


def test_guards_are_compared_with_the_same_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "costs.json"
    sizes = "--generator edsr_lite --scale 2 --batch 2 --lr-patch 20 --rounds 2 --steps 1"
    assert main(["benchmark", "--guards", *sizes.split(), "--json", str(file)]) == 0
    arms = json.loads(file.read_text(encoding="utf-8"))["arms"]
    guarded = [name for name in arms if name.endswith(" + guards")]
    assert list(arms) == [n for name in guarded for n in (name.removesuffix(" + guards"), name)]
    assert guarded == ["supervised + guards", "patchgan_lite + guards"]
    assert [name for name, arm in arms.items() if arm["beyond_bare"]] == guarded
    said = capsys.readouterr().out
    assert all(name in said for name in arms)


@pytest.mark.parametrize("guarded", [True, False])
def test_an_arm_has_the_guards_or_not(guarded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from srtrain.cli.guarded import Steps
    from srtrain.training import stepping

    asked = []

    def refuse(optimizer: torch.optim.Optimizer, norm: Tensor) -> Tensor:
        asked.append(optimizer)
        return torch.zeros_like(norm)

    monkeypatch.setattr(stepping, "refuse", refuse)
    words = "--guards --generator edsr_lite --scale 2 --batch 2 --lr-patch 20"
    options = benchmark._parser().parse_args(words.split())
    words_of = ["experiment=mse", "discriminator=patchgan_lite"]
    steps = Steps(words_of, options, torch.device("cpu"))
    before = [p.clone() for p in steps.module.parameters()]
    steps.run(2, guarded=guarded)
    assert len(asked) == (4 if guarded else 0)  # both networks, twice
    assert steps.trainer.global_step == 2
    pairs = zip(before, steps.module.parameters(), strict=True)
    assert sum(not torch.equal(old, new) for old, new in pairs) > 10


def test_the_sharpened_target_is_what_the_loss_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--generator edsr_lite --scale 2 --batch 2 --lr-patch 8 --degradation real_esrgan"
    arms = benchmark.step_arms(benchmark._parser().parse_args(words.split()), torch.device("cpu"))
    compared: dict[str, Tensor] = {}
    l1_loss = torch.nn.functional.l1_loss
    for name, arm in arms.items():

        def kept(sr: Tensor, hr: Tensor, name: str = name) -> Tensor:
            compared[name] = hr
            return l1_loss(sr, hr)

        monkeypatch.setattr(torch.nn.functional, "l1_loss", kept)
        arm()
    hr = compared["bare"]
    assert torch.equal(compared["real_esrgan"], hr)
    assert torch.equal(compared[benchmark.SHARPENED], USM()(hr))
    assert not torch.equal(compared[benchmark.SHARPENED], hr)


def test_an_unknown_degradation_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--degradation", "real_esgran"]) == 2
    assert "real_esrgan" in capsys.readouterr().err
