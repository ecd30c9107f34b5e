"""Networks out of files: our own, other people's, and files that are no such thing."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spandrel.architectures
import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.DnCNN import DnCNN
from torch import Tensor, nn

from srtrain.errors import StorageError
from srtrain.networks.build import build_generator
from srtrain.networks.generator import Generator
from srtrain.networks.loading import SPECIAL_CALLS, load_generator, read_state, unwrap
from srtrain.networks.spec import Spec
from srtrain.networks.storage import write_checkpoint

OWN: Spec = {
    "_target_": "srtrain.networks.edsr.EDSR",
    "kwargs": {"scale": 2, "num_features": 8, "num_blocks": 1},
}
Wrap = Callable[[dict[str, Tensor]], object]


def fresh(spec: Spec = OWN, *, scale: int = 2) -> Generator:
    torch.manual_seed(1)
    return build_generator(spec, scale=scale)


def compact() -> Compact:
    torch.manual_seed(1)
    return Compact(num_feat=8, num_conv=2, upscale=2)


def save_own(path: Path, generator: Generator) -> None:
    content: dict[str, Any] = {
        "generator": dict(generator.spec),
        "scale": generator.scale,
        "step": 7,
        "state_dict": generator.net.state_dict(),
    }
    path.parent.mkdir(exist_ok=True)
    write_checkpoint(path, content)


def prefixed(prefix: str) -> Wrap:
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()}


def other(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor + 1 for name, tensor in state.items()}


WRAPPERS: dict[str, Wrap] = {
    "bare": lambda state: state,
    "params": lambda state: {"params": state},
    "params_ema": lambda state: {"params": other(state), "params_ema": state},
    "net_g": lambda state: {"iter": 3, "net_g": state},
    "net_g.": prefixed("net_g."),
    "module.": prefixed("module."),
    "_orig_mod.": prefixed("_orig_mod."),
    "module._orig_mod.": prefixed("module._orig_mod."),
    "generator.net.": lambda state: {"state_dict": prefixed("generator.net.")(state)},
    "lightning": lambda state: {
        "epoch": 1,
        "optimizer_states": [{"state": {}}],
        "state_dict": {
            **{f"generator._orig_mod.{name}": tensor for name, tensor in state.items()},
            "discriminator.conv.weight": torch.zeros(1),
            "loss.features.weight": torch.zeros(2),
        },
    },
    "nested": lambda state: {"model": {"state_dict": {"params": state}}},
    "with counters": lambda state: {**state, "step": 3},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_load_identically(wrapper: str, tmp_path: Path) -> None:
    net = compact().eval()
    path = tmp_path / "model.pth"
    torch.save(WRAPPERS[wrapper](net.state_dict()), path)
    generator = load_generator(path)
    lr = torch.rand(1, 3, 7, 5)
    with torch.no_grad():
        assert torch.equal(generator(lr), net(lr))
    assert generator.scale == 2
    assert not generator.training
    assert list(read_state(path)) == list(net.state_dict())


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth", "model.pt", "model.ckpt"])
def test_community_files_of_every_suffix(name: str, tmp_path: Path) -> None:
    net = compact().eval()
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(net.state_dict(), path)
    else:
        legacy = path.suffix == ".pt"
        torch.save(net.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    generator = load_generator(path)
    assert generator.spec == {
        "_target_": "spandrel.architectures.Compact.Compact",
        "kwargs": {"num_feat": 8, "num_conv": 2, "upscale": 2},
    }
    lr = torch.rand(1, 3, 6, 6)
    with torch.no_grad():
        assert torch.equal(generator(lr), net(lr))


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_file({name: tensor.half() for name, tensor in compact().state_dict().items()}, path)
    assert load_generator(path)(torch.rand(1, 3, 6, 6)).dtype == torch.float32


def test_numbered_names_of_old_esrgan_files_are_kept() -> None:
    state = {"model.0.weight": torch.zeros(1), "model.1.sub.0.weight": torch.zeros(1)}
    assert unwrap(state, Path("old.pth")) == state


@pytest.mark.parametrize("given", ["file", "pointer", "folder"])
def test_own_checkpoint_however_it_is_named(given: str, tmp_path: Path) -> None:
    generator = fresh()
    file = tmp_path / "checkpoints" / "step-000007.ckpt"
    save_own(file, generator)
    path = {"file": file, "pointer": file.parent / "last", "folder": tmp_path}[given]
    loaded = load_generator(path)
    lr = torch.rand(1, 3, 7, 5)
    with torch.no_grad():
        assert torch.equal(loaded(lr), generator(lr))
    assert (loaded.spec, loaded.scale, loaded.training) == (OWN, 2, False)


def test_own_checkpoint_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab_nets.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 3, 3, padding=1)\n"
        "    def forward(self, lr): return self.conv(lr)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    spec: Spec = {"_target_": "lab_nets.Net", "kwargs": {}}
    path = tmp_path / "step-000007.ckpt"
    save_own(path, build_generator(spec, scale=1, trust=("lab_nets",)))
    with pytest.raises(StorageError, match=r"lab_nets\.Net.*--trust lab_nets"):
        load_generator(path)
    assert load_generator(path, trust=("lab_nets",)).spec == spec


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"generator": {"_target_": "os.system", "kwargs": {}}}, "--trust os"),
        ({"generator": {"_target_": OWN["_target_"], "kwargs": {"scale": 9}}}, "scale = 9"),
        ({"generator": {"_target_": OWN["_target_"]}}, "cannot be rebuilt"),
        ({"generator": None}, "cannot be rebuilt"),
        ({"state_dict": {}}, "cannot be rebuilt: Error"),
        ({"format": 2}, "checkpoint format 2"),
    ],
)
def test_own_checkpoint_that_cannot_be_rebuilt(
    change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "step-000007.ckpt"
    save_own(path, fresh())
    content = torch.load(path, weights_only=True)
    torch.save({**content, **change}, path)
    with pytest.raises(StorageError, match=told):
        load_generator(path)


class Evil:
    """Runs a command when unpickled by a reader that lets it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["evil.ckpt", "evil.pth", "evil.safetensors"])
def test_malicious_pickles_are_not_run(name: str, zipped: bool, tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / name
    content = {"params": {"weight": torch.zeros(1)}, "payload": Evil(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    told = "damaged" if path.suffix == ".safetensors" else "unsafe"
    with pytest.raises(StorageError, match=told):
        load_generator(path)
    path.write_bytes(pickle.dumps(content["payload"], protocol=2))
    with pytest.raises(StorageError):
        load_generator(path)
    assert not marker.exists()


FILES: dict[str, tuple[bytes, str]] = {
    "pointer.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-LFS"),
    "pointer.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid\n", "git-LFS"),
    "page.pth": (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
    "page.safetensors": (b"\n <html>", "HTML"),
    "empty.ckpt": (b"", "empty file"),
    "text.pth": (b"these are not the weights you are looking for", "unsafe|damaged"),
    "header.safetensors": (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "damaged"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_hold_no_weights_are_named(name: str, tmp_path: Path) -> None:
    content, told = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(StorageError, match=told) as error:
        load_generator(path)
    assert str(path) in str(error.value)
    assert error.value.exit_code == 4


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_files(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    if suffix == ".pth":
        torch.save(compact().state_dict(), path)
    else:
        save_file(compact().state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(StorageError, match="truncated or damaged"):
        load_generator(path)


def gray() -> nn.Module:
    return Compact(num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=2, upscale=2)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, "no network weights"),
        ([1, 2], "no network weights"),
        ({"epoch": 3, "params": {}}, "no network weights"),
        ({"strange.weight": torch.zeros(3)}, "spandrel knows no architecture"),
        (gray().state_dict(), "from 1 to 1 channels"),
        (DnCNN(nc=8, nb=4).state_dict(), "no network from an LR image alone"),
        (
            {**compact().state_dict(), "body.2.weight": torch.zeros(3, 3)},
            "do not fit the architecture",
        ),
    ],
)
def test_community_files_of_no_use(content: object, told: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(content, path)
    with pytest.raises(StorageError, match=told):
        load_generator(path)


def test_special_calls_are_all_known() -> None:
    """Spandrel's own sources say which of its models are not called as ``net(image)``."""
    folder = Path(next(iter(spandrel.architectures.__path__)))
    sources = [path for path in folder.glob("*/__init__.py") if "call_fn" in path.read_text()]
    assert {path.parent.name for path in sources} == SPECIAL_CALLS


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_published_model(shared: Path, scale: int) -> None:
    path = shared / "models" / f"DCTLSA_x{scale}.safetensors"
    if not path.exists():
        pytest.skip("published model not found")
    generator = load_generator(path)
    assert generator.scale == scale
    assert generator.spec["_target_"] == "spandrel.architectures.DCTLSA.DCTLSA"
    lr = torch.rand(1, 3, 13, 21)
    descriptor = spandrel.ModelLoader().load_from_file(path)
    with torch.no_grad():
        expected = descriptor(lr.clone())
        torch.testing.assert_close(generator(lr).clamp(0, 1), expected)
    rebuilt = build_generator(generator.spec, scale=scale)
    rebuilt.net.load_state_dict(generator.net.state_dict())
