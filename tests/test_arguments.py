"""A subcommand's wrong words: one line, with the nearest right one, exit code 2."""

from __future__ import annotations

import pytest

from srtrain.cli.arguments import Arguments
from srtrain.cli.main import main
from srtrain.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["photo.png"], "the following arguments are required: --to · srtrain move · `srtrain"),
        (["photo.png", "--to", "x", "--szie", "4"], "unknown option --szie · srtrain move · did"),
        (["photo.png", "--to", "x", "--szie=4"], "did you mean --size?"),
        (["photo.png", "--to", "x", "--qqq"], "`srtrain move --help` says what there is"),
        (["photo.png", "--to", "x", "other.png"], "unknown word other.png"),
        (["photo.png", "--to", "x", "--size", "big"], "argument --size: invalid int value: 'big'"),
    ],
)
def test_wrong_words(words: list[str], line: str) -> None:
    parser = Arguments(prog="srtrain move")
    parser.add_argument("input")
    parser.add_argument("--to", required=True)
    parser.add_argument("--size", type=int)
    with pytest.raises(ConfigError) as caught:
        parser.parse_args(words)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_line_from_outside(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", "photos", "--scael", "4"]) == 2
    said = capsys.readouterr().err
    assert said == (
        "srtrain: error: unknown option --scael · srtrain check-data · did you mean --scale?\n"
    )
