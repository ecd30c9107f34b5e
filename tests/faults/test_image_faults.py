"""Image files that nobody vouches for: refused by name, without a crash, a wait or memory."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import kornia_rs.io
import numpy as np
import pytest
from PIL import Image

from srtrain.errors import DataError
from srtrain.images import image_size, list_images, read_picture, read_rgb8
from tests.forks import grow_at_most
from tests.image_files import BAD, encoded, levels_of, png, text_bomb


@pytest.mark.parametrize(("name", "make", "message"), BAD, ids=[case[0] for case in BAD])
@pytest.mark.parametrize("read", [read_picture, read_rgb8])
def test_bad_files_are_refused_by_name(
    tmp_path: Path,
    name: str,
    make: Callable[[], bytes],
    message: str,
    read: Callable[[Path], object],
) -> None:
    path = tmp_path / name
    path.write_bytes(make())
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_missing_folder_and_newline_are_named_on_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such image"):
        read_picture(tmp_path / "absent.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_rgb8(tmp_path)
    with pytest.raises(DataError) as caught:
        image_size(tmp_path / "a\nb ü.png")
    assert "a\\nb ü.png" in str(caught.value)


def test_the_size_limit_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(levels_of(20, 20, 3)).save(tmp_path / "x.png")
    monkeypatch.setenv("SRTRAIN_MAX_PIXELS", "399")
    for read in (read_picture, read_rgb8, image_size):
        with pytest.raises(DataError, match="20x20 pixels, the limit is 399"):
            read(tmp_path / "x.png")
    monkeypatch.setenv("SRTRAIN_MAX_PIXELS", "400")
    assert read_rgb8(tmp_path / "x.png").shape == (20, 20, 3)


def test_thousand_damaged_pngs_never_crash_the_process(tmp_path: Path) -> None:
    source = random.Random(0)
    whole, path = encoded("PNG"), tmp_path / "x.png"
    refused = 0
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(source.randint(1, 4)):
            data[source.randrange(len(data))] = source.randrange(256)
        path.write_bytes(data if source.random() < 0.7 else data[: source.randrange(len(data))])
        try:
            assert read_rgb8(path).shape[2] == 3
        except DataError:
            refused += 1
    assert refused > 900


def test_listing_skips_loops_links_to_nothing_pipes_and_hidden(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    names = ["z.PNG", "b/a.jpg", "b/c/ü ñ\n.png", "b/.hidden.png", "note.txt", "x" * 251 + ".png"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "a_link").symlink_to(tmp_path / "b")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing.png")
    os.mkfifo(tmp_path / "pipe.png")
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == sorted(["z.PNG", "b/a.jpg", "b/c/ü ñ\n.png", "x" * 251 + ".png"])


def _huge(path: Path) -> Path:
    """A good small PNG with a gigabyte of nothing behind it, which take no room on the disk."""
    path.write_bytes(encoded("PNG"))
    with path.open("r+b") as stream:
        stream.truncate(2**30)
    return path


def _deep_tiff(path: Path) -> Path:
    """A 16-bit TIFF whose tags ask for a hundred thousand planes."""
    tifffile = pytest.importorskip("tifffile")
    planes = (32997, "I", 1, 100_000, True)  # ImageDepth: Pillow does not know it
    tifffile.imwrite(
        path, levels_of(64, 64, 3, dtype=np.uint16), photometric="rgb", extratags=[planes]
    )
    return path


def _profile_bomb(path: Path) -> Path:
    """A PNG whose colour profile unpacks to 200 MB."""
    path.write_bytes(_with_profile(zlib.compress(bytes(200 * 2**20), 1)))
    return path


def _with_profile(compressed: bytes) -> bytes:
    profile = b"iCCP" + b"x\0\0" + compressed
    length, checksum = (struct.pack(">I", n) for n in (len(profile) - 4, zlib.crc32(profile)))
    data = encoded("PNG")
    return data[:33] + length + profile + checksum + data[33:]


def _text_after_text(path: Path) -> Path:
    """A PNG with the bomb in a text chunk, of the kind that goes the fast way in training."""
    bomb, data = text_bomb(), encoded("PNG")
    start = bomb.index(b"zTXt") - 4
    chunk = bomb[start : bomb.index(b"IDAT") - 4]
    path.write_bytes(data[:33] + 4 * chunk + data[33:])
    return path


def _header_bomb(side: int) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_bytes(png(side, side, 8, 2, b"\0" * side))
        return path

    return make


MEMORY: dict[str, Callable[[Path], Path]] = {
    "13k.png": _header_bomb(13_000),
    "50k.png": _header_bomb(50_000),
    "huge.png": _huge,
    "planes.tif": _deep_tiff,
    "profile.png": _profile_bomb,
    "text.png": _text_after_text,
}


@pytest.mark.parametrize("read", [read_picture, read_rgb8, image_size])
@pytest.mark.parametrize("name", MEMORY)
def test_no_file_takes_memory_that_its_pixels_do_not_need(
    tmp_path: Path, name: str, read: Callable[[Path], object]
) -> None:
    """In a fork that may grow by 100 MB: it reads the file or refuses it, but is not refused."""
    path = MEMORY[name](tmp_path / name)
    child = os.fork()
    if child == 0:
        grow_at_most(100)
        try:
            read(path)
        except DataError as error:
            os._exit(1 if "MemoryError" in str(error) or "allocate" in str(error) else 0)
        except BaseException:
            os._exit(2)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("read", [read_picture, read_rgb8, image_size])
@pytest.mark.parametrize("place", ["pipe", "link to a pipe", "device", "socket"])
def test_what_would_be_waited_for_is_refused(
    tmp_path: Path, place: str, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "x.png"
    if place == "socket":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.path.relpath(path))  # at most 108 bytes
        listener.close()
    elif place == "device":
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    began = time.monotonic()
    with pytest.raises(DataError, match="not a regular file"):
        read(tmp_path / "pipe" if place == "pipe" else path)
    assert time.monotonic() - began < 1


def test_formats_that_start_programs_are_not_opened(tmp_path: Path) -> None:
    """PostScript, which Pillow hands to Ghostscript, named as an image."""
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    for read in (read_picture, read_rgb8, image_size):
        with pytest.raises(DataError, match="not a readable image: the file starts with b'%!PS"):
            read(tmp_path / "x.png")


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000"])
def test_damaged_files_never_crash_the_process(tmp_path: Path, kind: str) -> None:
    source = random.Random(0)
    whole, path = encoded(kind), tmp_path / "x.png"
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(source.randint(1, 4)):
            data[source.randrange(len(data))] = source.randrange(256)
        path.write_bytes(data if source.random() < 0.7 else data[: source.randrange(len(data))])
        with contextlib.suppress(DataError):
            assert read_rgb8(path).shape[2] == 3


def test_a_panic_of_the_fast_decoder_is_a_bad_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicException(BaseException):  # as pyo3's, which is no Exception
        pass

    def panics(*_: object) -> None:
        raise PanicException("index out of bounds")

    (tmp_path / "x.png").write_bytes(encoded("PNG"))
    monkeypatch.setattr("kornia_rs.io.decode_image_png_u8", panics)
    with pytest.raises(DataError, match="damaged image: index out of bounds"):
        read_rgb8(tmp_path / "x.png")


@pytest.mark.parametrize(("size", "fast"), [(3_000, True), (20_000, False)])
def test_a_large_profile_is_not_unpacked_by_the_fast_decoder(
    size: int, fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take 64 MB for one, and abort the process where there are none."""
    (tmp_path / "x.png").write_bytes(_with_profile(zlib.compress(random.Random(0).randbytes(size))))
    decoded, decode = [], kornia_rs.io.decode_image_png_u8
    spy = lambda *given: decoded.append(given) or decode(*given)  # noqa: E731
    monkeypatch.setattr(kornia_rs.io, "decode_image_png_u8", spy)
    np.testing.assert_array_equal(read_rgb8(tmp_path / "x.png"), levels_of(64, 64, 3))
    assert len(decoded) == fast


def test_a_folder_that_cannot_be_read_is_named_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "closed").mkdir(parents=True)
    scan = os.scandir

    def closed(path: Path) -> object:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError, match=r"cannot be read: Permission denied · .*/a/closed"):
        list_images(tmp_path)
