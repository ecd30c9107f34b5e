"""All that is wrong with a configuration, told at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srtrain.errors import ConfigError, SrtrainError

if TYPE_CHECKING:
    from collections.abc import Iterable


class RefusedError(ConfigError):
    """One or more problems, each with its own line; exits as the gravest (lowest) code does."""

    def __init__(self, problems: Iterable[SrtrainError]) -> None:
        self.problems = tuple({str(problem): problem for problem in problems}.values())
        super().__init__("\n".join(str(problem) for problem in self.problems))
        self.exit_code = min(problem.exit_code for problem in self.problems)

    def __reduce__(self) -> tuple[type[RefusedError], tuple[tuple[SrtrainError, ...]]]:
        """Launchers of sweeps carry errors between processes by pickle."""
        return type(self), (self.problems,)


def refuse(problems: Iterable[SrtrainError]) -> None:
    """Raise RefusedError if there is any problem."""
    found = list(problems)
    if found:
        raise RefusedError(found)
