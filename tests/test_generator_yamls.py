"""Every file of conf/generator against the contract in its README.

Each architecture is small here (`SMALL`); the published sizes run in `make test-full`.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from spandrel import ModelLoader

from srtrain.networks.build import build_generator, spec_of
from srtrain.networks.generator import Generator
from srtrain.networks.loading import community_generator

FOLDER = Path(__file__).resolve().parents[1] / "conf" / "generator"
FLOWS = {"flow", "flow_lite"}  # trained by model=flow, kept in our own files: tests/test_flow.py
NAMES = sorted({path.stem for path in FOLDER.glob("*.yaml")} - FLOWS)
FOREIGN = [name for name in NAMES if "spandrel" in (FOLDER / f"{name}.yaml").read_text()]

# Fewer, narrower layers; everything that shapes the architecture stays.
TRANSFORMER = {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2]}
GRL_HEADS = ("num_heads_window", "num_heads_stripe")
SMALL: dict[str, dict[str, Any]] = {
    "atd": {"embed_dim": 24, "depths": [2], "num_heads": [2]},
    "atd_light": {"depths": [2], "num_heads": [4]},
    "compact": {"num_feat": 8, "num_conv": 2},
    "craft": {"depths": [1], "num_heads": [6]},
    "dat": {"embed_dim": 60, "depth": [2], "num_heads": [6]},
    "dat_light": {"depth": [2]},
    "dctlsa": {"nf": 10},
    "ditn": {"dim": 12, "ITL_blocks": 1, "SAL_blocks": 1},
    "drct": {"embed_dim": 24, "depths": [6], "num_heads": [6], "gc": 8},
    "edsr": {"num_features": 8, "num_blocks": 2},
    "edsr_full": {"num_features": 8, "num_blocks": 2},
    "edsr_lite": {},
    "fdat": {"embed_dim": 24, "num_groups": 1, "depth_per_group": 1, "num_heads": 2},
    "grl_tiny": {"embed_dim": 8, "depths": [1], **{key: [2] for key in GRL_HEADS}},
    "hat": {"embed_dim": 36, "depths": [2], "num_heads": [2]},
    "hat_small": {"embed_dim": 48, "depths": [2], "num_heads": [2]},
    "moesr": {"dim": 16, "n_blocks": 1, "n_block": 1},
    "mosr": {"dim": 16, "n_block": 2},
    "omnisr": {"num_feat": 16, "res_num": 1},
    "plksr": {"dim": 16, "n_blocks": 2},
    "plksr_tiny": {"dim": 16, "n_blocks": 2},
    "rcan": {"n_resgroups": 2, "n_resblocks": 2},
    "realplksr": {"dim": 16, "n_blocks": 2},
    "rgt": {"embed_dim": 60, "depth": [2], "num_heads": [6]},
    "rgt_small": {"embed_dim": 60, "depth": [2], "num_heads": [6]},
    "rrdb": {"num_filters": 8, "num_blocks": 1},
    "safmn": {"n_blocks": 2},
    "safmn_large": {"dim": 16, "n_blocks": 2},
    "seemore": {"num_layers": 2},
    "span": {"feature_channels": 8},
    "srresnet": {"num_features": 8, "num_blocks": 2},
    "swiftsrgan": {"num_channels": 8, "num_blocks": 2},
    "swin2sr": TRANSFORMER,
    "swin2sr_light": TRANSFORMER,
    "swinir": TRANSFORMER,
    "swinir_light": TRANSFORMER,
}
# Scales other than 2, 3, 4 (README.md says why).
SCALES = {"rrdb": (2, 4), "swiftsrgan": (2, 4)}
# Parameters that the forward pass never touches: derived ones, or halves of unused branches.
WITHOUT_GRADIENT = {
    "fdat": r"\.inter\.(sg|cg)\.",
    "span": r"\.eval_conv\.",
    "swiftsrgan": r"\.act\.weight$",
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning"),
    pytest.mark.filterwarnings("ignore:'saved_variables' is deprecated:DeprecationWarning"),
]


def node(name: str, *, scale: int) -> dict[str, Any]:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text.replace("${scale}", str(scale)))
    return content


def build(name: str, *, scale: int, small: bool) -> Generator:
    torch.manual_seed(1)
    changes = SMALL[name] if small else {}
    return build_generator(spec_of({**node(name, scale=scale), **changes}), scale=scale)


def check_contract(name: str, *, scale: int, small: bool) -> None:
    generator = build(name, scale=scale, small=small)
    check_training(generator, name)
    generator.eval()
    with torch.no_grad():
        assert generator(torch.rand(1, 3, 5, 9)).shape == (1, 3, 5 * scale, 9 * scale)
    with torch.inference_mode():
        kept = torch.rand(1, 3, 17, 19)  # as validation keeps LR images from round to round
    with torch.no_grad():
        generator(kept)
        if name in FOREIGN:
            check_round_trip(generator)


def check_training(generator: Generator, name: str) -> None:
    lr = torch.rand(2, 3, 17, 19)
    before = lr.clone()
    sr = generator(lr)
    assert sr.dtype == lr.dtype
    assert sr.shape == (2, 3, 17 * generator.scale, 19 * generator.scale)
    sr.square().mean().backward()
    assert torch.equal(lr, before), "the network changed its input"
    untouched = [key for key, tensor in generator.net.named_parameters() if tensor.grad is None]
    declared = WITHOUT_GRADIENT.get(name)
    assert bool(untouched) == bool(declared)
    assert all(re.search(str(declared), key) for key in untouched)
    gradients = [tensor.grad for tensor in generator.parameters() if tensor.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


def check_round_trip(generator: Generator) -> None:
    lr = torch.rand(1, 3, 17, 23)
    expected = generator(lr)
    state = {key: tensor.clone() for key, tensor in generator.net.state_dict().items()}
    found = ModelLoader().load_from_state_dict(dict(state))
    assert found.scale == generator.scale
    torch.testing.assert_close(found(lr.clone()), expected.clamp(0, 1), rtol=0, atol=1e-5)
    # Ours: the same weights, a spec from which they can be rebuilt, and the same size needs.
    community = community_generator(state, Path("x.pth"))
    rebuilt = build_generator(community.spec, scale=community.scale)
    rebuilt.net.load_state_dict(state)
    rebuilt.eval()
    torch.testing.assert_close(rebuilt(lr), expected, rtol=0, atol=1e-5)
    assert rebuilt.multiple_of % community.multiple_of == 0
    assert rebuilt.min_size >= community.min_size or rebuilt.multiple_of >= community.min_size


def test_all_files_are_here() -> None:
    assert set(SMALL) == set(NAMES)
    assert len(FOREIGN) >= 20


@pytest.mark.parametrize("name", NAMES)
def test_contract_small(name: str) -> None:
    check_contract(name, scale=2, small=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scale"), [(name, scale) for name in NAMES for scale in SCALES.get(name, (2, 3, 4))]
)
def test_contract_as_published(name: str, scale: int) -> None:
    check_contract(name, scale=scale, small=False)


@pytest.mark.parametrize("name", NAMES)
def test_keys_are_constructor_parameters(name: str) -> None:
    content = node(name, scale=2)
    module, _, class_name = content.pop("_target_").rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), class_name)).parameters
    assert set(content) <= set(parameters)
    assert "${scale}" in (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_first_line_says_what_it_is(name: str) -> None:
    head = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(r"# .{20,98} \d[\d.]*[kM] parameters at x4\.", head)
    assert re.search(r"\(.*\d{4}\)", head), "names the paper or its author"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_first_line_has_the_right_size(name: str) -> None:
    head = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    number, unit = re.findall(r"([\d.]+)([kM]) parameters", head)[0]
    count = sum(tensor.numel() for tensor in build(name, scale=4, small=False).parameters())
    assert count / {"k": 1e3, "M": 1e6}[unit] == pytest.approx(float(number), rel=0.01)
