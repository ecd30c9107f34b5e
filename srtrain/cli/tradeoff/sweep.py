"""From one start a sweep over a loss weight, and the plane that it draws."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from srtrain.cli.tradeoff.arms import (
    Arm,
    compose,
    look_at_data,
    measures,
    train,
    trained,
    write_record,
)
from srtrain.cli.tradeoff.planes import draw_planes
from srtrain.errors import ConfigError, DivergedError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

START = "start"
RECORD = "sweep.json"


def sweep(options: argparse.Namespace) -> int:
    """The exit code. A value with which training diverges is left out, which is said."""
    start, arms = arms_of(options)
    record = options.output / RECORD
    words = trained([start, *arms], record)
    composed = compose([start, *arms])
    scale, options.trust = int(composed[0].scale), [*composed[0].trust]
    look_at_data(options, scale=scale)
    write_record(record, words)
    left_out: list[Arm] = []
    for arm, config in zip((start, *arms), composed, strict=True):
        if code := train(arm, steps=int(config.trainer.max_steps)):
            if arm is start or code != DivergedError.exit_code:
                return code
            left_out.append(arm)
    kept = [arm for arm in arms if arm not in left_out]
    if not kept:
        return DivergedError.exit_code
    code = _evaluate(options, [start, *kept], scale=scale)
    code = code or _draw(options.output, [arm.name for arm in kept])
    for arm in left_out:
        print(f"{'left out':<11} {arm.name}: it diverged; the same command tries again")
    return code or (DivergedError.exit_code if left_out else 0)


def arms_of(options: argparse.Namespace) -> tuple[Arm, list[Arm]]:
    """The start, and an arm for each value.

    Raises: ConfigError for words that the sweep itself sets, or a value twice.
    """
    own = ("run_dir=", "init_from", "resume=", "trainer.max_steps=", f"{options.key}=")
    for word in options.words:
        if word.startswith(own):
            fix = "leave it out; --steps, --start-steps, --values and -o say it"
            raise ConfigError("the sweep itself sets this", where=word, fix=fix)
    if len(set(options.values)) < len(options.values):
        raise ConfigError("a value twice", where="--values", fix="name each once")
    given = {word.partition("=")[0] for word in options.words}
    usual = {"experiment": "mse", "logger": "none"}
    if options.key.startswith("loss.weights.perceptual"):
        usual["loss.role"] = "perceptual_led"  # a sweep leaves the regulariser's range on purpose
    common = [f"{key}={value}" for key, value in usual.items() if key not in given]
    common += options.words
    output = options.output.absolute()
    length = [f"trainer.max_steps={options.start_steps}"] if options.start_steps else []
    start = Arm(START, output / START, [*common, *length])
    short = options.key.rpartition(".")[2]
    steps = [f"trainer.max_steps={options.steps}", f"trainer.val_every_n_steps={options.steps}"]
    arms = [
        Arm(
            f"{short} {value}",
            output / re.sub(r"[^\w.+-]+", "_", f"{short}-{value}"),
            [*common, f"{options.key}={value}", *steps],
            begin=(f"init_from={start.folder}",),
        )
        for value in options.values
    ]
    return start, arms


def _evaluate(options: argparse.Namespace, arms: Sequence[Arm], *, scale: int) -> int:
    from srtrain.cli.evaluate.main import main as evaluate

    against = next((arm.name for arm in arms if arm.name.endswith(" 0")), START)
    words = [
        *(f"{arm.name}={arm.folder}" for arm in arms),
        *measures(options, scale=scale),
        *("--reference", against),
        *("-o", str(options.output / "evaluation")),
        "--overwrite",  # another number of values is another evaluation; what is measured stays so
    ]
    return evaluate(words)


def _draw(output: Path, names: Sequence[str]) -> int:
    """The plane of each data set: the sweep is a line on it."""
    from srtrain.evaluation.results import read_results

    results = read_results(output / "evaluation" / "results.json")
    return draw_planes(output, results, path=names)
