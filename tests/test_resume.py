"""Runs that are continued as configured now; bit-equal ones: ``faults/test_resume_anywhere.py``."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from omegaconf import OmegaConf
from torch.optim.lr_scheduler import StepLR

from srtrain.cli.main import main
from srtrain.cli.resume import FIXED, changes, digests, refuse_another, same_sets
from srtrain.data.datamodule import SRData
from srtrain.files import read_json
from srtrain.networks import storage
from srtrain.networks.storage import newest_valid, read_checkpoint
from srtrain.training.reconfigure import reconfigure
from srtrain.training.schedules import cosine
from tests.training import cut_back, draw_images, draw_sets, losses, train, weights

if TYPE_CHECKING:
    from pathlib import Path

    from srtrain.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def straight(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(images, tmp_path_factory.mktemp("runs") / "straight")


def test_resume_takes_the_folders_own_configuration(straight: RunFolder, tmp_path: Path) -> None:
    folder = cut_back(straight, tmp_path / "own", 4)
    assert main([f"resume={folder.path}"]) == 0
    expected = weights(straight, 6)
    assert all(torch.equal(value, expected[name]) for name, value in weights(folder, 6).items())


def test_a_folder_from_before_heads_and_adversaries_goes_on(
    straight: RunFolder, tmp_path: Path
) -> None:
    """Its config.yaml lacks what was added since; nothing of that is needed to go on as it was."""
    folder = cut_back(straight, tmp_path / "older", 4)
    saved = OmegaConf.load(folder.config)
    for key in ("discriminator", "discriminator_optimizer", "objective"):
        del saved[key]
    del saved.loss.head, saved.loss.schedule, saved.model.target, saved.model.augment
    folder.config.write_text(OmegaConf.to_yaml(saved), encoding="utf-8")
    assert main([f"resume={folder.path}"]) == 0
    expected = weights(straight, 6)
    assert all(torch.equal(value, expected[name]) for name, value in weights(folder, 6).items())


def test_torn_checkpoint_is_passed_over(images: Path, straight: RunFolder, tmp_path: Path) -> None:
    folder = cut_back(straight, tmp_path / "torn", 4)
    newest = folder.checkpoints / "step-000004.ckpt"
    newest.write_bytes(newest.read_bytes()[:1000])
    found = newest_valid(folder.path)
    assert found is not None
    assert found.name == "step-000002.ckpt"
    train(images, folder.path)
    assert losses(folder) == losses(straight)


def test_the_checkpoint_is_read_once(
    images: Path, straight: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cut_back(straight, tmp_path / "once", 4)
    read: list[str] = []
    load = storage.load_tensors

    def counted(path: Path) -> Any:  # noqa: ANN401
        read.append(path.name)
        return load(path)

    monkeypatch.setattr(storage, "load_tensors", counted)
    train(images, folder.path)
    assert read == ["step-000004.ckpt"]


def test_a_start_before_the_first_checkpoint_begins_anew(
    images: Path, straight: RunFolder, tmp_path: Path
) -> None:
    folder = cut_back(straight, tmp_path / "anew", 0)
    train(images, folder.path)
    assert _rows(folder) == _rows(straight)


def test_finished_run_reports_and_extends(
    images: Path, straight: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cut_back(straight, tmp_path / "longer", 6)
    folder.summary.unlink()  # killed between the checkpoint and the summary
    train(images, folder.path)
    assert "finished before: step 6 of 6" in capsys.readouterr().out
    again = read_json(folder.summary)
    assert again["val"] == read_json(straight.summary)["val"]
    train(images, folder.path, "trainer.max_steps=8")
    said = capsys.readouterr().out
    assert "resumed from step 6" in said
    assert "resumed with trainer.max_steps 6 → 8" in said
    assert read_json(folder.summary)["generator_steps"] == 8


def test_changed_options_are_said_and_used(
    images: Path, straight: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cut_back(straight, tmp_path / "slower", 4)
    extra = ("optimizer.lr=1e-12", "optimizer.betas=[0.5,0.9]")
    train(images, folder.path, *extra)
    said = capsys.readouterr().out.replace("\n", " ")
    assert "resumed with" in said
    assert "optimizer.lr 0.002 → 1e-12" in said
    before, after = weights(folder, 4), weights(folder, 6)
    for name in (name for name in before if name.startswith("raw.")):
        torch.testing.assert_close(after[name], before[name], atol=1e-9, rtol=0)
    state = read_checkpoint(folder.checkpoints / "step-000006.ckpt")["train_state"]
    group = state["optimizer_states"][0]["param_groups"][0]
    assert tuple(group["betas"]) == (0.5, 0.9)


def _made(lr: float, *, max_steps: int) -> tuple[torch.optim.Adam, Any]:
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=lr, weight_decay=lr)
    return optimizer, cosine(optimizer, max_steps=max_steps, warmup_share=0.0, final_share=0.0)


@pytest.mark.parametrize(
    ("lr", "max_steps", "expected"),
    [(1.0, 10, 0.5), (0.1, 10, 0.05), (1.0, 20, 0.853553390593), (1.0, 5, 0.0)],
    ids=["same", "lower", "longer", "shorter"],  # (1 + cos(pi · 5 / max_steps)) / 2, by hand
)
def test_reconfigured_rate_is_the_new_schedules(lr: float, max_steps: int, expected: float) -> None:
    optimizer, scheduler = _made(1.0, max_steps=10)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    before = optimizer.param_groups[0]["lr"]
    new, schedule = _made(lr, max_steps=max_steps)
    scheduler.lr_lambdas = schedule.lr_lambdas  # a resumed process has the new one already
    reconfigure(optimizer, scheduler, as_optimizer=new, as_scheduler=schedule)
    (group,) = optimizer.param_groups
    assert group["lr"] == pytest.approx(expected, abs=1e-12)
    assert (group["lr"] == before) == (lr == 1.0 and max_steps == 10)
    assert (group["weight_decay"], group["initial_lr"]) == (lr, lr)
    assert scheduler.get_last_lr() == [group["lr"]]


def test_other_schedules_are_scaled() -> None:
    def made(lr: float) -> tuple[torch.optim.Optimizer, StepLR]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
        return optimizer, StepLR(optimizer, 1, gamma=0.5)

    optimizer, scheduler = made(0.4)
    optimizer.step()
    scheduler.step()
    new, schedule = made(0.1)
    reconfigure(optimizer, scheduler, as_optimizer=new, as_scheduler=schedule)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_changes() -> None:
    before = {"optimizer": {"lr": 2e-3, "betas": [0.9, 0.99]}, "run_dir": "a", "old": None}
    now = {"optimizer": {"lr": 1e-3, "betas": [0.9, 0.99]}, "run_dir": "b", "new": [1]}
    assert changes(before, now) == ["optimizer.lr 0.002 → 0.001", "new null → [1]"]
    assert changes(now, now) == []


def test_other_training_images_are_refused(
    images: Path, straight: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cut_back(straight, tmp_path / "other", 4)
    config = folder.config.read_text()
    moved = shutil.copytree(images / "train", tmp_path / "moved")
    other = draw_images(tmp_path / "photos", count=3, size=40, first=30)
    train(images, folder.path, f"data.train={other}", code=2)
    message = capsys.readouterr().err
    assert "step 4 was made with other training images · data.train · " in message
    assert folder.config.read_text() == config
    assert _rows(folder) == _rows(straight)
    train(images, folder.path, f"data.train={moved}", "trainer.max_steps=5")
    train(images, folder.path, f"data.train={other}", "force=true")


def test_images_that_were_hashed_otherwise_are_not_compared(
    images: Path,
    straight: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A checkpoint from before goes on as it was, says so, and measures the baseline again."""
    folder = cut_back(straight, tmp_path / "hashes", 4)
    monkeypatch.setattr(SRData, "digest_format", SRData.digest_format + 1)
    train(images, folder.path)
    assert "step 4 knows its images by an older hash" in capsys.readouterr().out
    assert losses(folder) == losses(straight)
    assert read_json(folder.summary)["bicubic"] == read_json(straight.summary)["bicubic"]
    assert read_checkpoint(folder.checkpoints / "step-000006.ckpt")["data"]["format"] == (
        SRData.digest_format
    )
    train(images, folder.path)
    assert "older hash" not in capsys.readouterr().out


@pytest.mark.parametrize("data", [{}, {"data": {"train": "t", "val": {"a": "v"}}}])
def test_a_checkpoint_without_the_kind_of_hash_is_not_compared(data: dict[str, Any]) -> None:
    own = dict.fromkeys(FIXED) | {"protocol": 1}
    now: Any = SimpleNamespace(train_digest="t", val_digests={"a": "v"}, digest_format=2)
    said: list[str] = []
    refuse_another({**own, **data, "step": 3}, own, now, force=False, say=said.append)
    assert len(said) == 1
    assert same_sets({**own, **data}, own, now) == set()
    assert same_sets({**own, "data": digests(now)}, own, now) == {"a"}


def test_changed_validation_images_are_measured_anew(
    images: Path, straight: RunFolder, tmp_path: Path
) -> None:
    folder = cut_back(straight, tmp_path / "val", 6)
    other = draw_images(tmp_path / "photos", count=2, size=40, first=40)
    train(images, folder.path, f"data.val={{tiny: {other}}}")
    old, new = read_json(straight.summary), read_json(folder.summary)
    for line in ("val", "bicubic"):
        assert new[line]["tiny"]["psnr_y"] != pytest.approx(old[line]["tiny"]["psnr_y"], abs=1e-3)
    assert new["best"]["value"] == pytest.approx(new["val"]["tiny"]["psnr_y"])
    rows = [value for step, name, value in folder.read_metrics() if name == "bicubic/tiny/psnr_y"]
    assert rows[1:] == [new["bicubic"]["tiny"]["psnr_y"]]


def test_a_last_step_that_was_saved_but_not_measured_is_measured(
    images: Path, straight: RunFolder, tmp_path: Path
) -> None:
    """Lowering max_steps to a checkpoint in between is such a run; so is one killed there."""
    folder = cut_back(straight, tmp_path / "unmeasured", 4)
    content = read_checkpoint(folder.checkpoints / "step-000004.ckpt")
    assert content["reached"]["val_step"] == 0
    folder.summary.unlink()
    for _ in range(2):
        train(images, folder.path, "trainer.max_steps=4")
        summary = read_json(folder.summary)
        assert (summary["generator_steps"], summary["val_step"]) == (4, 4)
        assert summary["best"]["step"] == 4
    again = read_checkpoint(folder.checkpoints / "step-000004.ckpt")
    assert again["reached"]["val"] == summary["val"]
    for name, value in content["state_dict"].items():
        assert torch.equal(value, again["state_dict"][name])
    train(images, folder.path)
    assert losses(folder) == losses(straight)


def test_a_crash_after_resuming_keeps_what_was_reached(
    images: Path, straight: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srtrain.training.supervised import SupervisedSR

    folder = cut_back(straight, tmp_path / "crash", 6)
    before = read_json(folder.summary)
    with monkeypatch.context() as patch:
        patch.setattr(SupervisedSR, "step_generator", lambda *_: 1 / 0)
        train(images, folder.path, "trainer.max_steps=8", code=1)
    after = read_json(folder.summary)
    same = ("generator_steps", "checkpoint", "best", "val", "val_step", "bicubic", "loss")
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    assert after["seconds"] > before["seconds"] - 5


def _rows(folder: RunFolder) -> list[tuple[int, str, float]]:
    return folder.read_metrics()


def test_trainer_of_a_resumed_run_learns_its_options_from_the_module() -> None:
    from srtrain.training.reconfigure import Reconfigure

    optimizer, scheduler = _made(1.0, max_steps=10)
    new, schedule = _made(0.25, max_steps=10)
    trainer: Any = SimpleNamespace(
        optimizers=[optimizer],
        lr_scheduler_configs=[SimpleNamespace(scheduler=scheduler)],
        global_step=5,
    )
    said: list[str] = []
    module: Any = SimpleNamespace(
        configure_optimizers=lambda: ({"optimizer": new, "lr_scheduler": schedule},)
    )
    for _ in range(2):
        Reconfigure(said.append).on_train_start(trainer, module)
        assert optimizer.param_groups[0]["lr"] == 0.25
    assert said == ["learning rate at step 5: 1 → 0.25"]
