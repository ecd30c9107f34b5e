"""Starting from weights: what is copied, what is refused, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from srtrain.errors import StorageError
from srtrain.networks.build import build_discriminator, build_generator
from srtrain.networks.discriminator import Discriminator
from srtrain.networks.generator import Generator
from srtrain.networks.spec import Spec
from srtrain.networks.storage import write_checkpoint
from srtrain.networks.transfer import Transfer, discriminator_from, init_from

State = dict[str, Tensor]


GAUSSIAN: Spec = {"_target_": "srtrain.networks.heads.GaussianHead", "kwargs": {}}


def edsr(
    scale: int, *, seed: int, num_blocks: int = 4, name: str = "EDSR", head: Spec | None = None
) -> Generator:
    torch.manual_seed(seed)
    kwargs = {"scale": scale, "num_features": 8, "num_blocks": num_blocks}
    target = f"srtrain.networks.edsr.{name}"
    return build_generator({"_target_": target, "kwargs": kwargs}, scale=scale, head=head)


def save(path: Path, generator: Generator) -> Path:
    spec, state = dict(generator.spec), generator.net.state_dict()
    write_checkpoint(
        path, {"generator": spec, "scale": generator.scale, "step": 1, "state_dict": state}
    )
    return path


def state_of(generator: Generator) -> State:
    return {name: tensor.clone() for name, tensor in generator.net.state_dict().items()}


def test_x4_starts_from_x2(tmp_path: Path) -> None:
    x2, x4 = edsr(2, seed=1), edsr(4, seed=2)
    before = state_of(x4)
    report = init_from(x4, save(tmp_path / "step-1.ckpt", x2), partial=True)
    assert report.missing == ("upsample.2.weight", "upsample.2.bias")
    assert report.unexpected == report.other_shape == ()
    after, source = x4.net.state_dict(), x2.net.state_dict()
    assert all(torch.equal(after[name], source[name]) for name in report.copied)
    assert all(torch.equal(after[name], before[name]) for name in report.missing)
    assert len(report.copied) == len(source) == report.total - 2
    assert str(report) == (
        "24 of 26 tensors copied; 2 missing in the file: upsample.2.weight, upsample.2.bias"
    )


@pytest.mark.parametrize(("name", "last"), [("EDSR", "conv_last"), ("EDSRLite", "tail")])
def test_a_head_starts_from_an_image(name: str, last: str, tmp_path: Path) -> None:
    """The rows that make the image move over; those of the widths stay fresh."""
    source, target = edsr(2, seed=1, name=name), edsr(2, seed=2, name=name, head=GAUSSIAN)
    before = state_of(target)
    path = save(tmp_path / "step-1.ckpt", source)
    with pytest.raises(StorageError, match=rf"leading rows.*: {last}\.weight, {last}\.bias"):
        init_from(target, path, partial=False)
    report = init_from(target, path, partial=True)
    assert report.led == (f"{last}.weight", f"{last}.bias")
    total = len(before)
    assert str(report) == (
        f"{total - 2} of {total} tensors copied;"
        f" 2 in their leading rows, for the head's image: {last}.weight, {last}.bias"
    )
    after = state_of(target)
    rows = len(after[f"{last}.bias"]) // 2
    assert torch.equal(after[f"{last}.weight"][rows:], before[f"{last}.weight"][rows:])
    lr = torch.rand(1, 3, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(target(lr), source(lr), rtol=0, atol=1e-6)


def test_rows_of_another_scale_are_no_image(tmp_path: Path) -> None:
    """EDSRLite's tail has 12 rows for x2, and 96 for two maps of x4: eight times as many."""
    source, target = (
        edsr(2, seed=1, name="EDSRLite"),
        edsr(4, seed=2, name="EDSRLite", head=GAUSSIAN),
    )
    report = init_from(target, save(tmp_path / "step-1.ckpt", source), partial=True)
    assert report.led == ()
    assert report.other_shape == ("tail.weight", "tail.bias")


def test_x4_from_x2_keeps_the_body_s_features(tmp_path: Path) -> None:
    """EDSRLite's tail has other shapes per scale; head and body do the work, and move over."""
    x2, x4 = edsr(2, seed=1, name="EDSRLite"), edsr(4, seed=2, name="EDSRLite")
    report = init_from(x4, save(tmp_path / "step-1.ckpt", x2), partial=True)
    assert report.other_shape == ("tail.weight", "tail.bias")
    features = torch.rand(1, 8, 6, 6)
    with torch.no_grad():
        ours, theirs = x4.net.get_submodule("body"), x2.net.get_submodule("body")
        assert torch.equal(ours(features), theirs(features))


def test_the_same_network_is_copied_whole(tmp_path: Path) -> None:
    source, target = edsr(2, seed=1), edsr(2, seed=2)
    report = init_from(target, save(tmp_path / "step-1.ckpt", source), partial=False)
    assert report.complete
    assert str(report) == "24 of 24 tensors copied"
    lr = torch.rand(1, 3, 5, 5)
    with torch.no_grad():
        assert torch.equal(target(lr), source(lr))
    assert all(parameter.requires_grad for parameter in target.parameters())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"params": state},
        lambda state: {"params_ema": state},
        lambda state: {f"net_g.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"_orig_mod.{name}": tensor.double() for name, tensor in state.items()},
    ],
)
def test_community_files_are_unwrapped(wrap: Callable[[State], object], tmp_path: Path) -> None:
    source, target = edsr(2, seed=1), edsr(2, seed=2)
    torch.save(wrap(source.net.state_dict()), tmp_path / "edsr.pth")
    assert init_from(target, tmp_path / "edsr.pth", partial=False).complete
    assert all(map(torch.equal, state_of(target).values(), state_of(source).values()))


def test_rrdb_files_of_the_new_spelling_fit(tmp_path: Path) -> None:
    """BasicSR writes ``conv_first``, ``body.0.rdb1.conv1``; spandrel's class has ``model.0``."""
    kwargs = {"scale": 4, "num_filters": 8, "num_blocks": 1}
    target = build_generator(
        {"_target_": "spandrel.architectures.ESRGAN.ESRGAN", "kwargs": kwargs}, scale=4
    )
    torch.manual_seed(3)
    convs = {"conv_first": (8, 3), "conv_body": (8, 8), "conv_up1": (8, 8), "conv_up2": (8, 8)}
    convs |= {"conv_hr": (8, 8), "conv_last": (3, 8)}
    for block in (1, 2, 3):
        for number in range(1, 6):
            out = 8 if number == 5 else 32
            convs[f"body.0.rdb{block}.conv{number}"] = (out, 8 + 32 * (number - 1))
    state = {f"{name}.weight": torch.randn(*shape, 3, 3) for name, shape in convs.items()}
    state |= {f"{name}.bias": torch.randn(shape[0]) for name, shape in convs.items()}
    save_file(state, tmp_path / "rrdb.safetensors")
    assert init_from(target, tmp_path / "rrdb.safetensors", partial=False).complete
    ours = target.net.state_dict()
    assert torch.equal(ours["model.0.weight"], state["conv_first.weight"])
    assert sum(tensor.sum() for tensor in ours.values()) == pytest.approx(
        sum(float(tensor.sum()) for tensor in state.values()), rel=1e-3
    )


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (edsr(2, seed=1), "2 missing in the file: upsample.2.weight, upsample.2.bias"),
        (edsr(4, seed=1, num_blocks=5), "4 unknown to the generator: body.4.conv1.weight"),
        (edsr(3, seed=1), "2 of another shape: upsample.0.weight, upsample.0.bias"),
    ],
)
def test_a_part_is_refused_unless_asked_for(source: Generator, told: str, tmp_path: Path) -> None:
    target = edsr(4, seed=2)
    before = state_of(target)
    path = save(tmp_path / "step-1.ckpt", source)
    with pytest.raises(StorageError, match=told) as error:
        init_from(target, path, partial=False)
    assert error.value.exit_code == 4
    assert "init_from.partial=true" in error.value.fix
    assert all(map(torch.equal, state_of(target).values(), before.values()))
    init_from(target, path, partial=True)


@pytest.mark.parametrize("partial", [True, False])
def test_less_than_half_is_always_refused(partial: bool, tmp_path: Path) -> None:
    target = edsr(2, seed=2, num_blocks=16)  # 72 tensors, of which the file has 24
    before = state_of(target)
    path = save(tmp_path / "step-1.ckpt", edsr(2, seed=1))
    with pytest.raises(StorageError, match=r"less than half.*24 of 72.*48 missing") as error:
        init_from(target, path, partial=partial)
    shown = str(error.value)
    assert "body.5.conv1.weight, …" in shown  # the fifth: body.4 has four
    assert "body.6" not in shown
    assert all(map(torch.equal, state_of(target).values(), before.values()))


def test_exactly_half_is_enough(tmp_path: Path) -> None:
    target = edsr(2, seed=2)
    state = state_of(edsr(2, seed=1))
    torch.save({name: state[name] for name in list(state)[:12]}, tmp_path / "half.pth")
    assert len(init_from(target, tmp_path / "half.pth", partial=True).copied) == 12
    torch.save({name: state[name] for name in list(state)[:11]}, tmp_path / "less.pth")
    with pytest.raises(StorageError, match="less than half"):
        init_from(target, tmp_path / "less.pth", partial=True)


def test_a_published_model_starts_another_scale(shared: Path) -> None:
    path = shared / "models" / "DCTLSA_x2.safetensors"
    if not path.exists():
        pytest.skip("published model not found")
    target = build_generator(
        {"_target_": "spandrel.architectures.DCTLSA.DCTLSA", "kwargs": {"upscale": 4}}, scale=4
    )
    with pytest.raises(StorageError, match=r"init_from\.partial=true"):
        init_from(target, path, partial=False)
    report = init_from(target, path, partial=True)
    assert len(report.copied) > 0.95 * report.total


def judge(*, seed: int, base_channels: int = 2) -> Discriminator:
    torch.manual_seed(seed)
    target = "srtrain.networks.discriminators.patchgan.PatchGAN"
    kwargs = {"n_layers": 1, "base_channels": base_channels}
    return build_discriminator({"_target_": target, "kwargs": kwargs})


def kept_judge(path: Path, saved: Discriminator, **train_state: object) -> Path:
    generator = edsr(2, seed=1)
    content = {"generator": dict(generator.spec), "scale": 2, "step": 1}
    content |= {"state_dict": generator.net.state_dict(), "discriminator": dict(saved.spec)}
    write_checkpoint(path, content | train_state)
    return path


def test_a_discriminator_goes_on(tmp_path: Path) -> None:
    source, target = judge(seed=1), judge(seed=2)
    state = {f"discriminator.net.{k}": v for k, v in source.net.state_dict().items()}
    path = kept_judge(tmp_path / "a.ckpt", source, train_state={"state_dict": state})
    assert not target.trained
    said = f"the discriminator goes on: {len(state)} tensors copied"
    assert discriminator_from(target, path) == said
    assert target.trained
    assert all(map(torch.equal, target.net.state_dict().values(), source.net.state_dict().values()))


@pytest.mark.parametrize(
    ("base_channels", "train_state", "said"),
    [
        (2, {}, "afresh: the file holds the generator's weights alone"),
        (2, {"train_state": {"state_dict": {}}}, "afresh: the file holds the generator's"),
        (4, {}, "afresh: the file's is PatchGAN with base_channels=4, not 2"),
    ],
)
def test_a_discriminator_starts_afresh(
    base_channels: int, train_state: dict[str, object], said: str, tmp_path: Path
) -> None:
    target = judge(seed=2)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    path = kept_judge(
        tmp_path / "a.ckpt", judge(seed=1, base_channels=base_channels), **train_state
    )
    assert said in discriminator_from(target, path)
    assert not target.trained
    assert all(map(torch.equal, target.state_dict().values(), before.values()))


def test_the_report_shows_five_of_a_kind() -> None:
    names = tuple("abcdefg")
    report = Transfer(copied=names, missing=names, unexpected=(), other_shape=("x",))
    assert str(report) == (
        "7 of 15 tensors copied; 7 missing in the file: a, b, c, d, e, …; 1 of another shape: x"
    )
