"""A run from outside: what it writes, how it continues, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from srtrain.files import read_json
from srtrain.networks.storage import newest_valid, read_checkpoint
from srtrain.training.run_folder import RunFolder
from tests.conftest import ROOT
from tests.training import cut_back, draw_sets, losses, train, weights, words


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def straight(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(images, tmp_path_factory.mktemp("runs") / "straight", drawn=True)


def test_run_folder_holds_what_was_promised(straight: RunFolder) -> None:
    for name in ("config.yaml", "metrics.csv", "summary.json", "curves.png"):
        assert (straight.path / name).stat().st_size > 0
    assert (straight.samples / "tiny_image0.png").exists()
    summary = read_json(straight.summary)
    assert summary["generator_steps"] == 6
    assert summary["discriminator_steps"] == 0
    assert summary["checkpoint"] == "checkpoints/step-000006.ckpt"
    assert set(summary["best"]) >= {"metric", "step", "file"}
    metrics = {"psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "lr_psnr", "rtm", "bias"}
    assert metrics <= summary["val"]["tiny"].keys()
    assert metrics <= summary["bicubic"]["tiny"].keys()
    pointer = read_json(straight.checkpoints / "last")
    assert pointer["file"] == "step-000006.ckpt"
    assert pointer["step"] == 6


def test_metrics_csv_has_every_step_and_both_baselines(straight: RunFolder) -> None:
    rows = straight.read_metrics()
    assert [step for step, name, _ in rows if name == "train/loss"] == [1, 2, 3, 4, 5, 6]
    assert {step for step, name, _ in rows if name == "val/tiny/psnr_y"} == {0, 6}
    assert {step for step, name, _ in rows if name == "bicubic/tiny/psnr_y"} == {0}
    named = {name for _, name, _ in rows}
    assert {"train/pixel", "train/share/pixel", "train/grad_norm"} <= named


def test_checkpoint_describes_itself(straight: RunFolder) -> None:
    content = read_checkpoint(straight.checkpoints / "step-000006.ckpt")
    assert content["format"] == 1
    assert content["scale"] == 2
    assert content["generator"]["_target_"] == "srtrain.networks.edsr.EDSRLite"
    assert content["generator"]["kwargs"]["num_features"] == 8
    average = content["train_state"]["callbacks"]["EMA"]["average"]
    assert all(torch.equal(content["state_dict"][name], average[name]) for name in average)


def test_init_from_starts_where_the_file_ends(
    images: Path, straight: RunFolder, tmp_path: Path
) -> None:
    began = train(images, tmp_path, f"init_from={straight.path}", "trainer.max_steps=1", "seed=9")
    measured = {name: value for step, name, value in began.read_metrics() if step == 0}
    for name, value in read_json(straight.summary)["val"]["tiny"].items():
        assert measured[f"val/tiny/{name}"] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("extra", "code", "said"),
    [
        (["resume=never"], 2, "already holds step-000006.ckpt"),
        (["scale=4", "trainer.max_steps=9"], 2, "was made with scale 2"),
        (["generator.num_features=16"], 2, "was made with generator"),
        (["trainer.devices=2"], 2, "trainer=ddp"),
        (["data.train=/nowhere"], 3, "/nowhere"),
    ],
)
def test_refusals(
    extra: list[str],
    code: int,
    said: str,
    images: Path,
    straight: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = cut_back(straight, tmp_path / "used", 6)
    before = sorted(path.name for path in folder.checkpoints.iterdir())
    train(images, folder.path, *extra, code=code)
    message = capsys.readouterr().err
    assert message.startswith("srtrain: error: ")
    assert said in message
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == before


def test_second_process_is_refused(
    images: Path, straight: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cut_back(straight, tmp_path / "held", 6)
    folder.create()
    with folder.locked():
        train(images, folder.path, code=2)
    assert "in use by process" in capsys.readouterr().err


def test_accumulation_changes_nothing(images: Path, straight: RunFolder, tmp_path: Path) -> None:
    folder = train(images, tmp_path / "halves", "trainer.accumulate=2")
    assert read_json(folder.summary)["generator_steps"] == 6
    for name, value in weights(straight, 6).items():
        torch.testing.assert_close(weights(folder, 6)[name], value, atol=1e-6, rtol=0)


def test_perceptual_term_is_logged_with_its_shares(images: Path, tmp_path: Path) -> None:
    folder = train(images, tmp_path / "perceptual", "experiment=mse_plus_perceptual")
    last = {name: value for _, name, value in folder.read_metrics()}
    assert 0 < last["train/share/perceptual"] < 1
    assert last["train/share/perceptual"] + last["train/share/pixel"] == pytest.approx(1)
    assert last["train/gradient_ratio/perceptual"] > 0
    features = read_checkpoint(folder.checkpoints / "step-000006.ckpt")["features"]
    assert features["perceptual"]["name"] == "first5/procedural"
    # The frozen features are not the run's to save.
    state = read_checkpoint(folder.checkpoints / "step-000006.ckpt")["train_state"]["state_dict"]
    assert all(name.startswith("generator.net.") for name in state)


def test_divergence_names_the_term_and_keeps_the_last_checkpoint(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(images, tmp_path / "nan", "optimizer.lr=1e30", "model.clip_norm=null", code=5)
    message = capsys.readouterr().err
    assert "not finite" in message
    assert f"resume={folder.path} optimizer.lr=1.25e+29" in message
    found = newest_valid(folder.path)
    assert found is None or all(
        bool(value.isfinite().all()) for value in read_checkpoint(found)["state_dict"].values()
    )


def test_best_checkpoint_survives_pruning(images: Path, tmp_path: Path) -> None:
    folder = train(
        images, tmp_path / "pruned", "checkpoint.keep_last=1", "trainer.val_every_n_steps=2"
    )
    best = read_json(folder.summary)["best"]["file"]
    kept = {path.name for path in folder.checkpoints.glob("*.ckpt")}
    assert kept == {best, "step-000006.ckpt"}


def test_the_last_step_competes_for_the_best(images: Path, tmp_path: Path) -> None:
    """Six steps, validated after every fourth: the sixth is measured too."""
    extra = ("trainer.val_every_n_steps=4", "optimizer.lr=1e-4", "checkpoint.mode=min")
    folder = train(images, tmp_path / "last", *extra)
    summary = read_json(folder.summary)
    assert (summary["val_step"], summary["best"]["step"]) == (6, 6)
    assert [step for step, name, _ in folder.read_metrics() if name == "val/tiny/psnr_y"] == [
        0,
        4,
        6,
    ]
    saved = read_checkpoint(folder.checkpoints / "step-000006.ckpt")["reached"]
    assert saved["val"] == summary["val"]
    assert (saved["best"], saved["checkpoint"]) == (summary["best"], summary["checkpoint"])


def test_an_unknown_metric_is_refused_before_training(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(images, tmp_path / "typo", "checkpoint.monitor=psnr", code=2)
    message = capsys.readouterr().err
    assert "nothing measures psnr · checkpoint.monitor · choose one of bias, " in message
    assert "psnr_y" in message
    assert losses(folder) == []


EXPERIMENTS = {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")}
FLOWS = {"pmrf", "posterior"}  # of another network: tests/test_flow_runs.py


@pytest.mark.parametrize("experiment", sorted(EXPERIMENTS - FLOWS))
def test_every_experiment_trains(experiment: str, images: Path, tmp_path: Path) -> None:
    crops = "data.hr_patch_size=40"  # a discriminator's patch is at most 34 at small budgets
    folder = train(images, tmp_path / experiment, f"experiment={experiment}", crops, drawn=True)
    assert read_json(folder.summary)["generator_steps"] == 6


def test_two_ranks_are_one(
    images: Path, straight: RunFolder, tmp_path: Path, run_srtrain: object
) -> None:
    run_dir = tmp_path / "ranks"
    done = run_srtrain(*words(images, run_dir, "trainer=ddp", "trainer.devices=2"))  # type: ignore[operator]
    assert done.rc == 0, done.stderr
    folder = RunFolder(run_dir)
    for name, value in weights(straight, 6).items():
        torch.testing.assert_close(weights(folder, 6)[name], value, atol=1e-6, rtol=0)
    one, two = read_json(straight.summary), read_json(folder.summary)
    assert [step for step, _ in losses(folder)] == [step for step, _ in losses(straight)]
    for name in ("loss", "pixel", "grad_norm"):
        one_rank, two_ranks = (_column(run, f"train/{name}") for run in (straight, folder))
        assert two_ranks == pytest.approx(one_rank, rel=1e-5), name
    assert two["val"]["tiny"] == pytest.approx(one["val"]["tiny"], rel=1e-5)
    assert two["bicubic"]["tiny"] == pytest.approx(one["bicubic"]["tiny"], rel=1e-6)


def _column(folder: RunFolder, name: str) -> list[float]:
    return [value for _, row, value in folder.read_metrics() if row == name]
