"""``srtrain --help``: read from the configuration's own files, before Hydra is imported."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from srtrain.config.groups import Groups
from srtrain.config.location import conf_dir
from srtrain.config.yamlfile import first_comment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

WIDTH = 100
WIDEST_NAME = 32

# Keys that stay; the file that sets each, and what to say where the file says nothing.
KEYS: tuple[tuple[str, str, str], ...] = (
    ("scale", "train", ""),
    ("seed", "train", ""),
    ("run_dir", "train", ""),
    ("resume", "train", ""),
    ("init_from", "train", ""),
    ("mse_checkpoint", "train", ""),
    ("verbose", "train", ""),
    ("loss.weights.NAME", "", "weight of a term of `loss`; 0 switches it off"),
    ("loss.terms.NAME.PARAMETER", "", "its parameters, e.g. loss.terms.pixel_huber.delta=0.01"),
    ("loss.terms.perceptual.features", "loss/terms", ""),
    (
        "loss.schedule.NAME.start",
        "",
        "the step from which a term counts; .ramp: steps to its weight",
    ),
    ("model.warmup_share", "model/adversarial", ""),
    ("model.adaptive", "model/adversarial", ""),
    ("data.train", "data/folder", ""),
    ("data.val", "data/folder", ""),
    ("data.hr_patch_size", "data/folder", ""),
    ("data.batch_size", "data/folder", ""),
    ("data.residence", "data/folder", ""),
    ("optimizer.lr", "", "learning rate"),
    ("discriminator_optimizer.lr", "", "learning rate of the discriminator"),
    ("trainer.max_steps", "trainer/default", ""),
    ("trainer.devices", "", "how many devices; more than one with trainer=ddp"),
    ("trainer.accumulate", "trainer/default", ""),
    ("trainer.precision", "trainer/default", ""),
    ("trainer.compile", "trainer/default", ""),
    ("checkpoint.every_n_steps", "", "steps between checkpoints"),
    ("metrics.lpips.net", "metrics/standard", ""),
    ("metrics.lpips.features", "metrics/standard", ""),
)

EXIT_CODES = {
    0: "done",
    1: "a bug; the traceback is in error.log",
    2: "configuration",
    3: "data, or some inputs failed",
    4: "checkpoint, weights or storage",
    5: "diverged",
    6: "distributed",
    75: "preempted, and saved",
    130: "interrupted, and saved",
}

USAGE = (
    "srtrain experiment=NAME KEY=VALUE…    train",
    "srtrain COMMAND …                     do something else; srtrain COMMAND --help",
)


def help_page(
    commands: Mapping[str, tuple[str, str]],
    flags: Mapping[str, str],
    config_dirs: Sequence[Path] = (),
    *,
    colour: bool = False,
) -> str:
    """The page, at most WIDTH columns wide."""
    groups = Groups.of(conf_dir(), config_dirs)
    chosen = _defaults(groups)
    order = [*chosen, *(name for name in groups.names() if name not in chosen)]
    lines = ["srtrain: train, measure and apply image super-resolution networks", ""]
    lines += [_title("Usage", colour), *(f"  {line}" for line in USAGE), ""]
    lines += _section("Commands", ((n, line) for n, (_, line) in commands.items()), colour)
    lines += _section("Experiments", _options(groups, "experiment", ""), colour, "experiment=")
    lines += _section("Keys", ((key, _about(groups, key, f, t)) for key, f, t in KEYS), colour)
    for group in order:
        if group != "experiment":
            lines += _section(
                "", _options(groups, group, chosen.get(group, "")), colour, f"{group}="
            )
    lines += [
        "  * is chosen where nothing else is said; experiments and budgets choose others.",
        "",
    ]
    lines += _section("Flags", flags.items(), colour)
    lines += _section("Exit codes", ((str(code), why) for code, why in EXIT_CODES.items()), colour)
    lines += [f"The files behind this page: {groups.folders[0]}"]
    return "\n".join(lines)


def _options(groups: Groups, group: str, default: str) -> Iterator[tuple[str, str]]:
    for option in groups.options(group):
        path = groups.path(group, option)
        about = first_comment(path) if path else ""
        yield f"{option} *" if option == default else option, about


def _defaults(groups: Groups) -> dict[str, str]:
    """Group → option of the root's defaults list, in its order."""
    root = groups.read_path(groups.folders[0] / "train.yaml")
    pairs = (pair for entry in root.defaults if isinstance(entry, dict) for pair in entry.items())
    return {str(group): str(option) for group, option in pairs if " " not in str(group)}


def _about(groups: Groups, key: str, file: str, text: str) -> str:
    """The comment behind the key in its file."""
    if text:
        return text
    config = groups.read_path(groups.folders[0] / f"{file}.yaml")
    below = key if key in config.lines else key.removeprefix(f"{file.partition('/')[0]}.")
    line = config.path.read_text(encoding="utf-8").splitlines()[config.lines[below] - 1]
    return line.partition("#")[2].strip()


def _section(title: str, rows: Iterable[tuple[str, str]], colour: bool, of: str = "") -> list[str]:
    rows = list(rows)
    width = min(WIDEST_NAME, max((len(name) for name, _ in rows), default=0))
    name = of if not title else f"{title}   {of}NAME" if of else title
    return [_title(name, colour), *(line for row in rows for line in _row(*row, width)), ""]


def _row(name: str, about: str, width: int) -> list[str]:
    indent = " " * (width + 4)
    first, *more = textwrap.wrap(about, WIDTH - len(indent)) or [""]
    return [f"  {name:{width}}  {first}".rstrip(), *(indent + line for line in more)]


def _title(text: str, colour: bool) -> str:
    return f"\033[1;36m{text}\033[0m" if colour else text
