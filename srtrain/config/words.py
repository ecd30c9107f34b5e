"""The words of a command line, taken apart by Hydra's own grammar."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from srtrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hydra.core.override_parser.types import Override

    from srtrain.config.groups import Groups

# More jobs than this are not all composed before the first starts.
MAX_CHECKED_JOBS = 64

# Keys that name files and folders, and what their values look like where Hydra has a say in them.
PATH_WORD = re.compile(
    r"(?P<key>\+{0,2}(?:run_dir|resume|init_from(?:\.path)?|paths\.\w+|data\.(?:train|val)(?:\.[^=]+)?"
    r"|metrics\.lpips\.features|loss\.terms\.\w+\.features))=(?P<text>.*)",
    re.DOTALL,
)
SAME_TO_HYDRA = re.compile(r"[\w./~+@%-]*", re.ASCII)
HYDRAS_OWN = re.compile(r"""[\[{'"]|.*(?:\\|\$\{)""", re.DOTALL)
SWEEP = re.compile(r"(?:choice|glob|interval|range|shuffle|sort|tag)\(")


@dataclass(frozen=True)
class Words:
    """Overrides by kind; ``problems`` are the words that cannot be read at all."""

    hydra: tuple[Override, ...]
    groups: tuple[Override, ...]
    values: tuple[Override, ...]
    problems: tuple[ConfigError, ...]


def read_words(words: Iterable[str], groups: Groups) -> Words:
    """Parse every word by itself, so that one bad word does not hide another."""
    kinds: dict[str, list[Override]] = {"hydra": [], "groups": [], "values": []}
    problems: list[ConfigError] = []
    for override in _parse(map(quote_path, words), problems):
        key = override.key_or_group
        if key.startswith(("hydra.", "hydra/")):
            kinds["hydra"].append(override)
        elif groups.is_group(key) and not isinstance(_value(override), dict):
            kinds["groups"].append(override)
        else:
            kinds["values"].append(override)
    problems += _two_experiments(kinds["groups"])
    return Words(
        tuple(kinds["hydra"]), tuple(kinds["groups"]), tuple(kinds["values"]), tuple(problems)
    )


def _two_experiments(groups: Sequence[Override]) -> Iterator[ConfigError]:
    """``experiment=mse experiment=l1``: which recipe was meant is not for the order to decide.

    Other groups may be given again, as scripts do that append to a common line: the last counts.
    """
    given = [str(each.input_line) for each in groups if each.key_or_group == "experiment"]
    if len(set(given)) > 1:
        yield ConfigError("experiment is given twice", where=" ".join(given), fix="keep one")


def shorthand(words: Sequence[str]) -> list[str]:
    """``init_from=FILE`` written out as ``init_from.path=FILE``."""
    prefix = "init_from="
    return [
        f"init_from.path={word[len(prefix) :]}"
        if word.startswith(prefix) and not word[len(prefix) :].startswith(("{", "null"))
        else word
        for word in words
    ]


def quote_path(word: str, *, sweeps: bool = False) -> str:
    """``run_dir=Läufe (1)`` as ``run_dir="Läufe (1)"``: paths come as the shell delivers them.

    Lists, maps, quoted and escaped text keep Hydra's grammar; with ``sweeps``, so do its functions,
    and a comma stands between two values.
    """
    found = PATH_WORD.fullmatch(word)
    if found is None or HYDRAS_OWN.match(found["text"]) or (sweeps and SWEEP.match(found["text"])):
        return word
    parts = found["text"].split(",") if sweeps else [found["text"]]
    return f"{found['key']}={','.join(_quoted(part) for part in parts)}"


def _quoted(text: str) -> str:
    if SAME_TO_HYDRA.fullmatch(text):
        return text
    escaped = text.replace('"', r"\"")
    return f'"{escaped}"'


def jobs_of(words: Sequence[str]) -> list[list[str]]:
    """The command lines of a basic sweep's jobs (``a=1,2`` → two), at most MAX_CHECKED_JOBS.

    A continuous interval, which only optimising sweepers know, stands for its start.
    """
    problems: list[ConfigError] = []
    options = [list(_options(override)) for override in _parse(words, problems)]
    if problems:
        return [list(words)]
    jobs = itertools.islice(itertools.product(*options), MAX_CHECKED_JOBS)
    return [list(job) for job in jobs]


def _options(override: Override) -> Iterator[str]:
    line = str(override.input_line)
    if override.is_interval_sweep():
        yield f"{line.split('=', 1)[0]}={_value(override).start}"
    elif override.is_discrete_sweep():
        key = override.get_key_element()
        yield from (f"{key}={value}" for value in override.sweep_string_iterator())
    else:
        yield line


def _parse(words: Iterable[str], problems: list[ConfigError]) -> Iterator[Override]:
    from hydra.core.global_hydra import GlobalHydra

    instance = GlobalHydra.instance()
    loader = instance.config_loader() if instance.is_initialized() else None
    parser = OverridesParser.create(config_loader=loader)
    for word in words:
        try:
            yield parser.parse_overrides([word])[0]
        except OverrideParseException:
            fix = "write KEY=VALUE; quote a value with special characters twice: 'KEY=\"a (b)\"'"
            problems.append(ConfigError("cannot be read", where=word, fix=fix))


def _value(override: Override) -> Any:  # noqa: ANN401 - any YAML
    return override.value()
