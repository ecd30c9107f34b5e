"""The failures a user can meet, each with its exit code; everything else is a bug (exit 1)."""

from __future__ import annotations


class SrtrainError(Exception):
    """Says ``what · where · how to fix`` in one line; the CLI exits with ``exit_code``."""

    exit_code = 1
    told = False  # the rank that failed has said it already

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(" · ".join(part for part in (what, where, fix) if part))
        self.what = what
        self.where = where
        self.fix = fix


class ConfigError(SrtrainError):
    """The configuration asks for something that cannot be."""

    exit_code = 2


class DataError(SrtrainError):
    """Images that are missing, unreadable or do not fit together."""

    exit_code = 3


class StorageError(SrtrainError):
    """A checkpoint, a weights file or the disk itself."""

    exit_code = 4


class DivergedError(SrtrainError):
    """The loss or a gradient is not finite any more."""

    exit_code = 5


class DistributedError(SrtrainError):
    """Ranks that died, disagree, or never met."""

    exit_code = 6


class PreemptedError(SrtrainError):
    """Asked to leave by SIGTERM, SIGUSR1 or SIGHUP, after saving."""

    exit_code = 75


class InterruptedRunError(SrtrainError):
    """Ctrl-C, after saving."""

    exit_code = 130


class Stopped(BaseException):
    """Signal ``number`` asked the run to stop.

    Not an Exception: nobody but the command line may take it for a failure and carry on.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
