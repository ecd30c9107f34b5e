"""One checkpoint, several answers: what may be made of the mean, on one plane and one page."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from srtrain.cli.evaluate.leaving import GOES_ON, until_stopped
from srtrain.cli.tradeoff.arms import (
    Arm,
    compose,
    look_at_data,
    measures,
    train,
    trained,
    write_record,
)
from srtrain.config.nearest import did_you_mean, nearest
from srtrain.errors import ConfigError, InterruptedRunError, PreemptedError, StorageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from omegaconf import DictConfig

START = "mse"
RECORD = "answers.json"
FLOWS = ("pmrf", "posterior")  # they move the mean itself; the others go on from its weights
HEADS = ("quantile", "gaussian_nll", "laplace_nll")  # with maps of which the mean has but one
LEAVING = (InterruptedRunError.exit_code, PreemptedError.exit_code)
_OF_ONE = re.compile(r"(\w+):(.+=.*)")


def answer(options: argparse.Namespace) -> int:
    """The exit code: of the first answer that failed, which is left out; the others go on."""
    start, arms = arms_of(options)
    _say_who_keeps_a_generator(options)
    record = options.output / RECORD
    _refuse_foreign(options.output, record)
    words = trained([*_trained_here(options, start), *arms], record)
    composed = compose([*_trained_here(options, start), *arms])
    scale, options.trust = int(composed[0].scale), [*composed[0].trust]
    look_at_data(options, scale=scale)
    if options.mse_checkpoint is not None:
        _refuse_other_scale(options.mse_checkpoint, composed[0])
    write_record(record, words)
    failed: dict[str, int] = {}
    for arm, config in zip([*_trained_here(options, start), *arms], composed, strict=True):
        if not (code := train(arm, steps=int(config.trainer.max_steps))):
            continue
        if code in LEAVING:
            print(f"srtrain: stopped in {arm.name} · {GOES_ON}", file=sys.stderr)
        if arm is start or code in LEAVING:
            return code
        failed[arm.name] = code
    kept = [arm for arm in arms if arm.name not in failed]
    code = _shown(options, start, kept, [*failed], scale=scale) if kept else 0
    for name, why in failed.items():
        print(f"{'left out':<11} {name}: exit code {why}, see above; the same command tries again")
    return code or next(iter(failed.values()), 0)


def _shown(
    options: argparse.Namespace, start: Arm, kept: list[Arm], failed: list[str], *, scale: int
) -> int:
    """All are evaluated, the flows' samples are made and evaluated too, all is drawn."""
    from srtrain.cli.tradeoff.samples import (
        Sampled,
        claim_samples,
        make_samples,
        measure_samples,
    )

    claim_samples(options, kept, scale=scale)
    if code := _evaluate(options, [start, *kept], scale=scale):
        return code
    from srtrain.cli.tradeoff.page import draw_and_write

    sampled: dict[str, Sampled] = {}

    def make() -> int:
        sampled.update(make_samples(options, kept, scale=scale))
        return 0

    return (
        until_stopped(make)
        or measure_samples(options, [*sampled.values()], scale=scale)
        or until_stopped(lambda: draw_and_write(options, start, kept, sampled, failed, scale=scale))
    )


def arms_of(options: argparse.Namespace) -> tuple[Arm, list[Arm]]:
    """The start, and an arm for each answer.

    Raises: ConfigError for words that the command itself sets, or for nobody; an answer twice.
    """
    names: list[str] = options.answers
    if len(set(names)) < len(names) or START in names:
        what = f"an answer twice, or {START}, which is the start"
        raise ConfigError(what, where="--answers", fix="name each once")
    shared, own = _words(options.words, (START, *names))
    output = options.output.absolute()
    given = options.mse_checkpoint
    place = output / START if given is None else given.expanduser().absolute()
    length = [f"trainer.max_steps={options.start_steps}"] if options.start_steps else []
    start = Arm(START, place, _line(START, shared, [*length, *own[START]]))
    steps = []
    if options.steps:
        steps = [f"trainer.max_steps={options.steps}", f"trainer.val_every_n_steps={options.steps}"]
    arms = []
    for name in names:
        words, begin = _line(name, shared, [*steps, *own[name]]), _beginning(name, place)
        if given is not None:  # another start is another training
            words, begin = [*words, *begin], ()
        arms.append(Arm(name, output / name, words, begin))
    return start, arms


def _line(name: str, shared: Sequence[str], own: Sequence[str]) -> list[str]:
    """A flow has a generator of its own."""
    common = [word for word in shared if name not in FLOWS or not _of_generator(word)]
    usual = [] if any(word.startswith("logger=") for word in common) else ["logger=none"]
    return [f"experiment={name}", *usual, *common, *own]


def _say_who_keeps_a_generator(options: argparse.Namespace) -> None:
    """Raises: ConfigError if it is for nobody."""
    passed = " ".join(word for word in options.words if _of_generator(word))
    flows = [name for name in options.answers if name in FLOWS]
    if not passed or not flows:
        return
    start = [START] * (options.mse_checkpoint is None)
    others = [*start, *(name for name in options.answers if name not in FLOWS)]
    own = f"{flows[0]}:{passed.split()[0].partition('=')[0]}=… is for that"
    keep = "keeps a flow of its own" if len(flows) == 1 else "keep flows of their own"
    what = f"{', '.join(flows)} {keep}"
    if not others:
        raise ConfigError(what, where=passed, fix=own)
    print(f"srtrain: {passed}: for {' and '.join(others)}; {what} · {own}", file=sys.stderr)


def _of_generator(word: str) -> bool:
    return word.lstrip("+").startswith(("generator=", "generator."))


def _beginning(name: str, place: Path) -> tuple[str, ...]:
    if name in FLOWS:
        return (f"mse_checkpoint={place}",)
    whole = f"init_from.path={place}"
    return (whole, "init_from.partial=true") if name in HEADS else (whole,)


def _words(words: Sequence[str], names: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Words for all, and by name those for one.

    Raises: ConfigError.
    """
    sets = ("run_dir=", "init_from", "resume=", "mse_checkpoint=", "experiment=")
    shared: list[str] = []
    own: dict[str, list[str]] = {name: [] for name in names}
    for word in words:
        one = _OF_ONE.fullmatch(word)
        if one and one[1] not in own:
            fix = did_you_mean(nearest(one[1], names), f"one of {', '.join(names)}")
            raise ConfigError(f"no answer is called {one[1]}", where=word, fix=fix)
        if (one[2] if one else word).startswith(sets):
            fix = "leave it out; --answers, --mse-checkpoint and -o say it"
            raise ConfigError("the command itself sets this", where=word, fix=fix)
        if one:
            own[one[1]].append(one[2])
        else:
            shared.append(word)
    return shared, own


def _trained_here(options: argparse.Namespace, start: Arm) -> list[Arm]:
    return [start] if options.mse_checkpoint is None else []


def _refuse_foreign(output: Path, record: Path) -> None:
    """Raises: ConfigError for a folder whose files this command did not write."""
    files = ("sweep.json", "report.html", "plane.png", "plane.svg")
    found = [name for name in files if (output / name).exists()]
    if found and not record.exists():
        what = f"holds {', '.join(found)} of something else"
        raise ConfigError(what, where=str(output), fix="another -o")


def _refuse_other_scale(path: Path, config: DictConfig) -> None:
    """Raises: StorageError for a file that is no network, ConfigError for one of another scale."""
    if not path.expanduser().exists():
        raise StorageError("no such run", where=f"--mse-checkpoint {path}", fix="correct the path")
    from srtrain.networks.loading import load_generator

    scale = load_generator(path.expanduser(), trust=config.trust).scale
    if scale != config.scale:
        what = f"the start is of scale {scale}, the answers are of scale {config.scale}"
        raise ConfigError(what, where=f"--mse-checkpoint {path}", fix=f"add scale={scale}")


def _evaluate(options: argparse.Namespace, arms: Sequence[Arm], *, scale: int) -> int:
    from srtrain.cli.evaluate.main import main as evaluate

    words = [
        *(f"{arm.name}={arm.folder}" for arm in arms),
        *measures(options, scale=scale),
        *("--reference", START),
        *("-o", str(options.output / "evaluation")),
        *(_of_samples(options) if any(arm.name in FLOWS for arm in arms) else []),
        "--save-images",
        "--no-report",  # the page shows samples too
        "--overwrite",  # an answer more is another evaluation; what is measured stays so
    ]
    return evaluate(words)


def _of_samples(options: argparse.Namespace) -> list[str]:
    steps = [] if options.sample_steps is None else ["--steps", str(options.sample_steps)]
    return ["--samples", str(options.samples), *steps]
