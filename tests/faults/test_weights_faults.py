"""Weights files that mean harm: refused in one line, nothing executed, no memory filled."""

from __future__ import annotations

import _codecs
import json
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from srtrain.cli.main import main
from srtrain.errors import StorageError
from srtrain.networks.edsr import EDSRLite
from srtrain.networks.loading import load_generator, unwrap
from srtrain.networks.storage import load_tensors, write_checkpoint
from tests.forks import grow_at_most
from tests.training import draw_sets, train, words

MEGABYTE = 2**20
LARGE = 200 * MEGABYTE  # what each of the files would take


class Called:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def _deflated(path: Path) -> None:
    """A checkpoint whose zeros are compressed a thousandfold."""
    whole = path.with_suffix(".whole")
    torch.save({"w": torch.zeros(LARGE, dtype=torch.uint8)}, whole)
    deflated = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with zipfile.ZipFile(whole) as plain, deflated as small:
        for entry in plain.infolist():
            small.writestr(entry.filename, plain.read(entry))
    whole.unlink()


def _saved(content: Callable[[], object], *, zipped: bool = True) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        torch.save({"w": content()}, path, _use_new_zipfile_serialization=zipped)

    return make


def _doubled() -> object:
    content: object = b"aa"
    for _ in range(28):
        content = Called(_codecs.encode, content, "hex_codec")
    return content


def _safetensors(header: bytes, *, length: int | None = None) -> Callable[[Path], None]:
    size = struct.pack("<Q", len(header) if length is None else length)
    return lambda path: path.with_suffix(".safetensors").write_bytes(size + header) and None


def _entry(**changes: object) -> bytes:
    entry = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
    return json.dumps({"w": {**entry, **changes}}).encode()


BOMBS: dict[str, tuple[Callable[[Path], None], str]] = {
    "compressed": (_deflated, "unpacks to"),
    "bytearray": (_saved(lambda: Called(bytearray, LARGE)), r"asks for \w+\.bytearray"),
    "bytearray in an old file": (
        _saved(lambda: Called(bytearray, LARGE), zipped=False),
        r"asks for \w+\.bytearray",
    ),
    "doubled": (_saved(_doubled), r"asks for _codecs\.encode"),
    "one number as many": (_saved(lambda: torch.zeros(1).expand(2**40)), "a tensor claims"),
    "many of none": (
        _saved(lambda: torch.sparse_coo_tensor(size=(2**40,), check_invariants=True)),
        "a tensor claims|damaged",
    ),
    "header beyond the file": (_safetensors(b"{}", length=2**62), "damaged"),
    "header of gigabytes": (_safetensors(b"{}", length=2**31), "damaged"),
    "tensor beyond the file": (_safetensors(_entry()), "damaged"),
    "negative offsets": (_safetensors(_entry(data_offsets=[-4, 0])), "damaged"),
    "shape that overflows": (_safetensors(_entry(shape=[2**62, 2**62])), "damaged"),
    "deep header": (_safetensors(b'{"a":' * 100_000), "damaged"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_would_fill_the_memory(name: str, tmp_path: Path) -> None:
    make, told = BOMBS[name]
    make(tmp_path / "model.ckpt")
    (path,) = tmp_path.glob("model.*")
    assert re.search(told, _in_little_memory(path))


def _in_little_memory(path: Path) -> str:
    """How a fork that may grow by 100 MB refuses a file."""
    said = path.with_name("said")
    child = os.fork()
    if child == 0:
        grow_at_most(100)
        try:
            load_generator(path)
        except StorageError as error:
            said.write_text(str(error))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return said.read_text()


def test_a_dictionary_that_contains_itself_ends() -> None:
    content: dict[str, object] = {}
    content["params"] = content
    with pytest.raises(StorageError, match="no network weights"):
        unwrap(content, Path("model.pth"))


@pytest.mark.parametrize("use", ["init_from", "resume", "infer"])
def test_a_malicious_pickle_is_named_and_never_executed(
    use: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = draw_sets(tmp_path / "images")
    marker, path = tmp_path / "executed", tmp_path / "evil.ckpt"
    torch.save({"w": Called(os.system, f"touch {marker}")}, path)
    run = tmp_path / "run"
    if use == "infer":
        command = ["infer", str(path), str(images / "val"), "-o", str(tmp_path / "out")]
    elif use == "init_from":
        command = words(images, run, f"init_from={path}")
    else:  # beside a good one: passed over, said, never run
        train(images, run, "trainer.max_steps=2", "trainer.val_every_n_steps=2")
        path.rename(run / "checkpoints" / "step-000005.ckpt")
        command = words(images, run)
    capsys.readouterr()
    assert main(command) == (0 if use == "resume" else 4)
    said = capsys.readouterr()
    if use == "resume":
        assert "resumed from step 2" in said.out
    else:
        assert "unsafe or broken pickle: it asks for posix.system" in said.err
        assert "weights_only" not in said.err
    assert not marker.exists()


def test_no_flag_forces_a_pickle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marker, path = tmp_path / "executed", tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Called(os.system, f"touch {marker}"), protocol=2))
    command = ["infer", str(path), str(tmp_path), "-o", str(tmp_path / "out"), "--trust", "posix"]
    draw_sets(tmp_path)
    assert main(command) == 4
    assert not marker.exists()


def test_files_that_claim_nothing_are_let_through(tmp_path: Path) -> None:
    """Halves, views, tied weights, optimizer states: what real files hold."""
    net = EDSRLite(scale=2, num_features=4, num_blocks=1)
    weight = torch.rand(8, 8)
    content = {
        "generator": {},
        "scale": 2,
        "step": 1,
        "state_dict": net.state_dict(),
        "tied": [weight, weight.T, weight[:2], weight.half(), torch.tensor(1), torch.zeros(0)],
        "plain": [1, None, "ü", {"a": (True, 2.5)}],
    }
    write_checkpoint(tmp_path / "step-000001.ckpt", content)
    loaded = load_tensors(tmp_path / "step-000001.ckpt")
    assert torch.equal(loaded["tied"][1], weight.T)
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(load_tensors(tmp_path / "old.pth")["tied"][0], weight)
