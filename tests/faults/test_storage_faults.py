"""Disks that are full, read-only or gone: one line, exit 4, and no valid checkpoint is lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from srtrain.cli import build
from srtrain.cli.main import main
from srtrain.errors import StorageError
from srtrain.networks.storage import newest_valid, read_checkpoint, step_of, write_checkpoint
from srtrain.training import checkpointing
from srtrain.training.run_folder import RunFolder
from srtrain.training.supervised import SupervisedSR
from tests.faults.saving import Points, Saver, in_a_fork
from tests.training import cut_back, draw_sets, train, weights, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Finished

MEGABYTE = 250_000  # floats
NOBODY = 65534


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def straight(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(images, tmp_path_factory.mktemp("runs") / "straight")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk, and not in every container")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def _valid(saver: Saver) -> list[int]:
    """The steps of all files in the folder, each read to its end."""
    paths = sorted(saver.folder.checkpoints.glob("*.ckpt"))
    assert not [name for name in saver.names() if name.endswith(".tmp")]
    assert [int(read_checkpoint(path)["step"]) for path in paths] == [step_of(p) for p in paths]
    return [step_of(path) for path in paths]


def test_on_a_full_disk_what_is_superseded_goes_first(small: Path) -> None:
    """Three of 1.2 MB do not fit beside each other; two are to be kept."""
    saver = Saver(small / "run", size=int(1.2 * MEGABYTE), keep_last=2)
    for step in (1, 2, 3, 4):
        saver.save(step)
        assert _valid(saver) == [max(1, step - 1), step][-min(step, 2) :]


@pytest.mark.parametrize(
    ("size", "keep_last", "psnr"),
    [(1.6, 1, None), (1.6, 3, None), (1.2, 2, 30.0)],
    ids=["the newest", "all that are kept", "the best"],
)
def test_on_a_full_disk_nothing_else_goes(
    size: float, keep_last: int, psnr: float | None, small: Path
) -> None:
    saver = Saver(small / "run", size=int(size * MEGABYTE), keep_last=keep_last)
    saver.save(1, psnr=psnr)
    if psnr:
        saver.save(2)
    before = {path: path.read_bytes() for path in saver.folder.checkpoints.iterdir()}
    for step in (3, 4):
        with pytest.raises(StorageError, match="No space left on device") as caught:
            saver.save(step)
        assert f"step-{step:06d}.ckpt" in caught.value.where
    assert {path: path.read_bytes() for path in saver.folder.checkpoints.iterdir()} == before
    assert _valid(saver) == ([1, 2] if psnr else [1])


def test_the_newest_is_kept_for_being_valid_not_for_its_name(small: Path) -> None:
    saver = Saver(small / "run", size=int(1.2 * MEGABYTE), keep_last=2)
    saver.save(1)
    saver.save(2)
    torn = saver.folder.checkpoints / "step-000002.ckpt"
    torn.write_bytes(torn.read_bytes()[:-100])
    with pytest.raises(StorageError, match="No space left"):
        saver.save(3)
    found = newest_valid(small / "run")
    assert found is not None
    assert found.name == "step-000001.ckpt"


def _full_at(step: int, run_dir: Path, patch: pytest.MonkeyPatch) -> None:
    """The disk is full for one checkpoint: its first write is cut short."""

    def refuse() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = f".step-{step:06d}.ckpt."
    points = Points(run_dir, patch, strike=refuse, half=True)
    points.at = lambda number, point: point.call == "write" and point.name.startswith(file)


def _only_line(captured: pytest.CaptureFixture[str]) -> str:
    """What was told on stderr, beside how far the run was."""
    lines = captured.readouterr().err.splitlines()
    (told,) = [line for line in lines if not line.startswith("step ")]
    return told


def _equal(folder: RunFolder, straight: RunFolder) -> None:
    expected, found = weights(straight, 6), weights(folder, 6)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert folder.metrics.read_bytes() == straight.metrics.read_bytes()


@pytest.mark.parametrize("step", [4, 6])
def test_a_full_disk_ends_a_run_that_then_goes_on(
    step: int, images: Path, straight: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "full"
    with pytest.MonkeyPatch.context() as patch:
        _full_at(step, run_dir, patch)
        folder = train(images, run_dir, code=4)
    line = _only_line(capsys)
    assert line.startswith("srtrain: error: cannot save the checkpoint: No space left on device · ")
    assert f"{folder.checkpoints}/step-00000{step}.ckpt" in line
    found = newest_valid(run_dir)
    assert found is not None
    assert step_of(found) == step - 2
    train(images, run_dir)
    _equal(folder, straight)


def test_warn_trains_on_but_the_last_one_must_be_saved(
    images: Path, straight: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _full_at(4, tmp_path, patch)
        folder = train(images, tmp_path / "warned", "checkpoint.on_save_error=warn")
    line = _only_line(capsys)
    assert line.startswith(
        "srtrain: warning: cannot save the checkpoint: No space left on device · "
    )
    assert sorted(path.name for path in folder.checkpoints.glob("*.ckpt")) == [
        "step-000002.ckpt",
        "step-000006.ckpt",
    ]
    _equal(folder, straight)
    with pytest.MonkeyPatch.context() as patch:
        _full_at(6, tmp_path, patch)
        train(images, tmp_path / "last", "checkpoint.on_save_error=warn", code=4)


def test_a_3_mb_disk_fills_up_under_a_run(
    small: Path,
    images: Path,
    straight: RunFolder,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody else fills it after the first checkpoint; then the run goes on to the same end."""
    ballast, step = small / "ballast", SupervisedSR.step_generator

    def filled(module: SupervisedSR, *given: Any) -> Any:  # noqa: ANN401
        if module.global_step == 3:
            with pytest.raises(OSError, match="No space left"):
                ballast.write_bytes(bytes(4 << 20))
        return step(module, *given)

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedSR, "step_generator", filled)
        folder = train(images, small / "run", code=4)
    line = _only_line(capsys)
    assert line.startswith("srtrain: error: cannot ")
    assert "No space left on device" in line
    assert str(folder.path) in line
    found = newest_valid(folder.path)
    assert found is not None
    assert step_of(found) == 2
    ballast.unlink()
    train(images, folder.path)
    _equal(folder, straight)


@pytest.mark.slow
def test_a_full_disk_ends_all_ranks(
    small: Path, images: Path, run_srtrain: Callable[..., Finished]
) -> None:
    """Rank 0 alone writes: the others leave with its code."""
    large = ["generator=edsr_lite", "generator.num_features=48", "checkpoint.every_n_steps=1"]
    asked = words(images, small / "run", *large, "trainer=ddp", "trainer.devices=2")
    done = run_srtrain(*asked)
    assert done.rc == 4, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("srtrain: ")]
    assert len(told) == 1, done.stderr
    assert "cannot save the checkpoint: No space left on device" in told[0]
    assert newest_valid(small / "run") is not None


READ_ONLY: dict[str, Callable[[Path], Path]] = {  # makes the place; what must not be writable
    "parent": lambda place: place,
    "run": lambda place: place / "run",
    "checkpoints": lambda place: place / "run" / "checkpoints",
}


@pytest.mark.parametrize("name", READ_ONLY)
def test_a_read_only_folder_is_refused_before_any_work(
    name: str, straight: RunFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    """As a user who is not root: to root no folder is read-only."""
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is root's alone
        place, images = Path(folder) / "place", draw_sets(Path(folder) / "images")
        place.mkdir()
        locked = READ_ONLY[name](place)
        if name != "parent":
            locked.mkdir(parents=True)
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o555 if path == locked else 0o777)
        asked = words(images, place / "run")

        def as_nobody() -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(build, "make_generator", lambda _: os._exit(71))
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                os._exit(main(asked))

        assert in_a_fork(as_nobody) == 4
        line = _only_line(capfd)
        assert line.startswith("srtrain: error: cannot write to the run folder: Permission denied")
        assert str(place / "run") in line
        assert not [path for path in place.rglob("*") if path.is_file()]


@pytest.mark.parametrize("amid_a_save", [False, True])
def test_a_folder_that_is_renamed_under_the_run(
    images: Path,
    straight: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    amid_a_save: bool,
) -> None:
    run_dir, moved, step = tmp_path / "run", tmp_path / "moved", SupervisedSR.step_generator
    last = run_dir / "checkpoints" / "last"

    def written(path: Path, content: dict[str, Any]) -> None:
        if amid_a_save and content["step"] == 4:
            run_dir.rename(moved)
        write_checkpoint(path, content)

    def taken_away(module: SupervisedSR, *given: Any) -> Any:  # noqa: ANN401
        while module.global_step == 3 and not last.exists():
            time.sleep(0.01)  # the thread that saves is slow
        if module.global_step == 3 and not amid_a_save:
            run_dir.rename(moved)
        return step(module, *given)

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedSR, "step_generator", taken_away)
        patch.setattr(checkpointing, "write_checkpoint", written)
        # No line of figures tells it first.
        train(images, run_dir, "trainer.log_every_n_steps=6", code=4)
    line = _only_line(capsys)
    assert "the run folder was removed or renamed" in line
    assert str(run_dir) in line
    assert not run_dir.exists()
    found = newest_valid(moved)
    assert found is not None
    assert step_of(found) == 2
    shutil.move(moved, run_dir)
    train(images, run_dir)
    for name, value in weights(straight, 6).items():
        assert torch.equal(weights(RunFolder(run_dir), 6)[name], value)


def test_clocks_decide_nothing(
    images: Path, straight: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times of files in reverse order, and a clock that jumps a day back and forth."""
    folder = cut_back(straight, tmp_path / "cut", 4)
    now, day = time.time(), 86_400
    for step, when in ((2, now + day), (4, now - day)):
        os.utime(folder.checkpoints / f"step-00000{step}.ckpt", (when, when))
    jumps = iter(range(1_000_000))
    monkeypatch.setattr(time, "time", lambda: now + (-1) ** next(jumps) * day)
    found = newest_valid(folder.path)
    assert found is not None
    assert step_of(found) == 4
    train(images, folder.path)
    _equal(folder, straight)
