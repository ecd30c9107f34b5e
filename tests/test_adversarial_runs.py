"""Adversarial runs from outside: counted steps, equal halves, equal ranks, bit-equal resumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from srtrain.files import read_json
from srtrain.networks.storage import read_checkpoint
from srtrain.training.run_folder import RunFolder
from tests.training import cut_back, draw_sets, losses, train, weights, words

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Finished

# Spectral norm and both clippings on; rates at which six steps move both networks visibly.
ADVERSARY = (
    "experiment=mse_plus_perceptual",
    "discriminator=patchgan",
    "discriminator.n_layers=1",
    "discriminator.base_channels=8",
    "discriminator.norm=spectral",
    "discriminator_optimizer.lr=1e-3",
    "loss.weights.adversarial=0.01",
    "model.clip_norm=0.5",
    "model.discriminator_clip_norm=0.5",
    "data.hr_patch_size=32",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def straight(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(images, tmp_path_factory.mktemp("runs") / "straight", *ADVERSARY)


def _state(folder: RunFolder, step: int) -> dict[str, Any]:
    state: dict[str, Any] = read_checkpoint(folder.checkpoints / f"step-{step:06d}.ckpt")
    return state["train_state"]


def _moments(folder: RunFolder, step: int) -> dict[str, torch.Tensor]:
    """Everything that both Adams hold, flat."""
    return {
        f"{number}.{index}.{name}": value
        for number, optimizer in enumerate(_state(folder, step)["optimizer_states"])
        for index, moments in optimizer["state"].items()
        for name, value in moments.items()
    }


def _rows(folder: RunFolder) -> list[tuple[int, str, float]]:
    return folder.read_metrics()


def test_blind_lr_has_no_consistency(straight: RunFolder, images: Path, tmp_path: Path) -> None:
    """What shrinking SR by bicubic gives there bears another name, logged and in the table."""
    steps = ("trainer.max_steps=2", "trainer.val_every_n_steps=2", "checkpoint.every_n_steps=2")
    blind = train(images, tmp_path, *ADVERSARY, "degradation=blind_light", *steps)
    for folder, name in ((straight, "lr_psnr"), (blind, "lr_psnr_bicubic")):
        told = {row[1].rpartition("/")[2] for row in folder.read_metrics()}
        (figures,) = read_json(folder.summary)["val"].values()
        for names in (told, set(figures)):
            assert {found for found in names if found.startswith("lr_psnr")} == {name}


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(["experiment=srgan"], marks=pytest.mark.slow),
        ["experiment=mse_plus_perceptual", "discriminator=patchgan", "discriminator.n_layers=1"],
    ],
    ids=lambda chosen: chosen[0],
)
def test_ten_steps_are_ten_of_each(chosen: list[str], images: Path, tmp_path: Path) -> None:
    extra = ("trainer.max_steps=10", "data.hr_patch_size=40", "checkpoint.every_n_steps=10")
    folder = train(images, tmp_path, *chosen, *extra)
    summary = read_json(folder.summary)
    assert (summary["generator_steps"], summary["discriminator_steps"]) == (10, 10)
    state = _state(folder, 10)
    assert [schedule["last_epoch"] for schedule in state["lr_schedulers"]] == [10, 10]
    assert state["callbacks"]["EMA"]["num_updates"] == 10
    batches = state["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]
    assert (batches["ready"], batches["completed"]) == (10, 10)
    updates = {name[0]: int(v) for name, v in _moments(folder, 10).items() if name[-5:] == ".step"}
    assert updates == {"0": 10, "1": 10}
    steps = [step for step, name, _ in folder.read_metrics() if name == "train/d_loss"]
    assert steps == list(range(1, 11))


def test_what_a_run_says_of_its_adversary(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(images, tmp_path, *ADVERSARY, "trainer.max_steps=2")
    said = capsys.readouterr().out
    assert "patchgan_lite 16×16, norm spectral, " in said
    assert " parameters, vanilla, learns from step 0" in said
    assert "1 pixel + 0.0099 perceptual + 0.01 adversarial" in said
    last = {name: value for _, name, value in folder.read_metrics()}
    terms = ("pixel", "perceptual", "adversarial")
    for kind in ("share", "gradient_share"):
        assert sum(last[f"train/{kind}/{name}"] for name in terms) == pytest.approx(1)
    assert 0 < last["train/gradient_share/adversarial"] < 1
    content = read_checkpoint(folder.checkpoints / "step-000002.ckpt")
    assert content["discriminator"]["kwargs"]["n_layers"] == 1
    assert content["objective"]["_target_"] == "srtrain.losses.adversarial.Vanilla"
    assert all(name.startswith(("head.", "body", "tail")) for name in content["state_dict"])
    raw = content["train_state"]["state_dict"]
    kinds = {name.partition(".")[0] for name in raw}
    assert kinds == {"generator", "discriminator", "accuracy"}  # no term of the loss


def test_halves_of_a_batch_change_nothing(
    images: Path, straight: RunFolder, tmp_path: Path
) -> None:
    folder = train(images, tmp_path, *ADVERSARY, "trainer.accumulate=2")
    assert read_json(folder.summary)["discriminator_steps"] == 6
    _close(folder, straight)


@pytest.mark.slow
def test_two_ranks_are_one(
    images: Path, straight: RunFolder, tmp_path: Path, run_srtrain: Callable[..., Finished]
) -> None:
    done = run_srtrain(*words(images, tmp_path, *ADVERSARY, "trainer=ddp", "trainer.devices=2"))
    assert done.rc == 0, done.stderr
    folder = RunFolder(tmp_path)
    _close(folder, straight)
    one, two = ({(s, n): v for s, n, v in _rows(run)} for run in (straight, folder))
    assert one.keys() == two.keys()
    for key in one:
        assert two[key] == pytest.approx(one[key], rel=1e-3, abs=1e-5), key


def _close(folder: RunFolder, expected: RunFolder) -> None:
    started = weights(expected, 2)
    for name, value in weights(expected, 6).items():
        torch.testing.assert_close(weights(folder, 6)[name], value, atol=1e-6, rtol=0, msg=name)
    moved = [name for name, v in weights(expected, 6).items() if not torch.equal(v, started[name])]
    assert any("discriminator" in name and name.endswith(".u") for name in moved)
    assert any("discriminator" in name and name.endswith(".weight") for name in moved)


@pytest.mark.parametrize(("workers", "step"), [(0, 4), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_resume_is_the_uninterrupted_run(
    workers: int, step: int, images: Path, straight: RunFolder, tmp_path: Path
) -> None:
    folder = cut_back(straight, tmp_path / "cut", step)
    train(images, folder.path, *ADVERSARY, f"data.num_workers={workers}")
    for read in (weights, _moments):
        expected, resumed = read(straight, 6), read(folder, 6)
        assert expected.keys() == resumed.keys()
        assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert _rows(folder) == _rows(straight)
    assert read_json(folder.summary)["discriminator_steps"] == 6


def test_a_finished_run_knows_its_discriminators_steps(
    images: Path, straight: RunFolder, tmp_path: Path
) -> None:
    folder = cut_back(straight, tmp_path / "again", 6)
    folder.summary.unlink()
    train(images, folder.path, *ADVERSARY)
    assert read_json(folder.summary)["discriminator_steps"] == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "said"),
    [
        (["discriminator.base_channels=4"], "was made with discriminator {"),
        (["objective=hinge"], "was made with objective {"),
        (["discriminator=none"], "was made with discriminator {"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_another_adversary_is_another_run_unless_forced(
    other: list[str],
    said: str,
    images: Path,
    straight: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = cut_back(straight, tmp_path / "other", 4)
    kept = [word for word in ADVERSARY if "iscriminator" not in word and "adversarial" not in word]
    asked = (*(kept if other == ["discriminator=none"] else ADVERSARY), *other)
    train(images, folder.path, *asked, code=2)
    assert said in capsys.readouterr().err
    train(images, folder.path, *asked, "force=true")
    moved, before = weights(folder, 6), weights(straight, 4)
    taken = [name for name in before if name.startswith("raw.generator.")]
    assert taken
    for name in taken:  # two steps from where it was, not from a fresh start
        torch.testing.assert_close(moved[name], before[name], atol=0.02, rtol=0)
    schedules = _state(folder, 6)["lr_schedulers"]
    assert {schedule["last_epoch"] for schedule in schedules} == {6}
    judged = {"discriminator=none": 0, "discriminator.base_channels=4": 2, "objective=hinge": 6}
    assert read_json(folder.summary)["discriminator_steps"] == judged[other[0]]


@pytest.mark.slow
def test_a_supervised_run_is_joined_by_an_adversary_when_forced(
    images: Path, tmp_path: Path
) -> None:
    train(images, tmp_path, "data.hr_patch_size=32", "trainer.max_steps=4")
    folder = train(images, tmp_path, *ADVERSARY, "force=true")
    summary = read_json(folder.summary)
    assert (summary["generator_steps"], summary["discriminator_steps"]) == (6, 2)


@pytest.mark.slow
def test_init_from_takes_the_discriminator_too(
    images: Path, straight: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = straight.checkpoints / "step-000006.ckpt"
    frozen = (f"init_from={file}", "trainer.max_steps=1", "model.discriminator_start=9")
    folder = train(images, tmp_path / "same", *ADVERSARY, *frozen)
    assert "the discriminator goes on: " in capsys.readouterr().out
    given, taken = (_state(run, at)["state_dict"] for run, at in ((straight, 6), (folder, 1)))
    judge = [name for name in given if name.startswith("discriminator.net.")]
    assert judge
    assert (given["discriminator.trained"], taken["discriminator.trained"]) == (0, 1)
    heard = [step for step, name, _ in folder.read_metrics() if name == "train/adversarial"]
    assert heard == [1]
    assert all(torch.equal(given[name], taken[name]) for name in judge)
    assert read_json(folder.summary)["discriminator_steps"] == 0
    train(images, tmp_path / "other", *ADVERSARY, *frozen, "discriminator.base_channels=4")
    afresh = "the discriminator starts afresh: the file's is PatchGAN with base_channels="
    said = next(line for line in capsys.readouterr().out.splitlines() if afresh in line)
    assert said.endswith(", not 4")
    unheard = RunFolder(tmp_path / "other").read_metrics()
    assert not [step for step, name, _ in unheard if name == "train/adversarial"]


@pytest.mark.slow
def test_pixels_first_then_the_rest(images: Path, tmp_path: Path) -> None:
    """A term that begins between two lines is averaged over the steps that had it."""
    extra = ("model.warmup_share=0.5", "trainer.log_every_n_steps=2", "data.num_workers=0")
    folder = train(images, tmp_path, *ADVERSARY, *extra)
    rows = folder.read_metrics()
    begun = {name: min(s for s, other, _ in rows if other == name) for _, name, _ in rows}
    assert begun["train/pixel"] == 2
    assert begun["train/d_loss"] == 2
    assert begun["train/adversarial"] == begun["train/share/adversarial"] == 4
    logits = [value for _, name, value in rows if name == "train/adversarial"]
    assert logits == pytest.approx([0.69] * len(logits), abs=0.3)  # a mean over one step, not half
    assert losses(folder)[0][0] == 2
