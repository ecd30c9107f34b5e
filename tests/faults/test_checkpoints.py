"""A save that is killed anywhere: before it and after it there is a valid checkpoint."""

from __future__ import annotations

import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from srtrain.files import read_json
from srtrain.networks.storage import read_newest, resolve, step_of
from srtrain.training.run_folder import RunFolder
from tests.faults.saving import Point, Points, Saver, in_a_fork
from tests.training import draw_sets, train, weights

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def straight(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(images, tmp_path_factory.mktemp("runs") / "straight")


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A run's folder on another file system than ``$TMPDIR``."""
    if not MEMORY.is_dir() or MEMORY.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev:
        pytest.skip("/dev/shm is no other file system than the temporary folder's")
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder) / "run"


def _with_best_and_newest(path: Path) -> Saver:
    saver = Saver(path)
    saver.save(1, psnr=30.0)
    saver.save(2)
    return saver


def _points_of_a_save(path: Path) -> list[Point]:
    saver = _with_best_and_newest(path)
    with pytest.MonkeyPatch.context() as patch:
        points = Points(path, patch)
        saver.save(3, psnr=31.0)
    assert saver.names() == ["last", "step-000003.ckpt"]
    return points.seen


def test_the_order_of_a_save_survives_a_power_cut(tmp_path: Path) -> None:
    """What a name says is on the disk before the name is, and before what it replaces goes."""
    seen = _points_of_a_save(tmp_path / "run")
    named = [Point(p.call, ".new" if p.name.endswith(".tmp") else p.name) for p in seen]
    steps = [point for i, point in enumerate(named) if point != named[i - 1]]
    written = [Point("open", ".new"), Point("write", ".new"), Point("fsync", ".new")]
    folder = [Point("open", "checkpoints"), Point("fsync", "checkpoints")]
    assert steps == [
        Point("fsync", "metrics.csv"),
        Point("open", "run"),
        Point("fsync", "run"),
        *written,
        Point("replace", "step-000003.ckpt"),
        *folder,
        *written,
        Point("replace", "last"),
        *folder,
        Point("unlink", "step-000001.ckpt"),
        Point("unlink", "step-000002.ckpt"),
    ]


@pytest.mark.parametrize("half", [False, True], ids=["before", "amid"])
def test_killed_at_every_point_of_a_save(half: bool, tmp_path: Path) -> None:
    _sweep(tmp_path / "run", tmp_path, half=half)


def test_killed_at_every_point_while_temporary_files_lie_on_another_file_system(
    elsewhere: Path, tmp_path: Path
) -> None:
    """Where a "rename" from there would be a copy that can be cut short."""
    _sweep(elsewhere, tmp_path, half=False)


def _sweep(place: Path, tmp_path: Path, *, half: bool) -> None:
    """Best (1) and newest (2) are there, 3 is saved and killed at each call that changes a file."""
    points = _points_of_a_save(tmp_path / "dry")
    if half:
        numbers = [number for number, point in enumerate(points) if point.call == "write"]
    else:
        numbers = list(range(len(points)))
    committed = points.index(Point("replace", "step-000003.ckpt"))
    assert len(numbers) > 20
    _with_best_and_newest(place)
    before = tmp_path / "before"
    shutil.copytree(place, before)
    for number in numbers:
        shutil.rmtree(place)
        shutil.copytree(before, place)
        assert in_a_fork(lambda: _killed(place, number, half=half)) == -signal.SIGKILL  # noqa: B023
        _valid_after(place, points[number], newest=2 + (number > committed))


def _killed(place: Path, number: int, *, half: bool) -> None:
    saver = Saver(place)
    saver.checkpointing.restore(2, [_best(1, 30.0)])
    Points(place, pytest.MonkeyPatch(), at=lambda n, _: n == number, half=half)
    saver.save(3, psnr=31.0)


def _best(step: int, value: float) -> dict[str, object]:
    file = f"step-{step:06d}.ckpt"
    return {"metric": "psnr_y", "step": step, "value": value, "file": file}


def _valid_after(place: Path, point: Point, *, newest: int) -> None:
    """At most one interval old, whole, and what was best until the new one was committed."""
    found = read_newest(place, passed_over=lambda error: pytest.fail(f"{point}: {error}"))
    assert found is not None, point
    path, content = found
    assert (step_of(path), content["step"]) == (newest, newest), point
    assert torch.equal(content["state_dict"]["weight"], torch.full((64,), float(newest))), point
    assert step_of(resolve(path.parent / "last")) in {2, newest}, point
    kept = {step_of(file) for file in path.parent.glob("step-*.ckpt")}
    assert kept >= ({1, 2} if point.call != "unlink" else {3}), point
    again = Saver(place)
    with again.folder.locked():  # as the same command takes it
        assert not [name for name in again.names() if name.endswith(".tmp")], point
        again.checkpointing.restore(newest, [_best(1, 30.0)])
        again.save(3, psnr=31.0)
    assert again.names() == ["last", "step-000003.ckpt"], point
    assert read_json(path.parent / "last")["step"] == 3, point


KILLS: dict[str, tuple[str, str, int]] = {  # call, file, and from which step the run goes on
    "amid the file": ("write", ".step-000004.ckpt", 2),
    "before its name": ("replace", "step-000004.ckpt", 2),
    "before the pointer": ("replace", "last", 4),
    "before pruning": ("unlink", "step-000002.ckpt", 4),
}
FAST = {"amid the file", "before the pointer"}


@pytest.mark.parametrize(
    "kill", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in KILLS]
)
def test_a_run_killed_in_a_save_goes_on_as_if_nothing_had_happened(
    kill: str, images: Path, straight: RunFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Training goes on while the thread writes: the kill comes from the thread."""
    call, name, resumed = KILLS[kill]
    folder = RunFolder(tmp_path / "run")

    def run() -> None:
        points = Points(folder.path, pytest.MonkeyPatch())

        def at(number: int, point: Point) -> bool:
            few = point.call == "write" and points.seen.count(point) < 20
            meant = point.call == call and point.name.startswith(name) and not few
            return meant and _saving_step_4(folder, name)

        points.at = at
        train(images, folder.path, "checkpoint.keep_last=1", "checkpoint.keep_best=1")

    assert in_a_fork(run) == -signal.SIGKILL
    capfd.readouterr()
    train(images, folder.path)
    assert f"resumed from step {resumed} " in capfd.readouterr().out
    expected, found = weights(straight, 6), weights(folder, 6)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert folder.metrics.read_bytes() == straight.metrics.read_bytes()


def _saving_step_4(folder: RunFolder, name: str) -> bool:
    """The pointer is renamed for step 2 too, and step 2 pruned if it is the best no more."""
    there = {step_of(path) for path in folder.checkpoints.glob("step-*.ckpt")}
    return 4 in there if name == "last" else 2 in there
