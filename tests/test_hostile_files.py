"""Files that nobody vouches for, wherever srtrain takes one: one line, nothing run, no memory.

What single readers refuse is in tests/faults (``test_weights_faults``, ``test_image_faults``) and
``test_loading``; here are their uses, and what is left.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.SwinIR import SwinIR

from srtrain.cli.main import main
from srtrain.errors import DataError, StorageError
from srtrain.images import image_size, read_picture, read_rgb8
from srtrain.networks.loading import load_generator
from srtrain.networks.storage import write_checkpoint
from srtrain.networks.transfer import init_from
from tests.faults.test_weights_faults import BOMBS, Called
from tests.forks import grow_at_most
from tests.image_files import png
from tests.upscaling import tiny_generator, write_tiny

ROOT = Path(__file__).resolve().parents[1]
MARKER = "executed"


# Weights -------------------------------------------------------------------------------------


def _own(**changes: Any) -> Callable[[Path], None]:  # noqa: ANN401
    """A checkpoint of ours, but for ``changes``."""

    def make(folder: Path) -> None:
        generator = tiny_generator()
        content = {
            "generator": dict(generator.spec),
            "scale": 2,
            "step": 1,
            "state_dict": generator.net.state_dict(),
        }
        write_checkpoint(folder / "model.ckpt", {**content, **changes})

    return make


def _exported(said: object, *, text: str | None = None) -> Callable[[Path], None]:
    """A file of ``srtrain export`` whose header says something else."""

    def make(folder: Path) -> None:
        header = json.dumps(said) if text is None else text
        state = tiny_generator().net.state_dict()
        save_file(state, folder / "model.safetensors", {"srtrain": header})

    return make


def _spec(target: str, **kwargs: object) -> dict[str, object]:
    return {"_target_": target, "kwargs": kwargs}


def _community(net: Callable[[], torch.nn.Module], **added: Any) -> Callable[[Path], None]:  # noqa: ANN401
    """Weights of that network, which spandrel knows by their names, and tensors of other shapes."""

    def make(folder: Path) -> None:
        shapes = {name.replace("__", "."): shape for name, shape in added.items()}
        more = {name: torch.zeros(shape) for name, shape in shapes.items()}
        torch.save({**net().state_dict(), **more}, folder / "model.pth")

    return make


def _says(target: str, **kwargs: object) -> dict[str, object]:
    return {"format": 1, "scale": 2, "generator": _spec(target, **kwargs)}


def _script(folder: Path) -> None:
    net = torch.jit.trace(torch.nn.Conv2d(3, 3, 1), torch.rand(1, 3, 4, 4))
    torch.jit.save(net, str(folder / "model.pt"))


def _overlapping(folder: Path) -> None:
    rows = {
        name: {"dtype": "F32", "shape": [4], "data_offsets": [start, start + 16]}
        for name, start in (("a", 0), ("b", 8))
    }
    header = json.dumps(rows).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(24))


def _named(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


LITE = "srtrain.networks.edsr.EDSRLite"
SWINIR = "spandrel.architectures.SwinIR.SwinIR"
SCALED: dict[str, Callable[[object], Callable[[Path], None]]] = {
    "own": lambda scale: _own(scale=scale),
    "exported": lambda scale: _exported({**_says(LITE, scale=2), "scale": scale}),
}
RUNS = _spec("subprocess.Popen", args=["touch", MARKER])
PROGRAMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a class that runs": (_own(generator=RUNS), "the network is subprocess.Popen, code outside"),
    "a head that runs": (_own(head=RUNS), "the network is subprocess.Popen, code outside"),
    "an exported class that runs": (
        _exported(_says("subprocess.Popen", args=["touch", MARKER])),
        "the network is subprocess.Popen, code outside",
    ),
    "a function of a trusted package": (
        _own(generator=_spec("srtrain.networks.storage.write_checkpoint")),
        "is not a network class",
    ),
    "what a trusted module imported": (
        _own(generator=_spec("srtrain.networks.build.importlib")),
        "is not a network class",
    ),
    "a class that torch defines": (
        _own(generator=_spec("srtrain.networks.build.nn.Linear", in_features=1, out_features=1)),
        "cannot be rebuilt",
    ),
    "wider than its weights": (
        _own(generator=_spec(LITE, scale=2, num_features=10**6)),
        "far larger than its weights",
    ),
    "deeper than its weights": (
        _own(generator=_spec(LITE, scale=2, num_features=1, num_blocks=10**9)),
        "far larger than its weights",
    ),
    "exported, wider than its weights": (
        _exported(_says(LITE, scale=2, num_features=10**6)),
        "far larger than its weights",
    ),
    "windows larger than its weights": (
        _own(generator=_spec(SWINIR, window_size=64, embed_dim=6)),
        "far larger than its weights",
    ),
    "exported, windows larger than its weights": (
        _exported(_says(SWINIR, window_size=128, embed_dim=6, img_size=128)),
        "far larger than its weights",
    ),
    "a mask larger than its weights": (
        _own(generator=_spec(SWINIR, img_size=2100, embed_dim=6)),
        "far larger than its weights",
    ),
    "community, deeper than its weights": (
        _community(
            lambda: Compact(num_feat=4, num_conv=1),
            body__999999998__weight=(12, 4, 3, 3),
            body__999999998__bias=(12,),
        ),
        "far larger than its weights",
    ),
    "community, windows larger than its weights": (
        _community(
            lambda: SwinIR(embed_dim=6, depths=[1], num_heads=[1], window_size=4, img_size=8),
            layers__0__residual_group__blocks__0__attn__relative_position_index=(128**2, 1),
        ),
        "far larger than its weights",
    ),
    "exported as nothing": (_exported({}), "does not say whose weights"),
    "exported as a list": (_exported([1]), "does not say whose weights"),
    "exported as no JSON": (_exported(0, text="{"), "does not say whose weights"),
    "exported as a deep JSON": (_exported(0, text="[" * 10**5), "does not say whose weights"),
    "exported in another format": (_exported({**_says(LITE), "format": 2}), "exported in format 2"),
    "exported with arguments of no kind": (
        _exported({**_says(LITE), "generator": [LITE]}),
        "cannot be rebuilt",
    ),
    **{
        f"{where} at scale {scale}": (make(scale), "cannot be rebuilt: its scale is")
        for scale in (0, -1, "x", None, 1.5, True, 10**30)
        for where, make in SCALED.items()
    },
    "a state that is a number": (_own(state_dict=3), "cannot be rebuilt"),
    "TorchScript": (_script, "a TorchScript program, not weights"),
    "ONNX": (_named("model.onnx", b"\x08\x08\x12\x07pytorch"), "an ONNX program, not weights"),
    "overlapping tensors": (_overlapping, "truncated or damaged"),
    "header of 2^60 bytes": (
        _named("model.safetensors", struct.pack("<Q", 2**60) + b"{}"),
        "truncated or damaged",
    ),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_program_and_no_giant_comes_out_of_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, told = PROGRAMS[name]
    make(tmp_path)
    (path,) = tmp_path.glob("model.*")
    said = in_little_memory(lambda: load_generator(path), tmp_path)
    assert told in said
    assert "\n" not in said
    assert not (tmp_path / MARKER).exists()


USES: dict[str, Callable[[Path], object]] = {
    "init_from": lambda path: init_from(tiny_generator(), path, partial=True),
    "export": lambda path: main(["export", str(path), "--to", "safetensors", "-o", "out"]),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", [*BOMBS, "a pickle that runs"])
def test_every_use_refuses_what_the_loader_refuses(
    name: str, use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if name in BOMBS:
        BOMBS[name][0](tmp_path / "model.ckpt")
    else:
        torch.save({"w": Called(os.system, f"touch {MARKER}")}, tmp_path / "model.ckpt")
    (path,) = tmp_path.glob("model.*")
    said = in_little_memory(lambda: USES[use](path), tmp_path)
    assert "unsafe" in said or "damaged" in said
    assert said.count("\n") == (use == "export")  # a line on stderr ends
    assert {it.name for it in tmp_path.iterdir()} <= {path.name, "last", "said"}


def in_little_memory(use: Callable[[], object], folder: Path) -> str:
    """How a fork that may grow by 150 MB refuses a file: the error, or what it says on stderr."""
    said = folder / "said"
    child = os.fork()
    if child == 0:
        grow_at_most(150)
        try:
            with said.open("w") as sys.stderr:
                use()
        except StorageError as error:
            said.write_text(str(error))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return said.read_text()


# Images --------------------------------------------------------------------------------------


def _encoded(kind: str) -> bytearray:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return bytearray(stream.getvalue())


def _jpeg() -> bytes:
    data = _encoded("JPEG")
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    return bytes(data)


def _gif() -> bytes:
    data = _encoded("GIF")
    data[6:10] = struct.pack("<HH", 60_000, 60_000)
    frame = data.index(b",", 13)
    data[frame + 5 : frame + 9] = struct.pack("<HH", 60_000, 60_000)
    return bytes(data)


def _webp() -> bytes:
    """The largest that the lossless format has: 16384 a side."""
    data = _encoded("WEBP")
    bits = struct.unpack("<I", data[21:25])[0]
    data[21:25] = struct.pack("<I", bits | 0xFFFFFFF)
    return bytes(data)


def _webp_canvas() -> bytes:
    side = struct.pack("<I", 59_999)[:3]
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + side + side
    body = b"WEBP" + canvas + bytes(_encoded("WEBP")[12:])
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff() -> bytes:
    data = _encoded("TIFF")
    start = struct.unpack("<I", data[4:8])[0]
    for number in range(struct.unpack("<H", data[start : start + 2])[0]):
        entry = start + 2 + 12 * number
        if struct.unpack("<H", data[entry : entry + 2])[0] in (256, 257):  # width, length
            data[entry + 2 : entry + 4] = struct.pack("<H", 4)  # as a LONG
            data[entry + 8 : entry + 12] = struct.pack("<I", 60_000)
    return bytes(data)


def _bmp() -> bytes:
    data = _encoded("BMP")
    data[18:26] = struct.pack("<ii", 60_000, 60_000)
    return bytes(data)


CLAIMS: dict[str, Callable[[], bytes]] = {
    "a.png": lambda: png(60_000, 60_000, 8, 2, b"\0" * 60_000),
    "b.jpg": _jpeg,
    "c.gif": _gif,
    "d.webp": _webp,
    "e.webp": _webp_canvas,
    "f.tif": _tiff,
    "g.bmp": _bmp,
}


@pytest.mark.parametrize("read", [read_picture, read_rgb8, image_size])
@pytest.mark.parametrize("name", CLAIMS)
def test_an_image_that_claims_gigapixels(
    name: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(CLAIMS[name]())
    with pytest.raises(DataError, match="image too large") as caught:
        read(path)
    assert "\n" not in str(caught.value)


# A whole process -----------------------------------------------------------------------------

GIGABYTE = 2**30
ALL = """
import sys
from pathlib import Path
from srtrain.cli.main import main
folder, good = Path(sys.argv[1]), sys.argv[2]
for path in sorted((folder / "weights").iterdir()):
    assert main(["infer", str(path), str(folder / "photo.png"), "-o", str(folder / "out")]) == 4
    assert main(["export", str(path), "--to", "safetensors", "-o", str(folder / "out")]) == 4
assert main(["infer", good, str(folder / "images"), "-o", str(folder / "out")]) == 3
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


def test_a_process_among_bombs_stays_small_and_says_a_line_each(tmp_path: Path) -> None:
    """Commands as users give them, in a process of their own that may have no more memory."""
    weights, pictures = tmp_path / "weights", tmp_path / "images"
    weights.mkdir()
    pictures.mkdir()
    for number, (make, _) in enumerate(BOMBS.values()):
        make(weights / f"{number}.ckpt")
    for name, make_image in CLAIMS.items():
        (pictures / name).write_bytes(make_image())
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    good = write_tiny(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", ALL, tmp_path, good],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (4 * GIGABYTE,) * 2),
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) * 1024 < GIGABYTE
    lines = [line for line in done.stderr.splitlines() if line]
    assert [
        it for it in lines if not it.startswith(("srtrain: error: ", "srtrain: failed: "))
    ] == []
    assert len(lines) == 2 * len(BOMBS) + len(CLAIMS)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
