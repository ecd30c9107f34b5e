"""Handing a model over: what is written opens elsewhere and makes the same images."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import spandrel
import torch
from safetensors import safe_open

from srtrain.cli.main import main
from srtrain.files import sha256_of
from srtrain.inference.export import child, program
from srtrain.inference.export.agreement import agreement
from srtrain.inference.export.child import Request, attempt
from srtrain.inference.export.graph import LR, SR
from srtrain.networks.build import build_generator
from srtrain.networks.edsr import EDSRLite
from srtrain.networks.generator import Generator
from srtrain.networks.heads import GaussianHead, Quantiles
from srtrain.networks.image_only import image_only
from srtrain.networks.loading import Loaded, load, load_generator
from srtrain.networks.spec import Spec
from srtrain.networks.storage import write_checkpoint
from srtrain.networks.transfer import init_from

if TYPE_CHECKING:
    from torch import Tensor

LITE = Spec(
    _target_="srtrain.networks.edsr.EDSRLite",
    kwargs={"scale": 2, "num_features": 4, "num_blocks": 1},
)
COMPACT = Spec(
    _target_="spandrel.architectures.Compact.Compact",
    kwargs={"num_feat": 8, "num_conv": 2, "upscale": 2},
)


def fresh(spec: Spec, *, head: Spec | None = None, seed: int = 1) -> Generator:
    """Of random weights, also where a network starts at zeros: those would hide anything."""
    torch.manual_seed(seed)
    generator = build_generator(spec, scale=2, head=head)
    with torch.no_grad():
        for tensor in generator.net.parameters():
            tensor.add_(0.05 * torch.randn_like(tensor))
    return generator.eval()


def saved(path: Path, generator: Generator, **about: Any) -> Path:  # noqa: ANN401
    path.parent.mkdir(exist_ok=True)
    head = generator.head
    measured = {} if head is None else {"head": dict(head.spec), "calibration": head.calibration}
    content = {
        "generator": dict(generator.spec),
        "scale": generator.scale,
        "step": 7,
        "state_dict": generator.net.state_dict(),
        "experiment": "mse",
        "version": "0",
    }
    write_checkpoint(path, {**content, **measured, **about})
    return path


def export(checkpoint: Path, *words: str, code: int = 0) -> None:
    assert main(["export", str(checkpoint), *words]) == code


def images(generator: Callable[[Tensor], Tensor]) -> Tensor:
    with torch.no_grad():
        return generator(torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(3)))


def test_spandrel_opens_what_it_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = fresh(COMPACT)
    export(saved(tmp_path / "step-7.ckpt", generator), "--to", "safetensors", "-o", str(tmp_path))
    assert "all that use spandrel: chaiNNer, ComfyUI" in capsys.readouterr().out
    path = tmp_path / "mse_Compact_x2.safetensors"
    theirs = spandrel.ModelLoader().load_from_file(path)
    assert (theirs.architecture.name, theirs.scale) == ("RealESRGAN Compact", 2)
    assert torch.equal(images(theirs), images(generator).clamp(0, 1))
    assert torch.equal(images(load_generator(path)), images(generator))


def test_what_spandrel_does_not_know_opens_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator, path = fresh(LITE), tmp_path / "lite.safetensors"
    export(saved(tmp_path / "step-7.ckpt", generator), "--to", "safetensors", "-o", str(path))
    assert "not in chaiNNer or ComfyUI" in capsys.readouterr().out
    with pytest.raises(spandrel.UnsupportedModelError):
        spandrel.ModelLoader().load_from_file(path)
    loaded = load(path)
    assert torch.equal(images(loaded.generator), images(generator))
    assert loaded.generator.spec == LITE
    assert loaded.about["experiment"] == "mse"
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["srtrain"])["generator"] == LITE


@pytest.mark.parametrize("head", [GaussianHead(), Quantiles(taus=(0.05, 0.25, 0.5, 0.95))])
@pytest.mark.parametrize("name", ["EDSRLite", "EDSR", "SRResNet"])
def test_of_a_head_the_image_is_exported(
    name: str, head: GaussianHead | Quantiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = fresh({**LITE, "_target_": f"srtrain.networks.edsr.{name}"}, head=head.spec)
    torch.testing.assert_close(images(image_only(generator)), images(generator))
    path = tmp_path / "image.safetensors"
    export(saved(tmp_path / "step-7.ckpt", generator), "--to", "safetensors", "-o", str(path))
    assert "the image alone is exported; bands stay" in capsys.readouterr().err
    exported = load_generator(path)
    assert exported.head is None
    torch.testing.assert_close(images(exported), images(generator))


@pytest.mark.parametrize("half", [False, True])
def test_fp16_weights_are_half_as_large_and_said_to_differ(
    half: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator, words = fresh(LITE), ["--precision", "fp16"] if half else []
    export(
        saved(tmp_path / "step-7.ckpt", generator),
        "--to",
        "safetensors",
        "-o",
        str(tmp_path),
        *words,
    )
    name = "mse_EDSRLite_x2_fp16" if half else "mse_EDSRLite_x2"
    exported = load_generator(tmp_path / f"{name}.safetensors")
    apart = (images(exported) - images(generator)).abs().max()
    assert 0 < apart < 0.01 if half else apart == 0
    assert ("rounded to fp16 move the image by" in capsys.readouterr().out) == half


def test_what_training_starts_from(tmp_path: Path) -> None:
    """init_from takes the file, and what a file of fp16 holds becomes float again."""
    generator, target = fresh(LITE), build_generator(LITE, scale=2)
    export(saved(tmp_path / "step-7.ckpt", generator), "--to", "safetensors", "-o", str(tmp_path))
    report = init_from(target, tmp_path / "mse_EDSRLite_x2.safetensors", partial=False)
    assert report.complete
    assert torch.equal(images(target.eval()), images(generator))


# ONNX ----------------------------------------------------------------------------------------


def request(source: Path, out: Path, *, half: bool = False) -> Request:
    about = {"srtrain_scale": "2"}
    return Request(
        source=str(source), trust=[], exporter="torchscript", half=half, about=about, out=str(out)
    )


def forked(asked: Request, *, prepare: Callable[[], None] = lambda: None) -> int:
    pid = os.fork()
    if pid == 0:
        prepare()
        attempt(asked)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def crash() -> None:
    """As exporters do, but for the core and pytest's traceback."""
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)


def run_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    return lambda lr: torch.from_numpy(session.run([SR], {LR: lr.numpy()})[0])


NETWORKS = {
    "any size": (COMPACT, {}),
    "bicubic": (LITE, {}),
    "a multiple": (COMPACT, {"multiple_of": 8}),
    "a minimum": (COMPACT, {"min_size": 16, "multiple_of": 3}),
}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_makes_the_same_images_at_any_size(
    name: str, half: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, needs = NETWORKS[name]
    generator, out = fresh(spec), tmp_path / "model.onnx"
    for key, value in needs.items():
        setattr(generator, key, value)
    source = saved(tmp_path / "step-7.ckpt", generator)
    monkeypatch.setattr(child, "load", lambda *_, **__: Loaded(generator, source, {}))
    assert forked(request(source, out, half=half)) == 0
    report = json.loads(child.report_of(out).read_text())
    assert report["failed"] == ""
    run = run_onnx(out)
    for shape in [(1, 3, 1, 1), (3, 3, 8, 11), (1, 3, 40, 17)]:
        lr = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = generator(lr).clamp(0, 1)
        torch.testing.assert_close(run(lr), expected, rtol=0, atol=2e-2 if half else 1e-5)


def test_the_command_makes_and_checks_it_in_a_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx")
    generator, path = fresh(COMPACT), tmp_path / "net.onnx"
    export(saved(tmp_path / "step-7.ckpt", generator), "--to", "onnx", "-o", str(path))
    assert "opset 17, fp32; lr → sr" in capsys.readouterr().out
    assert agreement(lambda lr: generator(lr).clamp(0, 1), run_onnx(path)).within(1e-5)
    said = {it.key: it.value for it in onnx.load(path).metadata_props}
    assert said["srtrain_architecture"] == "Compact"
    assert said["srtrain_scale"] == "2"
    assert sorted(it.name for it in tmp_path.glob("net.*")) == ["net.md", "net.onnx"]


def test_a_file_that_makes_other_images_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = saved(tmp_path / "step-7.ckpt", fresh(COMPACT)), tmp_path / "model.onnx"
    exported = child._exported

    def wrong(generator: Generator, *given: Any) -> object:  # noqa: ANN401
        return exported(fresh(COMPACT, seed=2), *given)

    monkeypatch.setattr(child, "_exported", wrong)
    forked(request(source, out))
    assert "differs by" in json.loads(child.report_of(out).read_text())["failed"]
    assert not out.exists()


class Trusted(EDSRLite):
    """A network of someone else's package."""


def test_a_head_on_a_network_of_a_trusted_package(tmp_path: Path) -> None:
    spec, out = Spec(_target_=f"{__name__}.Trusted", kwargs=LITE["kwargs"]), tmp_path / "model.onnx"
    torch.manual_seed(1)
    generator = build_generator(spec, scale=2, head=GaussianHead().spec, trust=["tests"]).eval()
    source = saved(tmp_path / "step-7.ckpt", generator)
    assert forked({**request(source, out), "trust": ["tests"]}) == 0
    assert json.loads(child.report_of(out).read_text())["failed"] == ""


class Halves(EDSRLite):
    """Of a large image it makes another one than traces of a small image say."""

    above = 256

    def forward(self, lr: Tensor) -> Tensor:
        sr = super().forward(lr)
        return sr / 2 if lr.shape[-1] > self.above else sr


class Asks(Halves):
    """It would do so with images that nobody tries."""

    above = 10_000


@pytest.mark.parametrize("network", [Halves, Asks])
def test_where_the_tracer_warns_a_large_image_is_tried(
    network: type[Halves], tmp_path: Path
) -> None:
    spec, out = Spec(_target_=f"{__name__}.{network.__name__}", kwargs=LITE["kwargs"]), "net.onnx"
    source = saved(tmp_path / "step-7.ckpt", build_generator(spec, scale=2, trust=["tests"]))
    asked = request(source, tmp_path / out)
    assert forked({**asked, "trust": ["tests"]}) == 0
    report = json.loads(child.report_of(tmp_path / out).read_text())
    assert report["frozen"] > 0
    if network is Halves:
        assert report["failed"].startswith("differs by")
    else:
        assert report["failed"] == ""
        assert report["agreement"].endswith("67×19, 16×293")


AGREEMENTS = {  # added to an image of 0.5, before and after clamping to [0, 1]
    "nothing": (lambda lr: 0 * lr, True),
    "little": (lambda lr: 1e-6 + 0 * lr, True),
    "much": (lambda lr: 1e-3 + 0 * lr, False),
    "beyond white": (lambda lr: 100 + 0 * lr, False),
    "no number": (lambda lr: lr / 0 * 0, False),
    "another size": (lambda lr: lr[..., :-1], False),
}


@pytest.mark.parametrize("largest", [1.0, 200.0])
@pytest.mark.parametrize("case", AGREEMENTS)
def test_agreement_is_of_images_in_0_1(case: str, largest: float) -> None:
    """However large one value is elsewhere; golden: by hand."""
    error, agrees = AGREEMENTS[case]

    def expected(lr: Tensor) -> Tensor:
        return torch.full_like(lr, 0.5).index_fill(-1, torch.tensor([0]), largest)

    def found(lr: Tensor) -> Tensor:
        added = error(lr)
        return expected(lr)[..., : added.shape[-1]] + added

    assert agreement(expected, found).within(1e-4) == agrees


@pytest.mark.parametrize("crashes", [1, 2])
def test_an_exporter_that_crashes_is_reported(
    crashes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By signal 11, as torch.export's does on SPAN; the other one then makes the file."""
    left = crashes

    def crashing(asked: Request) -> int:
        nonlocal left
        left -= 1
        if left >= 0:
            return forked(asked, prepare=crash)
        return forked({**asked, "exporter": "torchscript"})

    monkeypatch.setattr(program, "_in_a_process", crashing)
    path = tmp_path / "net.onnx"
    checkpoint = saved(tmp_path / "step-7.ckpt", fresh(COMPACT))
    export(checkpoint, "--to", "onnx", "-o", str(path), code=0 if crashes == 1 else 4)
    said = capsys.readouterr().err
    assert said.count("the exporter crashed: signal SIGSEGV") == crashes
    assert path.exists() == (crashes == 1)
    assert ("made by torch.export's exporter" in said) == (crashes == 1)
    assert said.count("\n") == 1


# What is refused -----------------------------------------------------------------------------


REFUSED: dict[str, tuple[list[str], int, str]] = {
    "another suffix": (["--to", "onnx", "-o", "x.safetensors"], 2, "writes .onnx files"),
    "it exists": (["--to", "safetensors", "-o", "there.safetensors"], 2, "the output exists"),
    "a folder has it": (["--to", "safetensors", "-o", "full"], 2, "the output exists"),
    "another card": (["--to", "safetensors", "-o", "card.safetensors"], 2, "no card of this model"),
    "below a file": (["--to", "safetensors", "-o", "there.safetensors/x/y.safetensors"], 4, "made"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_outputs_are_never_replaced_by_accident(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("there.safetensors", "full/mse_Compact_x2.safetensors", "card.md"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("precious")
    words, code, told = REFUSED[case]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    export(saved(tmp_path / "c" / "step-7.ckpt", fresh(COMPACT)), *words, code=code)
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path: text for path, text in after.items() if path.parent.name != "c"} == before
    if code == 2:
        export(
            tmp_path / "c" / "step-7.ckpt", *words, "--overwrite", code=2 if "suffix" in case else 0
        )


def test_onnx_wants_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "PACKAGES", ("onnx", "no_such_package"))
    export(tmp_path / "absent.ckpt", "--to", "onnx", code=2)
    assert "ONNX needs no_such_package · --to onnx · pip install" in capsys.readouterr().err


# The card ------------------------------------------------------------------------------------

REACHED: dict[str, Any] = {
    "config": {
        "data": {"train": "/home/user/secret/photos", "batch_size": 4, "hr_patch_size": 48},
        "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.001},
    },
    "data": {"train": "0123456789abcdef0123", "val": {}},
    "protocol": {"version": 1, "border": 2},
    "reached": {
        "val": {"Set5": {"psnr_y": 36.123456, "bias": None}},
        "val_step": 5,
        "bicubic": {"Set5": {"psnr_y": 33.66}},
        "loss": {"weights": {"pixel": 1.0, "perceptual": 0.0099}, "features": {"perceptual": "x"}},
        "seconds": 12.0,
    },
}
ON_THE_CARD = [
    "| architecture | EDSRLite, 852 parameters (`srtrain.networks.edsr.EDSRLite(scale=2,",
    "| training | experiment mse, 7 steps, by srtrain 0 |",
    "| training data | `photos` (digest 0123456789abcdef); batches of 4 patches of 48 pixels |",
    "| loss | 1 pixel + 0.0099 perceptual (features perceptual: x) |",
    "| optimizer | Adam(lr=0.001) |",
    "| Set5 | bicubic | 33.66 | – |",
    "| Set5 | SR | 36.12 | – |",
    "Measured at step 5; the weights are of step 7.",
    "- border: 2",
]


def test_the_card_tells_what_the_checkpoint_knows(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "step-7.ckpt", fresh(LITE), **REACHED)
    words = ["--to", "safetensors", "-o", str(tmp_path / "a.safetensors")]
    export(checkpoint, *words, "--licence", "CC BY 4.0")
    card = (tmp_path / "a.md").read_text()
    assert [line for line in ON_THE_CARD if line not in card] == []
    assert "| licence | CC BY 4.0 |" in card
    assert sha256_of(checkpoint) in card
    assert sha256_of(tmp_path / "a.safetensors") in card
    assert "secret" not in card, "a path is nobody's business"


def test_of_a_community_file_little_is_known(tmp_path: Path) -> None:
    path = tmp_path / "theirs.pth"
    torch.save({"params_ema": fresh(COMPACT).net.state_dict()}, path)
    export(path, "--to", "safetensors", "-o", str(tmp_path))
    card = (tmp_path / "theirs.md").read_text()
    assert "unknown: not a checkpoint of srtrain" in card
    assert torch.equal(
        images(load_generator(tmp_path / "theirs.safetensors")), images(fresh(COMPACT))
    )
