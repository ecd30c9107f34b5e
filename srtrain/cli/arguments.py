"""Subcommands' options, whose mistakes are told in one line like all others."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from srtrain.config.nearest import did_you_mean, nearest
from srtrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Arguments(argparse.ArgumentParser):
    """``argparse`` without the page of usage: ``what · where · how to fix``, exit code 2."""

    def parse_args(  # type: ignore[override]  # without the overloads: a namespace is always made
        self, args: Sequence[str] | None = None, namespace: None = None
    ) -> argparse.Namespace:
        """As argparse does; an option that does not exist is told with the nearest that does.

        Raises: ConfigError.
        """
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            wrong = unknown[0].partition("=")[0]
            options = [name for name in self._option_string_actions if name.startswith("--")]
            near = nearest(wrong, options) if wrong.startswith("-") else None
            kind = "option" if wrong.startswith("-") else "word"
            self._refuse(f"unknown {kind} {wrong}", did_you_mean(near, self._help))
        made: argparse.Namespace = found
        return made

    def error(self, message: str) -> NoReturn:
        """One line instead of argparse's.

        Raises: ConfigError.
        """
        self._refuse(message, self._help)

    @property
    def _help(self) -> str:
        return f"`{self.prog} --help` says what there is"

    def _refuse(self, what: str, fix: str) -> NoReturn:
        raise ConfigError(what, where=self.prog, fix=fix)


def zero_or_more(text: str) -> int:
    """Raises: ArgumentTypeError."""
    return _whole(text, least=0)


def one_or_more(text: str) -> int:
    """Raises: ArgumentTypeError."""
    return _whole(text, least=1)


def _whole(text: str, *, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of {least} or more, not {text}")
    return int(text)
