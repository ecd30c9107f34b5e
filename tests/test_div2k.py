"""DIV2K fetched from a server on loopback: small archives of the same layout."""

from __future__ import annotations

import functools
import hashlib
import io
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from srtrain.data import div2k
from srtrain.data.div2k import SPLITS, Div2k, Split
from srtrain.errors import DataError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def pack(folder: Path, split: str, numbers: range) -> str:
    """Writes the archive of a split; returns its checksum."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in numbers:
            png = io.BytesIO()
            Image.fromarray(np.full((6, 8, 3), number % 256, np.uint8)).save(png, "png")
            archive.writestr(f"DIV2K_{split}_HR/{number:04d}.png", png.getvalue())
    (folder / f"DIV2K_{split}_HR.zip").write_bytes(packed.getvalue())
    return hashlib.sha256(packed.getvalue()).hexdigest()


@pytest.fixture
def url(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    for split, numbers in {"train": range(1, 4), "valid": range(801, 803)}.items():
        served = Split(numbers[0], numbers[-1], pack(folder, split, numbers))
        monkeypatch.setitem(div2k.SPLITS, split, served)
    handler = functools.partial(_Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_the_published_splits() -> None:
    # 0001 … 0800 and 0801 … 0900, as the challenge's report says.
    assert [SPLITS[name][:2] for name in ("train", "valid")] == [(1, 800), (801, 900)]


@pytest.mark.parametrize(
    ("split", "names"), [("train", ["0001", "0002", "0003"]), ("valid", ["0801", "0802"])]
)
def test_fetches_and_acts_as_a_folder(
    url: str, tmp_path: Path, split: str, names: list[str]
) -> None:
    source = Div2k(tmp_path / "DIV2K", split, url=url)
    [(photos, times)] = source.collections()
    assert (list(photos.names), times) == (names, 1)
    (first,) = photos.decode(0)
    assert first.shape == (6, 8, 3)
    assert (first == int(names[0]) % 256).all()
    left = sorted(path.name for path in (tmp_path / "DIV2K").iterdir())
    assert left == [f"DIV2K_{split}_HR"], "archive, lock and temporary folders are gone"


def test_what_is_there_needs_no_network(url: str, tmp_path: Path) -> None:
    Div2k(tmp_path, "train", url=url).fetch()
    assert Div2k(tmp_path, "train", url="http://127.0.0.1:9").collections()


def test_archive_fetched_by_hand(url: str, tmp_path: Path) -> None:
    pack(tmp_path, "train", range(1, 4))
    assert Div2k(tmp_path, "train", url="http://127.0.0.1:9").collections()


def test_offline_says_so(url: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"DIV2K_train_HR\.zip") as caught:
        Div2k(tmp_path, "train", url="http://127.0.0.1:9").collections()
    assert "place it at" in caught.value.fix


def test_incomplete_folder_is_left_alone(url: str, tmp_path: Path) -> None:
    source = Div2k(tmp_path, "train", url=url)
    source.fetch()
    (source.folder / "0002.png").unlink()
    with pytest.raises(DataError, match=r"1 of 3 DIV2K photos are missing, 0002\.png"):
        source.collections()
    assert (source.folder / "0001.png").exists()


@pytest.mark.parametrize("numbers", [range(1, 3), range(0)], ids=["a photo short", "empty"])
def test_archive_of_other_content(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: range
) -> None:
    checksum = pack(tmp_path, "train", numbers)
    monkeypatch.setitem(div2k.SPLITS, "train", Split(1, 3, checksum))
    with pytest.raises(StorageError, match="cannot unpack"):
        Div2k(tmp_path, "train", url=url).fetch()
    assert [path.name for path in tmp_path.iterdir()] == ["DIV2K_train_HR.zip"]


def test_split_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split='test'"):
        Div2k(tmp_path, "test")
