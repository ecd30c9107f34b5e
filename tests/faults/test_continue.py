"""The same command once more: from which step, with what changed, or why not."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from srtrain.cli.resume import checkpoint_to_resume
from srtrain.errors import StorageError
from srtrain.files import read_json, sha256_of, write_json
from srtrain.networks.storage import read_checkpoint, read_newest
from srtrain.training.ema import EMA
from srtrain.training.run_folder import RunFolder
from srtrain.training.supervised import SupervisedSR
from tests.training import cut_back, draw_sets, train, weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.pytorch import LightningModule

OFTEN = "trainer.val_every_n_steps=2"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def straight(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(images, tmp_path_factory.mktemp("runs") / "straight", OFTEN)


def _equal(folder: RunFolder, straight: RunFolder) -> None:
    expected, found = weights(straight, 6), weights(folder, 6)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert folder.metrics.read_bytes() == straight.metrics.read_bytes()


def _flipped(path: Path) -> None:
    """One bit, in the midst of the weights."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _unreadable(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped bit": (_flipped, "damaged file: its content has changed since it was written"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-100]), "truncated or damaged file"),
    "empty": (lambda p: p.write_bytes(b""), "empty file"),
    "LFS": (lambda p: p.write_text("version https://git-lfs"), "a git-LFS pointer, not the file"),
    "HTML": (lambda p: p.write_text("<!doctype html>"), "an HTML page, not weights"),
    "foreign": (lambda p: torch.save({"params": {}}, p), "not a srtrain checkpoint"),
    "folder": (_unreadable, "no such file"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_checkpoint_is_passed_over_with_a_line(
    damage: str, straight: RunFolder, tmp_path: Path
) -> None:
    make, reason = DAMAGED[damage]
    folder = cut_back(straight, tmp_path / "cut", 4)
    make(folder.checkpoints / "step-000004.ckpt")
    said: list[str] = []
    found = checkpoint_to_resume(folder, say=said.append)
    assert found is not None
    assert found[1]["step"] == 2
    (line,) = said
    assert line.startswith(f"passed over step-000004.ckpt: {reason}")


def test_a_flipped_bit_is_found_and_the_run_goes_on(
    images: Path, straight: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A future that was lost does not count among the newest that are kept."""
    folder = cut_back(straight, tmp_path / "cut", 4)
    _flipped(folder.checkpoints / "step-000004.ckpt")
    train(images, folder.path, OFTEN, "checkpoint.keep_last=1", "trainer.max_steps=3")
    said = capsys.readouterr().out
    assert "passed over step-000004.ckpt: damaged file" in said
    assert "resumed from step 2 (step-000002.ckpt)" in said
    found = read_newest(folder.path)
    assert found is not None
    assert found[1]["step"] == 3


def test_no_bit_of_a_checkpoint_can_flip_unseen(straight: RunFolder, tmp_path: Path) -> None:
    """By the pointer's SHA-256 and, without a pointer, by the entries' CRC-32."""
    path = tmp_path / "step-000006.ckpt"
    shutil.copy(straight.checkpoints / "step-000006.ckpt", path)
    whole, content = path.read_bytes(), _bytes(read_checkpoint(path))
    write_json(tmp_path / "last", {"file": path.name, "step": 6, "sha256": sha256_of(path)})
    unseen = 0
    with zipfile.ZipFile(path) as archive:
        listed = archive.start_dir
    attributes = [found.start() + 38 for found in re.finditer(b"PK\x01\x02", whole[listed:])]
    assert len(attributes) > 40
    # Marked as a folder, an entry is read as zeros.
    places = [*range(17, len(whole), len(whole) // 150), *(listed + at for at in attributes[::8])]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            read = read_checkpoint(path)
        except StorageError:
            continue
        unseen += 1  # a byte of the zip itself: padding, times, attributes
        assert _bytes(read) == content
    assert unseen < 30


def _bytes(content: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def test_without_any_valid_checkpoint_nothing_is_begun(
    images: Path, straight: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beginning anew would lose what somebody may still bring back."""
    folder = cut_back(straight, tmp_path / "cut", 2)
    _flipped(folder.checkpoints / "step-000002.ckpt")
    train(images, folder.path, OFTEN, code=4)
    said = capsys.readouterr()
    assert "passed over step-000002.ckpt" in said.out
    assert f"none of the checkpoints can be read · {folder.checkpoints} · " in said.err


def test_weights_alone_cannot_be_resumed(straight: RunFolder, tmp_path: Path) -> None:
    folder = cut_back(straight, tmp_path / "cut", 2)
    path = folder.checkpoints / "step-000002.ckpt"
    content = read_checkpoint(path)
    torch.save({key: content[key] for key in content if key != "train_state"}, path)
    with pytest.raises(StorageError, match=r"weights only, no training state .* init_from=FILE"):
        checkpoint_to_resume(folder, say=print)


def test_a_finished_run_is_told_and_an_extended_one_says_what_its_rate_does(
    images: Path, straight: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cut_back(straight, tmp_path / "longer", 6)
    before = folder.metrics.read_bytes(), folder.config.read_bytes()
    train(images, folder.path, OFTEN)
    said = capsys.readouterr().out
    assert "finished before: step 6 of 6" in said
    assert "PSNR-Y" in said
    assert (folder.metrics.read_bytes(), folder.config.read_bytes()) == before
    train(images, folder.path, OFTEN, "trainer.max_steps=8")
    said = capsys.readouterr().out
    assert "resumed from step 6 (step-000006.ckpt)" in said
    assert "resumed with trainer.max_steps 6 → 8" in said
    assert "scheduler cosine: 8 steps, as if from the first on" in said
    # (1 + cos(pi · 6 / 8)) / 2 and its floor of 1 %, by hand
    assert "learning rate at step 6: 2e-05 → 0.00031" in said
    assert read_json(folder.summary)["generator_steps"] == 8


@pytest.mark.parametrize("left", ["checkpoint", "config.yaml", "metrics.csv"])
def test_resume_never_refuses_a_used_folder(
    left: str,
    images: Path,
    straight: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = RunFolder(tmp_path / "used")
    if left == "checkpoint":
        folder = cut_back(straight, folder.path, 4)
        left = "step-000004.ckpt"
    else:
        folder.create()
        shutil.copy(straight.path / left, folder.path)
    train(images, folder.path, "resume=never", code=2)
    assert f"the run folder already holds {left} · {folder.path} · " in capsys.readouterr().err


OTHER: dict[str, tuple[list[str], str]] = {
    "scale": (["scale=4"], r"step 4 was made with scale 2, now it is 4 · scale · "),
    "generator": (["generator.num_blocks=2"], r"step 4 was made with generator "),
    "features": (
        ["loss.weights.perceptual=0.001"],
        r"step 4 was made with features \{\}, now it is .* · features · ",
    ),
    "deeper, by force": (
        ["generator.num_blocks=2", "force=true"],
        r"\d+ tensors of step 4 do not fit: .* · generator · .*init_from.partial=true",
    ),
    "scale, by force": (["scale=4", "force=true"], r"\d+ tensors of step 4 do not fit: "),
}


@pytest.mark.parametrize("other", OTHER)
def test_another_run_is_refused(
    other: str,
    images: Path,
    straight: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = cut_back(straight, tmp_path / "other", 4)
    files = [path for path in folder.path.rglob("*") if path.is_file() and path.name != ".lock"]
    before = {path: path.stat().st_mtime_ns for path in files}
    words, message = OTHER[other]
    train(images, folder.path, OFTEN, *words, code=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before


def test_what_fits_goes_on(
    images: Path, straight: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other features by force, and another optimizer, whose moments would mean something else."""
    folder = cut_back(straight, tmp_path / "cut", 4)
    words = ["loss.weights.perceptual=0.001", "force=true", "optimizer=sgd", "optimizer.lr=1e-3"]
    train(images, folder.path, OFTEN, *words)
    said = capsys.readouterr().out
    assert "optimizer.lr 0.002 → 0.001" in said
    assert "optimizer: another one, its moments start afresh" in said
    assert "learning rate at step 4: " in said
    assert read_json(folder.summary)["generator_steps"] == 6


def _signalled(patch: pytest.MonkeyPatch, name: str, step: int) -> None:
    original = getattr(SupervisedSR, name)

    def heard(module: SupervisedSR, *given: Any) -> Any:  # noqa: ANN401
        if module.global_step == step and module.trainer.state.fn == "fit":
            os.kill(os.getpid(), signal.SIGTERM)
        return original(module, *given)

    patch.setattr(SupervisedSR, name, heard)


@pytest.mark.parametrize(
    ("place", "at"),
    [
        ("training_step", 3),  # validation is due after it, and not yet done
        ("validation_step", 4),
        pytest.param("on_validation_epoch_end", 4, marks=pytest.mark.slow),
        pytest.param("training_step", 5, marks=pytest.mark.slow),  # the last one
        pytest.param("validation_step", 6, marks=pytest.mark.slow),
    ],
)
def test_a_signal_around_a_validation_changes_nothing(
    place: str,
    at: int,
    images: Path,
    straight: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved = at + 1 if place != "validation_step" else at
    with pytest.MonkeyPatch.context() as patch:
        _signalled(patch, place, at)
        folder = train(images, tmp_path / "stopped", OFTEN, code=75)
    assert f"stopped by SIGTERM, saved step {saved} " in capsys.readouterr().err
    content = read_newest(folder.path)
    assert content is not None
    assert content[1]["step"] == saved
    for name, value in weights(straight, saved).items() if saved % 2 == 0 else ():
        assert torch.equal(weights(folder, saved)[name], value), name  # raw ones and average
    train(images, folder.path, OFTEN)
    _equal(folder, straight)
    for key in ("val", "best", "bicubic"):
        assert read_json(folder.summary)[key] == read_json(straight.summary)[key]


@pytest.mark.slow
def test_a_due_validation_that_is_killed_is_begun_again(
    images: Path, straight: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows may be there already: they are written once."""
    with pytest.MonkeyPatch.context() as patch:
        _signalled(patch, "training_step", 3)
        folder = train(images, tmp_path / "stopped", OFTEN, code=75)
    with monkeypatch.context() as patch:
        patch.setattr(EMA, "on_validation_end", _broken)
        train(images, folder.path, OFTEN, code=1)
    assert [s for s, name, _ in folder.read_metrics() if name == "val/tiny/psnr_y"] == [0, 2, 4]
    train(images, folder.path, OFTEN)
    _equal(folder, straight)


def _broken(callback: EMA, trainer: object, module: LightningModule) -> None:
    raise ZeroDivisionError
