"""What a run remembers of its rollbacks: ``divergence.json`` in its folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from srtrain.errors import StorageError
from srtrain.files import read_json, write_json
from srtrain.networks.storage import by_step, step_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ROLLBACKS = 2
SLOWER = 0.5
SET_ASIDE = ".diverged"


class Divergence:
    """Every rollback of a run: ``{step, to, term, lr_factor, rates}``, the newest last.

    ``lr_factor`` is what both learning rates are multiplied with from then on, by whichever process
    continues the run with the same configured ``rates``: ones that a user has set since are used as
    they are. Without the file a run has never diverged.
    """

    def __init__(self, run_dir: Path, rates: Mapping[str, float]) -> None:
        self.path = run_dir / "divergence.json"
        self.checkpoints = run_dir / "checkpoints"
        self.rates = dict(rates)
        self.entries = _read(self.path) if self.path.exists() else []

    @property
    def counted(self) -> list[dict[str, Any]]:
        """Those at the present rates; what was noted before rates were noted is taken for one."""
        return [entry for entry in self.entries if entry.get("rates", self.rates) == self.rates]

    @property
    def spent(self) -> bool:
        """Whether there have been as many as there may be."""
        return len(self.counted) >= ROLLBACKS

    @property
    def lr_factor(self) -> float:
        """What the learning rates are multiplied with."""
        counted = self.counted
        return float(counted[-1]["lr_factor"]) if counted else 1.0

    @property
    def after(self) -> str:
        """After how many rollbacks the run is as slow as it is."""
        count = len(self.counted)
        return f"after {count} rollback{'' if count == 1 else 's'} ({self.path.name})"

    def slower(self, name: str) -> str:
        """The command line's words for half of what rate ``name`` was at last; the other stays."""
        last = {of: rate * self.lr_factor for of, rate in self.rates.items()}
        asked = {of: rate * (SLOWER if of == name else 1) for of, rate in last.items()}
        return " ".join(f"{of}={rate:g}" for of, rate in asked.items() if rate != self.rates[of])

    def roll_back(self, *, step: int, limit: int, term: str) -> dict[str, Any]:
        """Note one more, once the newest checkpoint is one that can be trusted.

        That is the newest from before step ``limit``, unless the last rollback led there and no
        newer one came of it: then the one before, if there is one. Those beyond are renamed, not
        removed. A process that is killed in between diverges again, and comes here again.

        Raises: StorageError when the folder cannot be written to.
        """
        of = {step_of(path): path for path in by_step(self.checkpoints)}
        good = [number for number in of if number < limit]
        if len(good) > 1 and self.entries and self.entries[-1]["to"] == good[-1]:
            good.pop()
        to = good[-1] if good else 0
        lr_factor = self.lr_factor * SLOWER
        entry = {"step": step, "to": to, "term": term, "lr_factor": lr_factor, "rates": self.rates}
        try:
            for path in (path for number, path in of.items() if number > to):
                path.replace(path.with_suffix(SET_ASIDE))
            write_json(self.path, [*self.entries, entry])
        except OSError as error:
            raise StorageError(
                f"cannot note a rollback: {error.strerror or error}",
                where=str(self.path),
                fix="free some space; the checkpoints are untouched",
            ) from error
        self.entries.append(entry)
        return entry


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        entries = [dict(entry) for entry in read_json(path)]
        for entry in entries:
            entry["lr_factor"], entry["to"] = float(entry["lr_factor"]), int(entry["to"])
            if "rates" in entry:
                entry["rates"] = {of: float(rate) for of, rate in dict(entry["rates"]).items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            "this is not what srtrain wrote",
            where=str(path),
            fix="mend it; without the file the run goes on as if it had never diverged",
        ) from error
    return entries
