"""``srtrain --help``: complete, within 100 columns, without Hydra."""

from __future__ import annotations

import pytest

from srtrain.cli.flags import FLAGS, read_flags
from srtrain.cli.main import SUBCOMMANDS
from srtrain.config.groups import Groups
from srtrain.config.help import EXIT_CODES, KEYS, WIDTH, help_page
from srtrain.config.location import conf_dir
from srtrain.errors import ConfigError, SrtrainError

GROUPS = Groups.of(conf_dir(), ())
PAGE = help_page(SUBCOMMANDS, FLAGS)


def section(title: str) -> list[str]:
    return PAGE.split(f"\n{title}\n", 1)[1].split("\n\n", 1)[0].splitlines()


def names(title: str) -> list[str]:
    return [line.split()[0] for line in section(title) if line[2] != " "]


def test_every_line_fits() -> None:
    assert max(len(line) for line in PAGE.splitlines()) <= WIDTH == 100


@pytest.mark.parametrize("group", [name for name in GROUPS.names() if name != "experiment"])
def test_every_option_of_every_group_is_listed(group: str) -> None:
    assert names(f"{group}=") == GROUPS.options(group)


def test_experiments_commands_keys_codes() -> None:
    assert names("Experiments   experiment=NAME") == GROUPS.options("experiment")
    assert names("Commands") == list(SUBCOMMANDS)
    assert names("Keys") == [key for key, _, _ in KEYS]
    assert names("Exit codes") == [str(code) for code in EXIT_CODES]
    assert {kind.exit_code for kind in SrtrainError.__subclasses__()} <= set(EXIT_CODES)


def test_every_name_has_its_line() -> None:
    for title in ("Commands", "Keys", "loss=", "Experiments   experiment=NAME", "Flags"):
        for line in section(title):
            assert line.startswith("      ") or len(line.split()) > 1, line


def test_colour_only_adds_colour() -> None:
    coloured = help_page(SUBCOMMANDS, FLAGS, colour=True)
    assert coloured.replace("\033[1;36m", "").replace("\033[0m", "") == PAGE


def test_flags() -> None:
    request = read_flags(["a=1", "-m", "--config-dir", "/", "--config-dir=/tmp", "--verbose"])
    assert request.words == ("a=1", "verbose=true")
    assert [str(folder) for folder in request.config_dirs] == ["/", "/tmp"]
    assert request.switches == {"multirun", "verbose"}
    with pytest.raises(ConfigError, match=r"did you mean --multirun\?"):
        read_flags(["--mutlirun"])
    with pytest.raises(ConfigError, match="no such folder"):
        read_flags(["--config-dir", "/no/such"])
