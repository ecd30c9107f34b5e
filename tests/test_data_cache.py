from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from srtrain.data import cache, decoding
from srtrain.data.cache import open_images
from srtrain.data.collection import Files
from srtrain.data.sources import Bundled, Concat, Folder, Synthetic
from srtrain.images import read_rgb8
from tests.data import folder_of, noise, save


@pytest.mark.parametrize("count", [3, 40])  # in this process, and in several
def test_pixels_are_the_files(tmp_path: Path, count: int) -> None:
    folder = folder_of(tmp_path / "hr", count)
    save(folder / "deep" / "er" / "large.png", noise(90, 70, 999))
    images = open_images(Folder(folder), cache_dir=tmp_path / "cache", progress=False)
    assert len(images) == count + 1
    for index, name in enumerate(images.names):
        np.testing.assert_array_equal(images.hr(index), read_rgb8(folder / f"{name}.png"))
    assert not images.hr(0).flags.writeable


def test_the_disk_begins_while_images_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many bytes at a time, to the file that the pixels are in."""
    begun = []
    monkeypatch.setattr(decoding, "WAITING", 2 * 3 * 40 * 40)
    monkeypatch.setattr(decoding, "begin_to_sync", lambda file: begun.append(os.fstat(file)))
    folder = tmp_path / "hr"
    for index in range(7):
        save(folder / f"{index}.png", noise(40, 40, index))
    images = open_images(Folder(folder), cache_dir=tmp_path / "cache", progress=False)
    assert len(images) == 7
    (pixels,) = (tmp_path / "cache").rglob("pixels.u8")
    assert [found.st_ino for found in begun] == [pixels.stat().st_ino] * 3


def test_known_folder_opens_without_reading_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "hr", 3)
    root = tmp_path / "cache"
    files = Folder(folder).files(folder)
    assert cache.cached(files, cache_dir=root) is None
    first = open_images(Folder(folder), cache_dir=root, progress=False)
    known = cache.cached(files, cache_dir=root)
    assert known is not None
    assert known.names == first.names

    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(Files, "survey", refuse)
    again = open_images(Folder(folder), cache_dir=root, progress=False)
    assert again.digest == first.digest


def test_a_cache_of_another_format_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, root = folder_of(tmp_path / "hr", 3), tmp_path / "cache"
    with monkeypatch.context() as patched:
        patched.setattr(cache, "FORMAT", cache.FORMAT - 1)
        before = open_images(Folder(folder), cache_dir=root, progress=False)
    again = open_images(Folder(folder), cache_dir=root, progress=False)
    assert again.digest != before.digest
    for index in range(3):
        np.testing.assert_array_equal(again.hr(index), before.hr(index))


def test_moved_and_touched_files_are_not_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "cache"
    folder = folder_of(tmp_path / "hr", 3)
    first = open_images(Folder(folder), cache_dir=root, progress=False)
    monkeypatch.setattr(Files, "decode_hashed", None)
    os.utime(folder / "000.png", (1, 1))
    assert open_images(Folder(folder), cache_dir=root, progress=False).digest == first.digest
    moved = Path(shutil.move(folder, tmp_path / "moved"))
    assert open_images(Folder(moved), cache_dir=root, progress=False).digest == first.digest


def test_changed_files_are_decoded_again(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "hr", 2)
    first = open_images(Folder(folder), cache_dir=tmp_path / "cache", progress=False)
    save(folder / "001.png", noise(40, 52, 77))
    second = open_images(Folder(folder), cache_dir=tmp_path / "cache", progress=False)
    assert second.digest != first.digest
    np.testing.assert_array_equal(second.hr(1), noise(40, 52, 77))


def test_repeats_are_visits_not_copies(tmp_path: Path) -> None:
    few, many = folder_of(tmp_path / "few", 2), folder_of(tmp_path / "many", 3, seed=1)
    source = Folder([{"path": str(few), "repeat": 4}, many])
    images = open_images(source, cache_dir=tmp_path / "cache", progress=False)
    assert (len(images), len(images.names)) == (11, 5)
    visits = [images.visited(visit) for visit in range(len(images))]
    assert np.bincount(visits).tolist() == [4, 4, 1, 1, 1]


def test_pickles_without_pixels(tmp_path: Path) -> None:
    source = Concat(Synthetic(count=2, size=64), Bundled(["brick"]))
    images = open_images(source, cache_dir=tmp_path, progress=False)
    before = images.hr(2).copy()
    sent = pickle.dumps(images)
    assert len(sent) < 10_000
    np.testing.assert_array_equal(pickle.loads(sent).hr(2), before)


def test_a_new_folder_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, folder = tmp_path / "cache", folder_of(tmp_path / "hr", 3)
    with monkeypatch.context() as patched:
        patched.setattr(Files, "digest", None)  # a pass of its own
        first = open_images(Folder(folder), cache_dir=root, progress=False)
    save(folder / "001.png", noise(40, 52, 77))  # of the same size, but another picture
    second = open_images(Folder(folder), cache_dir=root, progress=False)
    again = open_images(Folder(folder), cache_dir=tmp_path / "other", progress=False)
    assert first.digest != second.digest == again.digest
    np.testing.assert_array_equal(second.hr(1), noise(40, 52, 77))
