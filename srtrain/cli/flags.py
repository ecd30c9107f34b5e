"""The few ``--flags`` of the main command, told apart from its ``KEY=VALUE`` words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from srtrain.config.nearest import did_you_mean, nearest
from srtrain.errors import ConfigError

# flag -> what it does, as `--help` says it
FLAGS = {
    "-h, --help": "this page",
    "--version": "the version",
    "-m, --multirun": "one run per value of KEY=A,B…; hydra/launcher=joblib | submitit_slurm",
    "--config-dir DIR": "more groups and options of your own, laid out like conf/; repeatable",
    "--cfg": "print the composed configuration and stop",
    "-sc install=bash": 'shell completion: eval "$(srtrain -sc install=bash)"; also fish, zsh',
    "--verbose": "tracebacks instead of one-line errors (= verbose=true)",
}
_SWITCHES = {
    "-m": "multirun",
    "--multirun": "multirun",
    "-c": "cfg",
    "--cfg": "cfg",
    "-sc": "completion",
    "--shell-completion": "completion",
    "--verbose": "verbose",
    "-h": "help",
    "--help": "help",
    "--version": "version",
}


@dataclass(frozen=True)
class Request:
    """What a command line asks for."""

    words: tuple[str, ...]
    config_dirs: tuple[Path, ...]
    switches: frozenset[str]


def read_flags(argv: list[str]) -> Request:
    """Split a command line.

    Raises: ConfigError for an unknown flag, or a ``--config-dir`` that is no folder.
    """
    words: list[str] = []
    folders: list[Path] = []
    switches: set[str] = set()
    rest = iter(argv)
    for word in rest:
        name, _, value = word.partition("=")
        if word in _SWITCHES:
            switches.add(_SWITCHES[word])
        elif name in {"--config-dir", "-cd"}:
            folders.append(_folder(value or next(rest, "")))
        elif word.startswith("-"):
            known = [*_SWITCHES, "--config-dir"]
            fix = did_you_mean(nearest(name, known), "srtrain --help lists them")
            raise ConfigError(f"unknown flag {name}", where="command line", fix=fix)
        elif word == "job" and "cfg" in switches:  # Hydra's `--cfg job`
            continue
        else:
            words.append(word)
    if "verbose" in switches:
        words.append("verbose=true")
    return Request(tuple(words), tuple(folders), frozenset(switches))


def _folder(name: str) -> Path:
    folder = Path(name).expanduser().absolute()
    if not (name and folder.is_dir()):
        raise ConfigError(f"no such folder: {name}", where="--config-dir", fix="correct the path")
    return folder
