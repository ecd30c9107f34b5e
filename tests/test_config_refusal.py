"""Config refusal: every wrong word named at once, with the nearest right one, before torch."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from srtrain.config.location import conf_dir
from srtrain.config.preflight import prepare
from srtrain.config.problems import RefusedError
from srtrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.conftest import Finished


def refused(*words: str, config_dirs: Sequence[Path] = ()) -> list[str]:
    """The lines of the problems; exit code 2."""
    with pytest.raises(RefusedError) as caught:
        prepare(words, config_dirs=config_dirs)
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


def write(folder: Path, name: str, text: str) -> None:
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


# depth -> (wrong key, value, right key)
DEPTHS = {
    "root": ("scael", 3, "scale"),
    "group": ("optimizer.lrr", 1e-3, "optimizer.lr"),
    "loss term": ("loss.terms.perceptual.tabs", "vgg22", "loss.terms.perceptual.taps"),
    "callback": ("callbacks.ema.decy", 0.9, "callbacks.ema.decay"),
}


def nested(key: str, value: object) -> dict[str, object]:
    tree: object = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    assert isinstance(tree, dict)
    return tree


def test_what_an_experiment_says_of_its_flow_is_no_fault_of_another_generator() -> None:
    """One line, not one for each such key; what was typed is told beside it."""
    what = "model=flow learns velocities, generator=edsr makes images"
    line = f"{what} · generator · leave it out, or generator=flow | flow_lite"
    asked = ("experiment=posterior", "generator=edsr")
    assert refused(*asked) == [line]
    typed, rest = refused(*asked, "generator.sigma=0.1")
    assert typed.startswith("unknown key generator.sigma · generator.sigma=0.1")
    assert rest == line


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["experiment=posteriour"], "experiment has no option posteriour"),
        (["experiment=posterior", "generator=edsr"], "model=flow learns velocities"),
        (["experiment=posterior", "generator.condition=none"], "source=condition, condition=none"),
        (["experiment=pmrf", "generator.steps=0"], "generator.steps cannot be 0"),
        (["experiment=posterior", "discriminator=patchgan"], "discriminator=patchgan"),
        (["experiment=posterior", "model.mean_precision=half"], "model.mean_precision cannot be"),
    ],
)
def test_one_mistake_with_a_flow_is_told_once(words: list[str], what: str) -> None:
    """And nobody is told to leave out the mean that he needs, or to add the one that he named."""
    (line,) = refused(*words, f"mse_checkpoint={conf_dir()}")
    assert line.startswith(what)
    if words == ["experiment=pmrf", "generator.steps=0"]:
        (line,) = refused("experiment=pmrf", f"mse_checkpont={conf_dir()}")
        assert line.endswith("did you mean mse_checkpoint?")


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_typos_on_the_command_line(plus: str) -> None:
    words = {f"{plus}{wrong}={value}": (wrong, right) for wrong, value, right in DEPTHS.values()}
    assert refused(*words) == [
        f"unknown key {wrong} · {word} · did you mean {right}?"
        for word, (wrong, right) in words.items()
    ]


@pytest.mark.parametrize("place", ["conf", "config-dir"])
def test_typos_in_an_experiment_file(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, added = tmp_path, [tmp_path]
    if place == "conf":
        folder, added = tmp_path / "conf", []
        shutil.copytree(conf_dir(), folder)
        monkeypatch.setattr("srtrain.config.preflight.conf_dir", lambda: folder)
        monkeypatch.setattr("srtrain.config.compose.conf_dir", lambda: folder)
    body = "\n".join(
        f"{key}: {json.dumps(below)}"
        for wrong, value, _ in DEPTHS.values()
        for key, below in nested(wrong, value).items()
    )
    write(folder, "experiment/mine", f"# @package _global_\n# Mine.\n{body}\n")
    assert refused("experiment=mine", config_dirs=added) == [
        f"unknown key {wrong} · {folder}/experiment/mine.yaml:{line} · did you mean {right}?"
        for line, (wrong, _, right) in enumerate(DEPTHS.values(), start=3)
    ]


# depth -> an option of the user's own for that group, with one typo on line `line`
OPTIONS = {
    "root": ("budget", "# @package _global_\nscael: 3\n", "scael", "scale", 2),
    "group": (
        "optimizer",
        "_target_: torch.optim.SGD\n_partial_: true\nlr: 0.1\nmomentun: 0.9\n",
        "optimizer.momentun",
        "optimizer.momentum",
        4,
    ),
    "loss term": (
        "loss",
        "defaults:\n  - terms\n  - _self_\nterms:\n"
        "  pixel: {_target_: srtrain.losses.pixel.Charbonnier, epz: 1e-3}\n",
        "loss.terms.pixel.epz",
        "loss.terms.pixel.eps",
        5,
    ),
    "callback": (
        "callbacks",
        "defaults:\n  - default\n  - _self_\nema2:\n"
        "  _target_: srtrain.training.ema.EMA\n  decya: 0.9\n",
        "callbacks.ema2.decya",
        "callbacks.ema2.decay",
        6,
    ),
}


@pytest.mark.parametrize("depth", OPTIONS)
def test_a_typo_in_an_option_of_config_dir(depth: str, tmp_path: Path) -> None:
    group, text, wrong, right, line = OPTIONS[depth]
    write(tmp_path, f"{group}/mine", text)
    problems = refused(f"{group}=mine", config_dirs=[tmp_path])
    where = f"{tmp_path}/{group}/mine.yaml:{line}"
    assert f"unknown key {wrong} · {where} · did you mean {right}?" in problems
    assert len(problems) == 1


# Each word and what is said about it; words that may stand beside each other share a group.
WORDS = (
    {
        "scale=four": "scale cannot be 'four' · scale=four · expected a whole number",
        "optimizer.lr=fast": "expected a number",
        "optimizer.betas=0.9": "expected a list of a number",
        "verbose=maybe": "expected true or false",
        "trainer.precision=fp16": "choose auto | fp32 | bf16",
        "trainer.accelerator=tpu": "choose auto | cpu | gpu",
        "metrics.lpips.net=alexx": "choose squeeze | alex | vgg | null",
        "checkpoint=5": "checkpoint is a group of keys",
        "callbacks.ema=5": "callbacks.ema is a group of keys",
        "model.clip_norm=[1]": "choose a number | null",
        "loss.role=leader": "choose regulariser | perceptual_led",
        "seed=1,2": "add --multirun",
        "foo==(": "cannot be read",
        "~verbose": "verbose cannot be taken away",
        "~logger": "a group cannot be taken away",
        "generator=edrs": "did you mean generator=edsr?",
        "generatr=edsr": "did you mean generator?",
        "lr=1e-3": "unknown key lr · lr=1e-3 · did you mean optimizer.lr?",
        "batch_size=4": "did you mean data.batch_size?",
        "trainer.accumulate_grad_batches=2": "did you mean trainer.accumulate?",
        "trainer.gradient_clip_val=1": "did you mean model.clip_norm?",
        "+optimizer={amsgrat: true}": "did you mean optimizer.amsgrad?",
        "scael=3": "did you mean scale?",
    },
    {
        "scale=2.5": "scale cannot be 2.5",
        "optimizer.betas=[a,b]": "expected a list of a number",
        "resume=atuo": "did you mean resume=auto?",
        "optimizer.lr=null": "expected a number",
        "experiment=mes": "did you mean experiment=mse?",
    },
    {
        "scale=true": "scale cannot be True",
        "experiment=null": "experiment has no option None",
        "data.batch_size=[8]": "data.batch_size cannot be [8]",
    },
    {"scale=null": "scale cannot be null", "seed=${sead}": "Interpolation key 'sead' not found"},
)


@pytest.mark.parametrize("said", WORDS)
def test_every_wrong_word_of_a_line_is_told(said: dict[str, str]) -> None:
    problems = refused(*said)
    for word, text in said.items():
        assert sum(text in problem for problem in problems) == 1, (word, problems)
    assert len(problems) == len(said)


def test_all_problems_are_told_at_once() -> None:
    words = (
        "scael=3",
        "optimizer.lrr=1",
        "generator=edrs",
        "trainer.max_steps=many",
        "trainer.precision=fp16",
        "loss.weights.perceptual=0.5",
        "loss.weights.perceptul=0.001",
        "data.batch_size=0",
    )
    problems = refused(*words)
    for said in (
        "did you mean scale?",
        "did you mean optimizer.lr?",
        "did you mean generator=edsr?",
        "trainer.max_steps cannot be 'many'",
        "trainer.precision cannot be 'fp16'",
        "50.00% of the pixel",
        "did you mean loss.weights.perceptual?",
        "data.batch_size cannot be 0",
    ):
        assert sum(said in problem for problem in problems) == 1, (said, problems)
    assert len(problems) == len(words)


def test_problems_of_files_and_words_together(tmp_path: Path) -> None:
    write(
        tmp_path,
        "experiment/mine",
        "# @package _global_\ndefaults:\n  - override /los: mse\n  - override /optimizer: adma\n",
    )
    problems = refused("experiment=mine", "scael=3", config_dirs=[tmp_path])
    said = "\n".join(problems)
    assert "unknown group los" in said
    assert "did you mean loss?" in said
    assert "did you mean optimizer=adam?" in said
    assert "did you mean scale?" in said
    assert len(problems) == 3


def test_a_file_that_is_not_yaml(tmp_path: Path) -> None:
    write(tmp_path, "experiment/mine", "# @package _global_\nscale: [1\nseed: 2\n")
    with pytest.raises(ConfigError, match=r"not YAML.*mine\.yaml:3"):
        prepare(["experiment=mine"], config_dirs=[tmp_path])


def test_an_experiment_without_package_header(tmp_path: Path) -> None:
    write(tmp_path, "experiment/mine", "scale: 2\n")
    problems = refused("experiment=mine", config_dirs=[tmp_path])
    assert any("# @package _global_" in problem for problem in problems)


def test_data_without_budget_explains_the_choice(tmp_path: Path) -> None:
    (problem,) = refused("data=folder", f"data.train={tmp_path}")
    assert problem.startswith("data=folder needs a budget")
    for budget in ("budget=smoke", "budget=demo", "budget=paper"):
        assert budget in problem


def test_what_is_left_of_another_class(tmp_path: Path) -> None:
    write(
        tmp_path,
        "experiment/mine",
        "# @package _global_\noptimizer: {_target_: torch.optim.SGD, momentum: 0.9}\n",
    )
    said = "\n".join(refused("experiment=mine", config_dirs=[tmp_path]))
    assert "unknown key optimizer.betas" in said


def test_there_is_no_such_class(tmp_path: Path) -> None:
    write(tmp_path, "callbacks/mine", "ema:\n  _target_: srtrain.training.ema.EmA\n")
    (problem,) = refused("callbacks=mine", config_dirs=[tmp_path])
    assert "there is no srtrain.training.ema.EmA" in problem


PROCESS = """
import sys
from srtrain.cli.main import main
code = main(sys.argv[1:])
print(code, [name for name in ("torch", "lightning", "numpy") if name in sys.modules])
"""


@pytest.mark.parametrize(
    "words",
    [
        ("experiment=mse", "scael=3", "optimizer.lrr=1"),
        ("loss.weights.perceptual=0.5",),
        ("data=folder", "data.train=."),
        ("--multirun", "experiment=mse,l11", "scael=3,4"),
        ("--help",),
    ],
    ids=" ".join,
)
def test_refused_before_torch(words: tuple[str, ...], run_srtrain: Callable[..., Finished]) -> None:
    done = run_srtrain(*words, module=("-c", PROCESS))
    code, heavy = done.stdout.splitlines()[-1].split(" ", 1)
    assert code == ("0" if words == ("--help",) else "2")
    assert heavy == "[]"
    for line in done.stderr.splitlines():
        assert line.startswith("srtrain: error: ")
