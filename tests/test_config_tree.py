"""The tree in conf/: every file composes, says what it is, and names parameters that exist."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from srtrain.config.groups import Groups
from srtrain.config.keys import HYDRA_WORDS
from srtrain.config.location import conf_dir
from srtrain.config.preflight import prepare
from srtrain.config.problems import RefusedError
from srtrain.config.resume import choices_line
from srtrain.config.schema import Root, describe, matches, root_types, type_of
from srtrain.config.signature import is_missing, parameters
from srtrain.config.yamlfile import first_comment, read_config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GROUPS = Groups.of(conf_dir(), ())
OPTIONS = [(group, option) for group in GROUPS.names() for option in GROUPS.options(group)]
ADVERSARY = ["discriminator", "objective", "discriminator_optimizer"]
APART = {"experiment", "budget", "generator", "model", *ADVERSARY}
MIXED = [group for group in GROUPS.names() if group not in APART]
FLOW = ["experiment=pmrf", "mse_checkpoint=."]
# What an option cannot do without, on a machine that has no data.
NEEDS = {
    "data=folder": ["budget=paper", "data.train=."],
    "data=paired": ["budget=paper", "data.train={hr: ., lr: .}"],
    "data=div2k": ["budget=paper"],
    "experiment=pmrf": ["mse_checkpoint=."],
    "generator=flow": FLOW,
    "generator=flow_lite": FLOW,
    "model=flow": FLOW,
    "objective=wgan_gp": ["objective.gradient_penalty=0"],  # at odds with spectral norm
}


def components(tree: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:  # noqa: ANN401
    if isinstance(tree, dict):
        if "_target_" in tree:
            yield key, tree
        for name, below in tree.items():
            yield from components(below, f"{key}.{name}".lstrip("."))


def passes(*words: str) -> None:
    needs = [need for word in words for need in NEEDS.get(word, [])]
    composed = prepare([*words, *needs])
    for group, _, option in (word.partition("=") for word in words):
        assert composed.choices[group] == option


@pytest.mark.parametrize("number", range(max(len(GROUPS.options(group)) for group in MIXED)))
def test_every_option_passes_the_preflight(number: int) -> None:
    """The n-th option of every group together, so that few compositions see all."""
    options = {group: GROUPS.options(group) for group in MIXED}
    passes(*(f"{group}={names[number % len(names)]}" for group, names in options.items()))


@pytest.mark.parametrize("number", range(max(len(GROUPS.options(g)) - 1 for g in ADVERSARY)))
def test_every_option_of_an_adversary_passes_the_preflight(number: int) -> None:
    """At full size: small budgets take the small form of a discriminator."""
    options = {group: [o for o in GROUPS.options(group) if o != "none"] for group in ADVERSARY}
    words = (f"{group}={names[number % len(names)]}" for group, names in options.items())
    passes(*words, "budget=paper")


# One experiment stands for all in the budgets other than demo: a composition costs half a second.
TRIALS = [(experiment, "demo") for experiment in GROUPS.options("experiment")]
TRIALS += [("mse_plus_perceptual", "smoke"), ("mse_plus_perceptual", "paper")]


@pytest.mark.parametrize(("experiment", "budget"), TRIALS)
def test_every_experiment_passes_the_preflight(experiment: str, budget: str) -> None:
    passes(f"experiment={experiment}", f"budget={budget}")


@pytest.mark.slow
@pytest.mark.parametrize("generator", GROUPS.options("generator"))
def test_every_generator_passes_the_preflight(generator: str) -> None:
    passes(f"generator={generator}", "budget=paper")


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_file_says_what_it_is(group: str, option: str) -> None:
    path = GROUPS.path(group, option)
    assert path is not None
    assert len(first_comment(path)) > 5


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_keys_are_parameters_of_the_constructor(group: str, option: str) -> None:
    file = GROUPS.read(group, option)
    assert file is not None
    for key, node in components(dict(file.values), group):
        taken = set(inspect.signature(get_object(node["_target_"])).parameters)
        known = parameters(node["_target_"])
        if known is None:  # nn.Module's own *args, **kwargs: there is nothing to set
            assert taken == {"args", "kwargs"}, key
            known = frozenset()
        assert set(node) - HYDRA_WORDS <= known, key
        taken -= {"args", "kwargs"}
        if "sizes" not in taken:  # **sizes: Unpack[Sizes]
            assert known == taken, key


def test_the_root_is_the_schema() -> None:
    root = read_config(conf_dir() / "train.yaml").values
    fields = {field.name for field in dataclasses.fields(Root)}
    assert fields == set(root) - {"hydra"}
    for key, annotation in root_types().items():
        value: Any = root
        for part in key.split("."):
            value = value[part]
        assert matches(value, annotation), key


@pytest.mark.parametrize(
    ("value", "annotation", "fits"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1, float, True),
        (True, float, False),
        ("1", float, False),
        (None, str | None, True),
        (None, str, False),
        ([1, 2.5], list[float], True),
        ([1, "a"], list[float], False),
        ({"a": 1}, str | dict[str, Any] | None, True),
    ],
)
def test_matches(value: object, annotation: Any, fits: bool) -> None:  # noqa: ANN401
    assert matches(value, annotation) is fits
    assert describe(annotation)


def test_type_of_a_default() -> None:
    assert type_of("${scale}") is Any
    assert type_of(None) is Any
    assert type_of([0.9, 0.99]) == list[float]


@pytest.mark.parametrize(
    ("target", "some"),
    [
        ("torch.optim.Adam", {"lr", "betas", "amsgrad"}),
        ("torch.nn.HuberLoss", {"delta", "reduction"}),  # through two star imports
        ("srtrain.training.loop.TrainerOptions", {"max_steps", "progress"}),  # a dataclass
        ("srtrain.data.build.folder_data", {"train", "val", "batch_size"}),  # Unpack[Sizes]
    ],
)
def test_parameters_are_read_from_source(target: str, some: set[str]) -> None:
    found = parameters(target)
    assert found is not None
    assert some <= found


def test_what_source_cannot_tell() -> None:
    assert parameters("no_such_package.Thing") is None
    assert parameters("functools.partial") is None  # takes **keywords
    assert is_missing("srtrain.losses.pixel.Charbonier", "srtrain")
    assert not is_missing("srtrain.losses.pixel.Charbonnier", "srtrain")


def test_demo_data_means_the_demo_budget() -> None:
    composed = prepare(["experiment=mse"])
    assert composed.choices["budget"] == "demo"
    assert composed.argv == ("experiment=mse", "budget=demo")
    assert composed.config.trainer.max_steps == 300
    assert prepare(["budget=smoke"]).config.trainer.max_steps == 10


def test_own_components_from_config_dir(tmp_path: Path) -> None:
    files = {
        "optimizer/descent": "_target_: torch.optim.SGD\n_partial_: true\nlr: 0.1\nmomentum: 0.9\n",
        "loss/mine": "defaults: [terms, _self_]\nterms:\n  mine: {_target_: my.Loss, power: 3}\n"
        "weights: {mine: 0.5}\n",
        "callbacks/mine": "beep: {_target_: my.Beep, times: 2}\n",
        "generator/mine": "_target_: my.Net\nscale: ${scale}\nwidth: 8\n",
        "experiment/mine": "# @package _global_\ndefaults:\n  - override /optimizer: descent\n"
        "  - override /loss: mine\n  - override /callbacks: mine\n"
        "loss: {terms: {other: {_target_: my.Other}}, weights: {other: 1, mine: 0.25}}\n",
    }
    for name, text in files.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    words = ["experiment=mine", "generator=mine", "generator.width=4", "optimizer.nesterov=true"]
    config = prepare(words, config_dirs=[tmp_path]).config
    assert config.generator.width == 4
    assert config.optimizer == {
        "_target_": "torch.optim.SGD",
        "_partial_": True,
        "lr": 2e-3,  # the demo budget's
        "momentum": 0.9,
        "nesterov": True,
    }
    assert config.loss.weights.mine == 0.25
    assert config.loss.weights.other == 1
    assert set(config.callbacks) == {"beep"}


def test_components_may_be_added_and_taken_away() -> None:
    words = [
        "~callbacks.pictures",
        "+callbacks.beep={_target_: my.Beep, n: 1}",
        "callbacks.ema=null",
    ]
    config = prepare(words).config
    assert config.callbacks.beep == {"_target_": "my.Beep", "n": 1}
    assert config.callbacks.ema is None
    assert "pictures" not in config.callbacks


def test_short_forms(tmp_path: Path) -> None:
    weights = tmp_path / "net.pth"
    weights.touch()
    config = prepare([f"init_from={weights}", "run_dir=2024", "optimizer.betas.0=0.8"]).config
    assert config.init_from == {"path": str(weights), "partial": False}
    assert config.run_dir == "2024"
    assert config.optimizer.betas == [0.8, 0.99]


def test_resume_alone_takes_the_saved_configuration(tmp_path: Path) -> None:
    started = prepare(["experiment=l1", "scale=2", "trainer.max_steps=50"])
    text = choices_line(started.choices) + OmegaConf.to_yaml(started.config, resolve=True)
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    resumed = prepare([f"resume={tmp_path}", "trainer.max_steps=80"])
    assert resumed.choices == started.choices
    assert resumed.experiment == "l1"
    assert resumed.config.scale == 2
    assert resumed.config.trainer.max_steps == 80
    assert resumed.config.resume == str(tmp_path)
    with pytest.raises(RefusedError, match=r"did you mean trainer.max_steps\?"):
        prepare([f"resume={tmp_path}", "trainer.maxsteps=80"])
