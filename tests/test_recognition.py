"""Weights that do not fit are told whose they are, in words that choose that network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from srtrain.cli.build import generator_options, make_generator
from srtrain.cli.main import main
from srtrain.config.preflight import prepare
from srtrain.errors import StorageError
from srtrain.networks.build import build_generator
from srtrain.networks.recognition import looks_like
from srtrain.networks.spec import Spec
from srtrain.networks.transfer import init_from
from tests.test_transfer import GAUSSIAN, edsr, save
from tests.training import draw_sets, words

LOOKS = "these look like "


def _file(path: Path, option: str, scale: int, **changes: object) -> Path:
    """A community file of that option's network, with some arguments of its own."""
    spec = generator_options(scale)[option]
    own = Spec(_target_=spec["_target_"], kwargs={**spec["kwargs"], **changes})
    torch.save({"params_ema": build_generator(own, scale=scale).net.state_dict()}, path)
    return path


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@pytest.mark.parametrize(
    ("option", "scale", "name"),
    [
        ("compact", 4, "Compact"),
        ("plksr_tiny", 2, "PLKSR"),
        ("safmn", 4, "SAFMN"),
        ("safmn_large", 2, "SAFMN"),
        ("span", 3, "SPAN"),
        ("swinir_light", 2, "SwinIR"),
    ],
)
def test_published_files_are_known(option: str, scale: int, name: str, tmp_path: Path) -> None:
    path = _file(tmp_path / "x.pth", option, scale)
    said = f"{LOOKS}{name} ×{scale}: generator={option} scale={scale}"
    assert looks_like(path, generator_options) == said


@pytest.mark.parametrize("partial", [False, True])
def test_the_words_choose_a_network_that_fits(partial: bool, tmp_path: Path) -> None:
    path = _file(tmp_path / "x.pth", "rrdb", 4, num_filters=8, num_blocks=2)
    with pytest.raises(StorageError, match="less than half") as error:
        init_from(edsr(2, seed=1), path, partial=partial, options=generator_options)
    said = error.value.fix.partition(LOOKS)[2]
    name, _, chosen = said.partition(": ")
    assert name == "ESRGAN ×4"
    assert chosen.split()[:2] == ["generator=rrdb", "scale=4"]
    generator = make_generator(prepare(["experiment=mse", *chosen.split()]).config)
    assert init_from(generator, path, partial=False).complete


def test_a_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _file(tmp_path / "x.pth", "compact", 4, num_feat=8, num_conv=2)
    asked = words(draw_sets(tmp_path), tmp_path / "run", f"init_from={path}")
    assert main(["experiment=mse", *asked]) == 4
    arguments = "generator.num_feat=8 generator.num_conv=2"
    assert f"{LOOKS}Compact ×4: generator=compact scale=4 {arguments}" in capsys.readouterr().err


def test_own_checkpoints_name_their_network(tmp_path: Path) -> None:
    """Also one with a head: the option sets its channels."""
    path = save(tmp_path / "step-1.ckpt", edsr(2, seed=1, name="EDSRLite", head=GAUSSIAN))
    with pytest.raises(StorageError, match="only in part") as error:
        init_from(edsr(4, seed=2, name="EDSRLite"), path, partial=False, options=generator_options)
    fits = "generator=edsr_lite scale=2 generator.num_features=8"
    partly = "init_from.partial=true trains the rest from its fresh weights"
    assert error.value.fix == f"{partly}; {LOOKS}EDSRLite ×2: {fits}"


def test_what_has_no_option_or_no_name(tmp_path: Path) -> None:
    path = _file(tmp_path / "x.pth", "compact", 4, num_feat=8, num_conv=2)
    target = "spandrel.architectures.Compact.Compact"
    assert looks_like(path, lambda _: {}) == f"{LOOKS}Compact ×4: no generator= has {target}"
    torch.save({"nobody.weight": torch.zeros(3)}, path)
    with pytest.raises(StorageError, match="less than half") as error:
        init_from(edsr(2, seed=1), path, partial=False, options=generator_options)
    assert LOOKS not in error.value.fix
