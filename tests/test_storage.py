"""The checkpoint file: whole or absent, whatever happens while it is written."""

from __future__ import annotations

import os
import pickle
import resource
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest
import torch
import xxhash
from safetensors.torch import save_file

from srtrain import files
from srtrain.errors import StorageError
from srtrain.files import (
    fingerprint_of,
    put_in_place,
    read_json,
    sha256_of,
    write_atomic,
    write_beside,
    write_json,
)
from srtrain.networks.storage import (
    by_step,
    checkpoint_name,
    load_tensors,
    newest_valid,
    read_checkpoint,
    read_newest,
    resolve,
    write_checkpoint,
)

if TYPE_CHECKING:
    from collections.abc import Callable


LONG = b"srtrain" * 10**5


def _content(step: int, size: int = 64) -> dict[str, Any]:
    return {
        "generator": {"_target_": "srtrain.networks.edsr.EDSRLite", "kwargs": {"num_blocks": 1}},
        "scale": 2,
        "step": step,
        "state_dict": {"weight": torch.full((size,), float(step))},
        "train_state": {"global_step": step, "names": ["a", None, 1.5, True]},
        "version": "0",
    }


def _write(folder: Path, *steps: int) -> list[Path]:
    paths = [folder / "checkpoints" / checkpoint_name(step) for step in steps]
    (folder / "checkpoints").mkdir(exist_ok=True)
    for path, step in zip(paths, steps, strict=True):
        write_checkpoint(path, _content(step))
    return paths


def _leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.tmp")] + [p.name for p in folder.rglob(".step*")]


def test_round_trip_and_pointer(tmp_path: Path) -> None:
    (path,) = _write(tmp_path, 12)
    content = read_checkpoint(path)
    assert content["format"] == 1
    assert content["train_state"] == _content(12)["train_state"]
    assert torch.equal(content["state_dict"]["weight"], torch.full((64,), 12.0))
    assert read_json(path.parent / "last") == {
        "file": "step-000012.ckpt",
        "step": 12,
        "sha256": sha256_of(path),
    }
    assert not _leftovers(tmp_path)


def test_a_checkpoint_is_hashed_while_it_is_written_and_found_by_one_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []
    with monkeypatch.context() as patch:
        again = lambda path: pytest.fail(f"{path} was read again")  # noqa: E731
        patch.setattr("srtrain.networks.storage.sha256_of", again)
        _, newest = _write(tmp_path, 1, 2)
    monkeypatch.setattr(
        "srtrain.networks.storage.load_tensors",
        lambda path: loaded.append(path) or load_tensors(path),
    )
    found = read_newest(tmp_path)
    assert found is not None
    assert found[0] == newest
    assert found[1]["step"] == 2
    assert loaded == [newest]


def test_disk_full_keeps_what_was_there(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for the full disk: a write fails in its midst."""
    (path,) = _write(tmp_path, 1)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        for target in (path, path.with_name("step-000002.ckpt")):
            with pytest.raises(StorageError, match=r"cannot save the checkpoint: File too large"):
                write_checkpoint(target, _content(2, size=100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


@pytest.mark.parametrize("point", ["fsync", "replace"])
@pytest.mark.parametrize("time", [1, 2, 3, 4])
def test_killed_at_any_point_of_writing(point: str, time: int, tmp_path: Path) -> None:
    """SIGKILL in the midst: the file, its folder, the pointer, its folder."""
    first, second = _write(tmp_path, 1)[0], tmp_path / "checkpoints" / checkpoint_name(2)
    child = os.fork()
    if child == 0:
        _kill_at(point, time)
        write_checkpoint(second, _content(2))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    calls = {"fsync": 4, "replace": 2}[point]
    assert os.WIFSIGNALED(status) == (time <= calls)

    newest = newest_valid(tmp_path)
    assert newest is not None
    step = read_checkpoint(newest)["step"]
    renamed = {"fsync": time > 1, "replace": time > 1}[point]
    assert step == (2 if renamed else 1)
    assert read_checkpoint(first)["step"] == 1
    assert read_checkpoint(resolve(first.parent / "last"))["step"] in {1, 2}
    assert resolve(tmp_path) == newest


def _kill_at(point: str, time: int) -> None:
    owner: Any = {"fsync": os, "replace": Path}[point]
    original, calls = getattr(owner, point), 0

    def counted(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == time:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    setattr(owner, point, counted)


def test_interrupted_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def interrupted(stream: BinaryIO) -> None:
        stream.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, interrupted)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "digits"),
    [
        (b"", "99aa06d3014798d86001c324468d497f"),  # XXH3's own sanity test
        (LONG, xxhash.xxh3_128_hexdigest(LONG)),  # more than is read at a time
    ],
    ids=["empty", "long"],
)
def test_a_fingerprint_is_xxh3(content: bytes, digits: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert fingerprint_of(tmp_path / "file") == digits


@pytest.mark.parametrize("known", [True, False], ids=["Linux", "macOS"])
def test_the_disk_begins_with_a_file_that_others_are_waited_for_with(
    known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[bytes, int]] = []

    def begin(descriptor: int, _offset: object, _bytes: object, flags: int) -> int:
        begun.append((Path(f"/proc/self/fd/{descriptor}").read_bytes(), flags))
        return -1  # it fails: so what

    libc = SimpleNamespace(sync_file_range=begin) if known else SimpleNamespace()
    monkeypatch.setattr(files, "_libc", lambda: libc)
    beside = write_beside(tmp_path / "a", b"content")
    assert begun == ([(b"content", 2)] if known else [])
    write_atomic(tmp_path / "b", b"waited for at once")
    assert len(begun) <= 1
    assert put_in_place([(beside, tmp_path / "a")]) == [None]
    assert (tmp_path / "a").read_bytes() == b"content"


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        (path,) = _write(tmp_path, 1)
    finally:
        os.umask(previous)
    assert path.stat().st_mode & 0o777 == 0o640


class _Command:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch executed",)


def _other_format(path: Path) -> None:
    torch.save({**_content(1), "format": 99}, path)


def _truncated(path: Path) -> None:
    write_checkpoint(path, _content(1))
    path.write_bytes(path.read_bytes()[:-200])


def _damaged(path: Path) -> None:
    write_checkpoint(path, _content(1))
    content = bytearray(path.read_bytes())
    content[10:200] = bytes(190)
    path.write_bytes(bytes(content))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "empty file"),
    "truncated": (_truncated, "truncated or damaged"),
    "damaged": (_damaged, "damaged|unsafe or broken"),
    "text": (lambda path: path.write_text("hello"), "damaged|unsafe or broken"),
    "HTML": (lambda path: path.write_text("\n <!doctype html>"), "an HTML page"),
    "LFS": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "git-lfs"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps(_Command())), "unsafe or broken pickle"),
    "zip": (lambda path: torch.save({"x": _Command()}, path), "unsafe .* it asks for posix.system"),
    "class": (
        lambda path: torch.save({"x": torch.nn.Linear(1, 1)}, path),
        "unsafe .* it asks for torch.nn.modules.linear.Linear",
    ),
    "foreign": (lambda path: torch.save({"params": {}}, path), "not a srtrain checkpoint"),
    "list": (lambda path: torch.save([1, 2], path), "not a srtrain checkpoint"),
    "format": (_other_format, "checkpoint format 99, this srtrain reads 1"),
}


@pytest.mark.parametrize(("make", "said"), BROKEN.values(), ids=BROKEN)
def test_broken_files_are_told_apart(
    make: Callable[[Path], object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "step-000009.ckpt"
    make(path)
    with pytest.raises(StorageError, match=f"(?i){said}") as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == 4
    assert str(path) in str(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "missing"])
def test_newest_valid_passes_over(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (good,) = _write(tmp_path, 3)
    BROKEN[name][0](good.with_name("step-000009.ckpt"))
    assert newest_valid(tmp_path) == good
    assert resolve(tmp_path) == good
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert all(line.startswith("passed over step-000009.ckpt: ") for line in said)


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    assert torch.equal(load_tensors(path)["weight"], torch.ones(2))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(StorageError, match="truncated or damaged"):
        load_tensors(path)


def test_steps_sort_as_numbers_beyond_a_million(tmp_path: Path) -> None:
    paths = _write(tmp_path, 999_999, 1_000_000, 2)
    assert by_step(tmp_path / "checkpoints") == [paths[2], paths[0], paths[1]]
    assert newest_valid(tmp_path) == paths[1]


def test_resolve_takes_file_pointer_and_folders(tmp_path: Path) -> None:
    first, second = _write(tmp_path, 1, 2)
    assert resolve(first) == first
    for path in (second.parent / "last", second.parent, tmp_path):
        assert resolve(path) == second


@pytest.mark.parametrize(
    "pointer",
    [
        {"file": "step-000777.ckpt", "step": 777, "sha256": "0"},
        {"file": "step-000002.ckpt", "step": 2, "sha256": "0"},
        {"file": "../../elsewhere.ckpt", "step": 2, "sha256": "0"},
        {"step": 2},
        [],
        None,
    ],
)
def test_a_wrong_pointer_is_not_believed(pointer: object, tmp_path: Path) -> None:
    _, second = _write(tmp_path, 1, 2)
    if pointer is None:
        (second.parent / "last").write_text('{"file": "ste')
    else:
        write_json(second.parent / "last", pointer)
    assert resolve(second.parent / "last") == second


def test_torn_checkpoint_behind_the_pointer(tmp_path: Path) -> None:
    first, second = _write(tmp_path, 1, 2)
    second.write_bytes(second.read_bytes()[:1000])
    assert resolve(second.parent / "last") == first


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_nothing_to_resolve(name: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no such file or folder|no valid checkpoint"):
        resolve(tmp_path / name)
