"""Flows from outside: what a run needs, keeps, and refuses before it works."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from srtrain.cli.main import main
from srtrain.networks.flow import Flow
from srtrain.networks.loading import load_generator
from srtrain.networks.storage import read_checkpoint
from srtrain.training.run_folder import RunFolder
from tests.training import cut_back, draw_sets, losses, train, weights, words

SMALL = ("generator=flow_lite", "generator.velocity.channels=8", "generator.steps=2")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def mean(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(images, tmp_path_factory.mktemp("runs") / "mse")


@pytest.fixture(scope="module")
def pmrf(images: Path, mean: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    asked = ("experiment=pmrf", f"mse_checkpoint={mean.path}", *SMALL)
    return train(images, tmp_path_factory.mktemp("runs") / "pmrf", *asked)


def test_one_file_holds_the_mean_as_it_was(mean: RunFolder, pmrf: RunFolder) -> None:
    flow = load_generator(pmrf.path).net
    assert isinstance(flow, Flow)
    for name, value in load_generator(mean.path).net.state_dict().items():
        assert torch.equal(flow.frozen.net.state_dict()[name], value), name
    assert read_checkpoint(pmrf.checkpoints / "step-000006.ckpt")["experiment"] == "pmrf"


def test_resumed_is_uninterrupted_though_the_mean_is_gone(
    images: Path, mean: RunFolder, tmp_path: Path
) -> None:
    copy = shutil.copytree(mean.path, tmp_path / "mse")
    asked = ("experiment=pmrf", f"mse_checkpoint={copy}", *SMALL)
    straight = train(images, tmp_path / "straight", *asked)
    cut = cut_back(straight, tmp_path / "cut", 4)
    shutil.rmtree(copy)
    assert main([f"resume={cut.path}"]) == 0
    assert main(words(images, cut.path, *asked)) == 0, "the same command, of a run that has ended"
    resumed = weights(cut, 6)
    assert all(torch.equal(value, resumed[name]) for name, value in weights(straight, 6).items())


def test_another_flow_brings_its_velocity_not_its_mean(
    images: Path, pmrf: RunFolder, tmp_path: Path
) -> None:
    other = train(images, tmp_path / "mse", "seed=5", "trainer.max_steps=1")
    asked = ("experiment=pmrf", f"mse_checkpoint={other.path}", *SMALL, f"init_from={pmrf.path}")
    run = train(images, tmp_path / "run", *asked, "trainer.max_steps=1")
    flow = load_generator(run.path).net
    assert isinstance(flow, Flow)
    for name, value in load_generator(other.path).net.state_dict().items():
        assert torch.equal(flow.frozen.net.state_dict()[name], value), name
    assert main([f"resume={run.path}", "trainer.max_steps=2"]) == 0


def test_a_flow_is_no_mean(
    images: Path, pmrf: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("experiment=posterior", f"mse_checkpoint={pmrf.path}", *SMALL)
    assert main(words(images, tmp_path / "run", *asked)) == 2
    assert "is a flow: it makes samples, no mean · mse_checkpoint · " in capsys.readouterr().err


def test_a_checkpoint_holds_raw_and_averaged_weights_once(pmrf: RunFolder) -> None:
    held = [name for name in weights(pmrf, 6) if name.endswith("velocity.first.weight")]
    assert held == ["velocity.first.weight", "raw.generator.net.velocity.first.weight"]


def test_accumulation_changes_nothing(images: Path, mean: RunFolder, tmp_path: Path) -> None:
    asked = ("experiment=pmrf", f"mse_checkpoint={mean.path}", *SMALL, "model.mean_precision=fp32")
    whole = weights(train(images, tmp_path / "whole", *asked), 6)
    halves = weights(train(images, tmp_path / "halves", *asked, "trainer.accumulate=2"), 6)
    for name, value in whole.items():
        torch.testing.assert_close(halves[name], value, atol=1e-5, rtol=0)


def test_the_mean_in_bf16_is_the_mean_within_its_noise(
    images: Path,
    mean: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same run in both precisions: other numbers, hardly."""
    asked = ("experiment=pmrf", f"mse_checkpoint={mean.path}", *SMALL)
    within: dict[str, list[bool]] = {"fp32": [], "bf16": []}
    found = {}
    for precision, seen in within.items():
        with monkeypatch.context() as patch:

            def noted(flow: Flow, lr: Tensor, seen: list[bool] = seen) -> Tensor:
                seen.append(torch.is_autocast_enabled("cpu"))
                with torch.no_grad():
                    return flow.frozen(lr)

            patch.setattr(Flow, "mean_of", noted)
            run = train(images, tmp_path / precision, *asked, f"model.mean_precision={precision}")
        found[precision] = dict(losses(run))
        assert (", mean in bf16" in capsys.readouterr().out) == (precision == "bf16")
    assert not any(within["fp32"])
    assert sum(within["bf16"]) == 6 < len(within["bf16"])  # its steps; not its validation
    assert found["bf16"] != found["fp32"]
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.01)


@pytest.mark.parametrize("with_mean", [False, True])
def test_posterior_with_and_without_the_mean(
    with_mean: bool, images: Path, mean: RunFolder, tmp_path: Path
) -> None:
    told = [f"mse_checkpoint={mean.path}"] if with_mean else []
    run = train(images, tmp_path / "run", "experiment=posterior", *SMALL, *told)
    flow = load_generator(run.path).net
    assert isinstance(flow, Flow)
    assert (flow.source, flow.condition) == ("condition", "mean" if with_mean else "lr")


def test_the_header_says_what_trained_the_mean(
    images: Path, mean: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And of medians that they are none; another mean is not taken on resuming."""
    median = train(images, tmp_path / "l1", "experiment=l1")
    capsys.readouterr()
    asked = ("experiment=posterior", *SMALL)
    run = train(images, tmp_path / "run", *asked, f"mse_checkpoint={median.path}")
    said = capsys.readouterr().out
    assert "mean        experiment l1, " in said
    assert "SR is sample 0 of seed 0, by 2 steps: one plausible image of many" in said
    assert "trained by pixel (L1Loss), not by MSE alone" in said
    assert main(words(images, run.path, *asked, f"mse_checkpoint={mean.path}")) == 2
    assert "holds another network than this run began with" in capsys.readouterr().err


@pytest.mark.parametrize(("steps", "fires"), [(1, True), (25, False)])
def test_samples_that_fall_back_to_the_mean_raise_an_alarm(
    steps: int,
    fires: bool,
    images: Path,
    mean: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = (f"mse_checkpoint={mean.path}", *SMALL, f"generator.steps={steps}")
    run = train(images, tmp_path / "run", "experiment=posterior", *told)
    summary = json.loads(run.summary.read_text())
    assert summary["protocol"]["sampled"]["steps"] == steps
    assert ("samples fall back to the mean" in summary["alarms"]) == fires
    assert ("alarm: samples fall back to the mean" in capsys.readouterr().err) == fires


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["experiment=pmrf"], "add mse_checkpoint=RUN, of srtrain experiment=mse at the same"),
        (["experiment=pmrf", "mse_checkpoint={mean}", "scale=4"], "is of scale 2, this run of"),
        (["experiment=posterior", "generator.steps=0"], "generator.steps cannot be 0"),
        (["experiment=mse", "mse_checkpoint={mean}"], "that nothing uses"),
        (["experiment=posterior", "loss=l1"], "a flow learns velocities by squared error alone"),
        (
            ["experiment=posterior", "discriminator=patchgan"],
            "_lite: experiment=posterior learns velocities, nobody judges images · discriminator",
        ),
        (
            ["experiment=posterior", "generator.project=true", "degradation=blind_light"],
            "projection holds to a bicubic LR",
        ),
        (["generator=flow"], "is a flow, which model=flow trains"),
        (
            ["experiment=posterior", "model.mean_precision=fp16"],
            "model.mean_precision cannot be 'fp16' · model.mean_precision=fp16 · choose auto",
        ),
    ],
)
def test_refused_before_any_work(
    asked: list[str],
    said: str,
    images: Path,
    mean: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = [word.format(mean=mean.path) for word in asked]
    plain = [w for w in words(images, tmp_path / "no", *line) if not w.startswith("generator.num")]
    assert main(plain) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "no" / "metrics.csv").exists()
