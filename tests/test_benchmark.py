"""``srtrain benchmark`` on tiny sizes: what it says, not how fast anything is."""

from __future__ import annotations

import argparse
import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
import torch

from srtrain.cli.benchmark import degradation, guards, paired
from srtrain.cli.benchmark.main import SUITES
from srtrain.cli.benchmark.options import add_common
from srtrain.cli.benchmark.paired import Clock, Spread, ratio, take_turns
from srtrain.cli.benchmark.report import Arm, Report, Table, from_json, show, to_json
from srtrain.cli.main import main
from srtrain.degradation.sharpen import USM

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from torch import Tensor


def options_of(suite: ModuleType, words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_common(parser)
    suite.add_options(parser)
    return parser.parse_args(words.split())


def test_arms_take_turns_after_one_round_unmeasured() -> None:
    order = ""

    def work(name: str) -> None:
        nonlocal order
        order += name

    arms = {name: lambda name=name: work(name) for name in "abc"}  # type: ignore[misc]
    costs = take_turns(arms, rounds=3, clock=Clock(torch.device("cpu")))
    assert order == "abc" + "abc" + "cba" + "abc"
    assert {name: len(found) for name, found in costs.items()} == {"a": 3, "b": 3, "c": 3}


def test_ratios_are_of_the_same_round() -> None:
    """By hand: rounds at half speed move no ratio."""
    assert ratio([1.5, 3.0, 5.0], [1.0, 2.0, 4.0]) == Spread(median=1.5, low=1.25, high=1.5)


def a_report() -> Report:
    """By hand: half of 100 FLOP/s; 3 samples a second of 20 FLOPs each."""
    fast, slow = Arm("bare", [4.0, 2.0], flops=20.0), Arm("all", [3.0, 1.5], "[all] on")
    table = Table("Steps", "samples/s", [fast, slow], "bare", "more", matrix=[160.0, 80.0])
    costs = Table("Turns", "s", [Arm("step", [2.0], flops=50.0)], matrix=[100.0])
    return Report("A suite", {"batch": 2}, [table, costs])


def test_a_report_can_be_read_again(capsys: pytest.CaptureFixture[str]) -> None:
    report = a_report()
    text = to_json(report, command=["srtrain", "benchmark", "x y"])
    assert from_json(text) == report
    content = json.loads(text)
    assert content["command"] == "srtrain benchmark 'x y'"
    assert content["torch"] == torch.__version__
    assert content["commit"]
    assert {"cpu", "cpus", "threads", "load"} <= content["hardware"].keys()
    steps, turns = content["tables"]
    assert [arm["ratio"] for arm in steps["arms"]] == [
        None,
        {"median": 0.75, "low": 0.75, "high": 0.75},
    ]
    assert steps["arms"][0]["share_of_matrix_rate"]["median"] == 0.5
    assert steps["arms"][1]["share_of_matrix_rate"] is None
    assert turns["arms"][0]["share_of_matrix_rate"]["median"] == 0.25
    show(report)
    said = " ".join(capsys.readouterr().out.split())
    assert "bare 3 [2, 4] - 50% all 2.25 [1.5, 3] 0.750 - all: [all] on" in said


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["trainign"], "training"),
        (["degradation", "--degradation", "real_esgran"], "real_esrgan"),
        (["training", "--override", "trainer.compil=true"], "trainer.compile"),
    ],
)
def test_unknown_names_are_refused(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", *words]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["guards", "--rounds", "0"], ["guards", "--device", "tpu"], ["degradation", "--guards"]],
)
def test_bad_options_are_refused(words: list[str]) -> None:
    assert main(["benchmark", *words]) == 2


def test_sigterm_ends_the_arms_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(_: argparse.Namespace) -> Report:
        os.kill(os.getpid(), signal.SIGTERM)
        return a_report()

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(degradation, "measure", measure)
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", "degradation"])
    assert stopped.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_suites_are_listed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", *words]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in SUITES)


def test_cpu_seconds_are_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 12.5])
    monkeypatch.setattr(paired.time, "process_time", lambda: next(ticks))
    clock = Clock(torch.device("cpu"))
    assert clock.cost(lambda: None) == 2.5
    assert clock.unit == "CPU-s"


def test_degradations_by_their_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    file = tmp_path / "costs.json"
    words = "--generator edsr_lite --scale 2 --batch 2 --lr-patch 8 --rounds 2 --steps 2"
    try:
        told = ["--threads", "1", "--json", str(file)]
        assert main(["benchmark", "degradation", *words.split(), *told]) == 0
    finally:
        torch.set_num_threads(threads)
    report = from_json(file.read_text(encoding="utf-8"))
    (table,) = report.tables
    names = [arm.name for arm in table.arms]
    assert names == [degradation.BARE, "bicubic", "real_esrgan", degradation.SHARPENED]
    assert (table.unit, table.base) == ("CPU-s a step", degradation.BARE)
    assert (report.about["batch"], report.about["lr_patch"]) == (2, 8)
    assert all(len(arm.rounds) == 2 and min(arm.rounds) > 0 for arm in table.arms)
    said = capsys.readouterr().out
    assert all(name in said for name in names)


def test_guards_are_compared_with_the_same_step() -> None:
    sizes = "--generator edsr_lite --scale 2 --batch 2 --lr-patch 20 --rounds 2 --steps 1"
    tables = guards.measure(options_of(guards, f"{sizes} --device cpu")).tables
    names = ["supervised", "patchgan_lite"]
    assert [[arm.name for arm in t.arms] for t in tables] == [[n, n + guards.GUARDS] for n in names]
    assert [table.base for table in tables] == names


@pytest.mark.parametrize("guarded", [True, False])
def test_an_arm_has_the_guards_or_not(guarded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from srtrain.training import stepping

    asked = []

    def refuse(optimizer: torch.optim.Optimizer, norm: Tensor) -> Tensor:
        asked.append(optimizer)
        return torch.zeros_like(norm)

    monkeypatch.setattr(stepping, "refuse", refuse)
    options = options_of(guards, "--generator edsr_lite --scale 2 --batch 2 --lr-patch 20")
    words_of = ["experiment=mse", "discriminator=patchgan_lite"]
    steps = guards.Steps(words_of, options, torch.device("cpu"))
    before = [p.clone() for p in steps.module.parameters()]
    steps.run(2, guarded=guarded)
    assert len(asked) == (4 if guarded else 0)  # both networks, twice
    assert steps.trainer.global_step == 2
    pairs = zip(before, steps.module.parameters(), strict=True)
    assert sum(not torch.equal(old, new) for old, new in pairs) > 10


def test_the_sharpened_target_is_what_the_loss_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--generator edsr_lite --scale 2 --batch 2 --lr-patch 8 --degradation real_esrgan"
    arms = degradation.step_arms(options_of(degradation, words), torch.device("cpu"))
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
    assert torch.equal(compared[degradation.SHARPENED], USM()(hr))
    assert not torch.equal(compared[degradation.SHARPENED], hr)
