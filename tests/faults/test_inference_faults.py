"""Faults while images are made larger: bad inputs, full disks, little memory, kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from srtrain.cli.infer import main
from srtrain.cli.main import main as program
from srtrain.errors import ConfigError, StorageError
from srtrain.files import held
from srtrain.images import Picture, read_picture
from srtrain.inference.jobs import Job, alone, plan
from srtrain.inference.run import run
from srtrain.inference.upscaler import Upscaler
from tests.image_files import BAD
from tests.upscaling import smooth, tiny_generator, touch, write_tiny


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler(tiny_generator())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("ckpt"))


def _made(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# Inputs ------------------------------------------------------------------------------------------


def test_every_bad_file_is_named_with_its_reason_and_the_others_are_made(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path, "in/a.png", "in/z.png")
    for name, make, _ in BAD:
        (tmp_path / "in" / name).write_bytes(make())
    os.mkfifo(tmp_path / "in" / "pipe.png")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "dangling.png").symlink_to(tmp_path / "nothing.png")
    assert main([str(checkpoint), str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 3
    said = capsys.readouterr()
    for name, _, _ in BAD:
        assert said.err.count(f"/{name}") == 1, name
    assert "2 images x2" in said.out
    assert _made(tmp_path / "out") == {"a.png", "z.png"}


@pytest.mark.parametrize("given", ["pipe.png", "/dev/zero"])
def test_what_would_be_waited_for_is_no_input(
    tmp_path: Path, checkpoint: Path, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    began = time.monotonic()
    assert main([str(checkpoint), str(tmp_path / given), "-o", str(tmp_path / "out")]) == 3
    assert time.monotonic() - began < 10
    assert "not a regular file" in capsys.readouterr().err


NAMES = [
    "ü ñ 图.png",
    "two\nlines.png",
    " leading and trailing .png",
    "-o.png",
    "[a]*?.png",
    "%s{0}[red]x[bold].png",
    "x" * 251 + ".png",
    "図" * 83 + ".png",  # 253 bytes
    os.fsdecode(b"no utf-8 \xff\xfe.png"),
]


def test_any_name_is_kept(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path / "in", *NAMES)
    (tmp_path / "in" / "bad\nname\udcff.png").touch()
    assert main([str(checkpoint), str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 3
    assert _made(tmp_path / "out") == set(NAMES)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "failed" in line]
    assert r"bad\nname\udcff.png" in line


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (3, 1500), (1500, 3)])
def test_any_size_is_made_exactly_twice_as_large(
    tmp_path: Path, upscaler: Upscaler, height: int, width: int
) -> None:
    larger = Upscaler(upscaler.generator, tile=64).upscale_picture(Picture(smooth(height, width)))
    assert larger.size == (2 * height, 2 * width)


# Outputs -----------------------------------------------------------------------------------------


def test_existing_outputs_are_listed_before_anything_starts(
    tmp_path: Path, checkpoint: Path
) -> None:
    touch(tmp_path, "in/a.png", "in/b.png", "out/b.png")
    before = (tmp_path / "out" / "b.png").read_bytes()
    command = [str(checkpoint), str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    with pytest.raises(ConfigError, match=r"1 of 2 outputs exist.*b\.png.*--continue") as caught:
        main(command)
    assert caught.value.exit_code == 2
    assert _made(tmp_path / "out") == {"b.png"}
    assert main([*command, "--continue"]) == 0
    assert _made(tmp_path / "out") == {"a.png", "b.png"}
    assert (tmp_path / "out" / "b.png").read_bytes() == before
    assert main([*command, "--overwrite", "--tile", "3", "--self-ensemble"]) == 0
    assert read_picture(tmp_path / "out" / "b.png").size == (8, 8)


@pytest.mark.parametrize("output", ["out", "out.png"])
def test_a_second_run_on_one_output_is_told_who_has_it(
    tmp_path: Path, checkpoint: Path, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path, "a.png")
    source, target = tmp_path / "a.png", tmp_path / output
    command = ["infer", str(checkpoint), str(source), "-o", str(target)]
    with alone(plan([str(source)], target), target):
        assert program(command) == 2
        said = capsys.readouterr().err
        assert f"process {os.getpid()} on " in said
        assert "is writing there" in said
    assert program(command) == 0
    assert not list(tmp_path.rglob(".*"))


def test_outputs_that_came_meanwhile_are_not_replaced(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png")
    jobs = plan([str(tmp_path / "in")], tmp_path / "out")
    touch(tmp_path, "out/a.png")  # by another run, which has ended
    with pytest.raises(ConfigError, match="1 of 1 outputs exist"), alone(jobs, tmp_path / "out"):
        pytest.fail("it began")


def test_a_lock_that_was_removed_is_not_held(tmp_path: Path) -> None:
    """Its holder ends, and removes it, between our opening it and our having it."""
    with held(tmp_path / "lock"):
        (tmp_path / "lock").unlink()
        with held(tmp_path / "lock"):  # another file of that name
            pass


KILLED = """
import os, signal, sys, threading
from pathlib import Path
from srtrain.cli.infer import main

replace, one_by_one = Path.replace, threading.Lock()
def dies(self, target):
    with one_by_one:
        if list(Path(target).parent.glob("[!.]*")):  # of the three only one gets its name
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)
Path.replace = dies
main(sys.argv[1:])
"""


def test_a_killed_run_leaves_whole_outputs_and_goes_on(tmp_path: Path, checkpoint: Path) -> None:
    touch(tmp_path, "in/a.png", "in/b.png", "in/c.png")
    command = [str(checkpoint), str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *command],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = _made(tmp_path / "out")  # and another's torso, perhaps the third's, the lock
    (whole,) = [name for name in left if not name.startswith(".")]
    assert read_picture(tmp_path / "out" / whole).size == (8, 8)
    assert len(left) in (3, 4)
    with pytest.raises(ConfigError, match=rf"1 of 3 outputs exist: .*{whole}.*--continue"):
        main(command)
    assert main([*command, "--continue"]) == 0
    assert _made(tmp_path / "out") == {"a.png", "b.png", "c.png"}


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("suffix", ["png", "bmp"])
@pytest.mark.parametrize("call", ["srtrain.inference.threads.write_beside", "os.fsync"])
def test_a_full_disk_stops_the_run(
    tmp_path: Path, upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch, suffix: str, call: str
) -> None:
    touch(tmp_path, *(f"{number}.{suffix}" for number in range(9)))
    monkeypatch.setattr(call, _full)
    jobs = [Job(tmp_path / f"{k}.{suffix}", tmp_path / f"{k}_y.{suffix}") for k in range(9)]
    before = set(threading.enumerate())  # other tests' runs may have left some
    with pytest.raises(StorageError, match="No space left"):
        list(run(upscaler, jobs))
    assert set(threading.enumerate()) <= before
    assert not list(tmp_path.glob("*_y*"))
    assert not list(tmp_path.glob(".*"))


def test_an_output_folder_that_cannot_be_made_is_named_before_anything_starts(
    tmp_path: Path, checkpoint: Path
) -> None:
    touch(tmp_path, "x.png")
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "below"
    with pytest.raises(StorageError, match="cannot write: Not a directory") as caught:
        main([str(checkpoint), str(tmp_path / "x.png"), "-o", str(output)])
    assert caught.value.exit_code == 4


def test_an_unwritable_target_is_named_and_the_rest_produced(
    tmp_path: Path, upscaler: Upscaler
) -> None:
    touch(tmp_path, "x.png", "y.png")
    (tmp_path / "file").touch()
    jobs = [
        Job(tmp_path / "x.png", tmp_path / "file" / "x.png"),
        Job(tmp_path / "y.png", tmp_path / "out" / "y.png"),
    ]
    outcomes = list(run(upscaler, jobs))
    assert outcomes[0].failure is not None
    assert "x.png" in outcomes[0].failure
    assert outcomes[1].failure is None
