"""The cache of decoded images: damaged, full, shared, its builders killed."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from srtrain.data import cache, collection, decoding
from srtrain.data.cache import open_images
from srtrain.data.collection import Files, Survey
from srtrain.data.sources import Folder, Synthetic
from srtrain.errors import DataError, StorageError
from srtrain.images.reading import Header
from tests.data import folder_of, noise
from tests.image_files import encoded, levels_of

if TYPE_CHECKING:
    from collections.abc import Callable


def _spoil(folder: Path) -> None:
    whole = (folder / "001.png").read_bytes()
    (folder / "001.png").write_bytes(whole[: len(whole) // 2])
    (folder / "002.png").write_bytes(b"")
    (folder / "003.png").write_text("<html>not an image</html>")


def test_bad_images_are_listed_all_at_once(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "hr", 20)
    _spoil(folder)
    with pytest.raises(DataError, match="3 of 20 images cannot be read") as caught:
        open_images(Folder(folder), cache_dir=tmp_path / "cache", progress=False)
    assert caught.value.exit_code == 3
    assert all(f"{number:03d}.png" in str(caught.value) for number in (1, 2, 3))
    assert not list((tmp_path / "cache" / "images").iterdir())  # nothing half-done is left


def test_bad_images_are_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(tmp_path / "hr", 6)
    _spoil(folder)
    images = open_images(
        Folder(folder), cache_dir=tmp_path / "cache", on_bad="skip", progress=False
    )
    assert images.names == ["000", "004", "005"]
    np.testing.assert_array_equal(images.hr(1), noise(40, 52, 4))
    assert "3 of 6 images cannot be read" in caplog.text
    with pytest.raises(DataError, match="3 of 6"):  # what one run accepts, another need not
        open_images(Folder(folder), cache_dir=tmp_path / "cache", progress=False)


def _surveyed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    survey = Files.survey

    def counted(self: Files, index: int) -> Survey:
        seen.append(self.names[index])
        return survey(self, index)

    monkeypatch.setattr(Files, "survey", counted)
    return seen


def test_only_what_was_bad_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(tmp_path / "hr", 6)
    _spoil(folder)
    root = tmp_path / "cache"
    first = open_images(Folder(folder), cache_dir=root, on_bad="skip", progress=False)
    caplog.clear()
    seen = _surveyed(monkeypatch)
    again = open_images(Folder(folder), cache_dir=root, on_bad="skip", progress=False)
    assert seen == ["001", "002", "003"]
    assert again.digest == first.digest
    assert "3 of 6 images cannot be read" in caplog.text


@pytest.mark.parametrize("step", ["survey", "decode_hashed"])
def test_what_can_be_read_at_last_is_no_longer_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder, root = folder_of(tmp_path / "hr", 3), tmp_path / "cache"
    whole = getattr(Files, step)

    def fails_once(self: Files, index: int) -> object:
        if index == 1:
            raise OSError("the server is away")
        return whole(self, index)

    with monkeypatch.context() as patched:
        patched.setattr(Files, step, fails_once)
        images = open_images(Folder(folder), cache_dir=root, on_bad="skip", progress=False)
        assert images.names == ["000", "002"]
    images = open_images(Folder(folder), cache_dir=root, progress=False)
    assert images.names == ["000", "001", "002"]
    np.testing.assert_array_equal(images.hr(1), noise(40, 52, 1))


def _truncate(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.truncate(1000)


@pytest.mark.parametrize(
    ("victim", "damage"),
    [
        ("images/*/pixels.u8", _truncate),
        ("images/*/pixels.u8", Path.unlink),
        ("images/*/index.json", Path.unlink),
        ("images/*/index.json", lambda path: path.write_bytes(bytes(100))),
        ("images/*/index.json", lambda path: path.write_text("[]")),
        ("keys/*.json", lambda path: path.write_bytes(b"")),
        ("keys/*.json", lambda path: path.write_text('{"content": "gone"}')),
    ],
)
def test_damaged_cache_is_built_again(
    tmp_path: Path, victim: str, damage: Callable[[Path], object]
) -> None:
    folder, root = folder_of(tmp_path / "hr", 3), tmp_path / "cache"
    digest = open_images(Folder(folder), cache_dir=root, progress=False).digest
    (path,) = root.glob(victim)
    damage(path)
    images = open_images(Folder(folder), cache_dir=root, progress=False)
    assert images.digest == digest
    np.testing.assert_array_equal(images.hr(2), noise(40, 52, 2))


def test_full_disk_is_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SPARE_BYTES", 2**60)
    with pytest.raises(StorageError, match="are free") as caught:
        open_images(Synthetic(count=1, size=64), cache_dir=tmp_path, progress=False)
    assert caught.value.exit_code == 4


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="SRTRAIN_CACHE"):
        open_images(
            Synthetic(count=1, size=64), cache_dir=tmp_path / "file" / "below", progress=False
        )


def test_killed_build_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "hr", 6)
    decoded: list[int] = []
    decode = Files.decode_hashed

    def dies_at_the_fourth(self: Files, index: int) -> tuple[tuple[np.ndarray, ...], str]:
        if len(decoded) == 3:
            raise KeyboardInterrupt
        decoded.append(index)
        return decode(self, index)

    monkeypatch.setattr(Files, "decode_hashed", dies_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        open_images(Folder(folder), cache_dir=tmp_path / "cache", progress=False)
    (partial,) = (tmp_path / "cache" / "images").glob("*.partial")
    with (partial / "pixels.u8").open("r+b") as stream:
        stream.write(b"lost by the disk")  # its checksum no longer fits: decoded again

    monkeypatch.setattr(
        Files, "decode_hashed", lambda self, index: decoded.append(index) or decode(self, index)
    )
    images = open_images(Folder(folder), cache_dir=tmp_path / "cache", progress=False)
    assert decoded == [0, 1, 2, 0, 3, 4, 5]
    for index in range(6):
        np.testing.assert_array_equal(images.hr(index), noise(40, 52, index))


def test_header_that_lies_is_a_bad_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "hr", 1)
    monkeypatch.setattr(collection, "survey", lambda _: Header((41, 52), ()))
    with pytest.raises(DataError, match="its header says 52x41"):
        open_images(Folder(folder), cache_dir=tmp_path / "cache", progress=False)


BUILD = """
import sys, time
from pathlib import Path
from srtrain.data import sources
from srtrain.data.cache import open_images
draw = sources.dead_leaves
def slow(*args, **options):
    time.sleep(0.05)
    return draw(*args, **options)
sources.dead_leaves = slow
images = open_images(sources.Synthetic(count=24, size=32), cache_dir=Path(sys.argv[1]))
print(images.digest, sum(int(images.hr(i).sum()) for i in range(24)))
"""


def _builder(root: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(root)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_builders_at_once_and_one_killed(tmp_path: Path) -> None:
    killed = _builder(tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("images/*.partial/journal")) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    both = [_builder(tmp_path) for _ in range(2)]
    results = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert results[0][0] == results[1][0]
    names = sorted(path.name for path in next((tmp_path / "images").iterdir()).iterdir())
    assert names == ["index.json", "pixels.u8"]
    assert len(list((tmp_path / "images").iterdir())) == 1


def test_killed_process_is_an_error_not_a_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "hr", 32)

    def crash(self: Files, index: int) -> object:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    monkeypatch.setattr(Files, "decode_hashed", crash)
    monkeypatch.setattr(decoding.parallel.__globals__["os"], "sched_getaffinity", lambda _: {0, 1})
    with pytest.raises(DataError, match="was killed"):
        open_images(Folder(folder), cache_dir=tmp_path / "cache", progress=False)


def _with_header(data: bytes, at: int, value: bytes) -> bytes:
    """A PNG whose header says ``value`` at byte ``at``, with the checksum that belongs to it."""
    header = data[12:at] + value + data[at + len(value) : 29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def _hostile(folder: Path) -> int:
    """Good files among truncated and bit-flipped ones, and headers that lie; returns how many."""
    source = random.Random(3)
    wholes = {"png": encoded("PNG"), "jpg": encoded("JPEG")}
    files = dict[str, bytes]()
    for suffix, whole in wholes.items():
        for number in range(24):
            data = bytearray(whole)
            for _ in range(source.randint(1, 4)):
                data[source.randrange(len(data))] = source.randrange(256)
            cut = source.randrange(len(whole))
            files[f"flipped{number}.{suffix}"] = bytes(data)
            files[f"cut{number}.{suffix}"] = whole[:cut]
    for side in (0, 1, 63, 65, 5000, 2**31, 2**32 - 1):
        for at in (16, 20):
            lie = _with_header(wholes["png"], at, struct.pack(">I", side))
            files[f"side{side}_{at}.png"] = lie
    for at in (24, 25, 26, 27, 28):  # depth, colour, compression, filter, interlace
        for value in (0, 1, 3, 4, 7, 16, 255):
            files[f"field{at}_{value}.png"] = _with_header(wholes["png"], at, bytes([value]))
    for number, length in enumerate((0, 2**31 - 1, 2**32 - 1)):  # of the pixels' chunk
        files[f"chunk{number}.png"] = (
            wholes["png"][:33] + struct.pack(">I", length) + wholes["png"][37:]
        )
    files |= {f"good.{suffix}": whole for suffix, whole in wholes.items()}
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return len(files)


@pytest.mark.parametrize("cpus", [1, 2])
def test_hostile_files_are_left_out_and_no_process_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cpus: int
) -> None:
    count = _hostile(tmp_path / "hr")
    monkeypatch.setattr(
        decoding.parallel.__globals__["os"], "sched_getaffinity", lambda _: set(range(cpus))
    )
    images = open_images(
        Folder(tmp_path / "hr"), cache_dir=tmp_path / "cache", on_bad="skip", progress=False
    )
    assert {"good.png", "good.jpg"} <= set(images.names)  # told apart by their suffix
    left_out = count - len(images.names)
    assert f"{left_out} of {count} images cannot be read" in caplog.text
    assert left_out > count / 2
    good = images.hr(images.names.index("good.png"))
    np.testing.assert_array_equal(good, levels_of(64, 64, 3))
