"""conf/trainer: what each composes to, runs on the devices there are, and refuses without them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from srtrain.cli.main import main
from srtrain.config.preflight import prepare
from srtrain.errors import ConfigError
from srtrain.ranks import gpus
from srtrain.training.loop import TrainerOptions
from srtrain.training.run_folder import RunFolder
from tests.forks import forked_ranks
from tests.training import draw_sets, losses, train, words

if TYPE_CHECKING:
    from collections.abc import Mapping

FOUR = {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_WORLD_SIZE": "2"}
ON_CPU = ("trainer.accelerator=cpu", "trainer.precision=fp32", "trainer.compile=false")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize(
    ("name", "environ", "expected"),
    [
        ("default", {}, ("single", 1, 1, "auto", "auto", False)),
        ("ddp", FOUR, ("ddp", 2, 2, "auto", "auto", False)),
        ("node", {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, ("ddp", 4, 1, "gpu", "bf16", True)),
        ("node", {"CUDA_VISIBLE_DEVICES": ""}, ("ddp", 1, 1, "gpu", "bf16", True)),
        ("node", {"WORLD_SIZE": "2", "RANK": "0"}, ("ddp", 2, 1, "gpu", "bf16", True)),
        ("cluster", FOUR, ("ddp", 2, 2, "gpu", "bf16", True)),
    ],
)
def test_presets(
    name: str,
    environ: Mapping[str, str],
    expected: tuple[object, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    trainer = prepare(["experiment=mse", f"trainer={name}"]).config.trainer
    keys = ("strategy", "devices", "num_nodes", "accelerator", "precision", "compile")
    assert tuple(trainer[key] for key in keys) == expected


@pytest.mark.parametrize(
    ("visible", "nodes", "count"),
    [
        (None, ["nvidia0", "nvidia10", "nvidiactl", "nvidia-uvm", "null"], 2),
        (None, [], 0),
        ("2", ["nvidia0", "nvidia1"], 1),
        ("0, 3", [], 2),
        ("GPU-5e9fb0d1,MIG-7a", [], 2),
        ("0,-1,1", [], 1),
        ("", ["nvidia0"], 0),
    ],
)
def test_gpus_are_counted_without_torch(
    visible: str | None, nodes: list[str], count: int, tmp_path: Path
) -> None:
    for node in nodes:
        (tmp_path / node).touch()
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert gpus(environ, tmp_path) == count


@pytest.mark.parametrize("name", ["node", "cluster"])
def test_without_a_gpu_nothing_is_started(
    name: str,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    own = [word for word in words(images, tmp_path / "run") if "accelerator" not in word]
    assert main([*own, f"trainer={name}", "trainer.devices=2"]) == 2
    assert "there is no GPU · trainer.accelerator=gpu" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    TrainerOptions(max_steps=1, devices=2).refuse_missing_gpus()
    TrainerOptions(max_steps=1, devices=8, accelerator="cpu").refuse_missing_gpus()
    with pytest.raises(ConfigError, match="8 GPUs are asked for, this machine has 2"):
        TrainerOptions(max_steps=1, devices=8).refuse_missing_gpus()


@pytest.fixture(scope="module")
def alone(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(images, tmp_path_factory.mktemp("alone") / "run", "trainer.max_steps=3")


def test_node_of_one_device_is_the_plain_run(
    images: Path, alone: RunFolder, tmp_path: Path
) -> None:
    one = ("trainer=node", "trainer.devices=1", *ON_CPU, "trainer.max_steps=3")
    assert losses(train(images, tmp_path / "run", *one)) == losses(alone)


def test_cluster_of_two_ranks_trains_on_the_same_samples(
    images: Path, alone: RunFolder, tmp_path: Path
) -> None:
    command = words(images, tmp_path / "run", "trainer=cluster", *ON_CPU, "trainer.max_steps=3")
    log = tmp_path / "log"
    assert forked_ranks(command, log, ranks=2) == [0, 0], log.read_text()
    found = losses(RunFolder(tmp_path / "run"))
    assert [step for step, _ in found] == [1, 2, 3]
    assert [value for _, value in found] == pytest.approx([v for _, v in losses(alone)], rel=1e-5)
