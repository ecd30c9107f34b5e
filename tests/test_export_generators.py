"""Every generator: ten steps from its own exported file, exported again, and opened elsewhere.

``pytest -m slow -rP tests/test_export_generators.py | grep '^| '`` is the table of what came out.
"""

from __future__ import annotations

import faulthandler
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import spandrel
import torch

from srtrain.cli.main import main
from srtrain.inference.export.child import attempt
from srtrain.inference.export.program import EXPORTERS, attempted
from srtrain.networks.exported import packed
from srtrain.networks.loading import load_generator
from srtrain.networks.traceable import traceable
from tests.test_export import run_onnx
from tests.test_generator_yamls import FOREIGN, NAMES, SMALL, build
from tests.training import draw_sets, train

if TYPE_CHECKING:
    from srtrain.inference.export.child import Report, Request
    from srtrain.networks.generator import Generator

# What no exporter has done, with the reason. Of grl_tiny both were tried; of the others not
# torch.export, which would take a minute each to find out what their code says.
NOT_ONNX = {
    "atd": "sorts tokens by category in groups whose number depends on the size, image by image",
    "atd_light": "as atd",
    "grl_tiny": "ends TorchScript's exporter by a segmentation fault; torch.export finds its"
    " sizes inconsistent",
    "seemore": "which layers run depends on the image",
}
LR = torch.rand(1, 3, 19, 26, generator=torch.Generator().manual_seed(5))

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning"),
    pytest.mark.filterwarnings("ignore:'saved_variables' is deprecated:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


def first_export(path: Path, generator: Generator) -> Path:
    about = {"generator": dict(generator.spec), "scale": generator.scale}
    path.write_bytes(packed(generator.net.state_dict(), about))
    return path


def as_onnx(source: Path, out: Path, exporter: str) -> Report:
    """What an exporter makes of the file, in a fork: it may crash."""
    request: Request = {
        "source": str(source),
        "trust": [],
        "exporter": exporter,
        "half": False,
        "about": {},
        "out": str(out),
    }
    return attempted(request, _forked)


def _forked(request: Request) -> int:
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        faulthandler.disable()  # an exporter that crashes is counted below, and needs no stack
        attempt(request)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("name", ["dat_light", "dctlsa", "rgt_small", "swin2sr_light"])
def test_what_traces_follow_computes_the_same(name: str) -> None:
    generator, lr = build(name, scale=2, small=True).eval(), torch.rand(2, 3, 19, 26)
    with torch.no_grad():
        expected = generator(lr)
        with traceable():
            assert torch.equal(generator(lr), expected)
        assert torch.equal(generator(lr), expected)


def test_seemore_enlarges_a_batch_as_it_does_single_images() -> None:
    generator, lr = build("seemore", scale=2, small=True).eval(), torch.rand(3, 3, 19, 26)
    with torch.no_grad():
        single = torch.cat([generator(image[None]) for image in lr])
        assert torch.equal(generator(lr), single)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_handed_over_after_ten_steps_from_its_own_file(
    name: str, images: Path, tmp_path: Path
) -> None:
    start = first_export(tmp_path / "start.safetensors", build(name, scale=2, small=True))
    small = [f"generator.{key}={value}" for key, value in SMALL[name].items()]
    steps = ["trainer.max_steps=10", "trainer.val_every_n_steps=10", "checkpoint.every_n_steps=10"]
    patches = ["data.hr_patch_size=32", "data.batch_size=2"]
    words = [f"generator={name}", *small, *steps, *patches, f"init_from.path={start}"]
    run = train(images, tmp_path / "run", *words)
    trained = load_generator(run.path)
    before = load_generator(start).net.parameters()
    pairs = zip(before, trained.net.parameters(), strict=True)
    assert sum(not torch.equal(*pair) for pair in pairs) > 1

    path = tmp_path / "model.safetensors"
    assert main(["export", str(run.path), "--to", "safetensors", "-o", str(path)]) == 0
    with torch.no_grad():
        expected = trained(LR)
        assert torch.equal(load_generator(path)(LR), expected)
        if name in FOREIGN:
            theirs = spandrel.ModelLoader().load_from_file(path)(LR)
            apart = (theirs - expected.clamp(0, 1)).abs().max().item()
            assert apart <= 1e-5
    opens = f"spandrel, {apart:.1g}" if name in FOREIGN else "srtrain, 0"

    out = tmp_path / "model.onnx"
    tried = ["torchscript"] if name in NOT_ONNX else EXPORTERS
    reports = [(it, as_onnx(path, out, it)) for it in tried if not out.exists()]
    exporter, last = reports[-1]
    made = last["agreement"] or NOT_ONNX.get(name)
    print(f"| {name} | {opens} | {exporter}: {made} |")  # noqa: T201 - a row of the table
    assert out.exists() == (name not in NOT_ONNX), reports
    if out.exists():
        torch.testing.assert_close(run_onnx(out)(LR), expected.clamp(0, 1), rtol=0, atol=1e-4)
