"""What a suite found: the same table on the terminal, and JSON from which it can be read again."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from srtrain.cli.benchmark.paired import Spread, ratio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Arm:
    """One way of doing the same thing: a figure for each round.

    ``flops``: of what a figure counts, where that is a network's arithmetic. FLOPs per sample where
    figures are samples per second, FLOPs per step where they are seconds per step.
    """

    name: str
    rounds: list[float]
    note: str = ""
    flops: float | None = None


@dataclass(frozen=True)
class Table:
    """Arms that took turns; each is compared with ``base`` of the same round.

    ``matrix``: FLOPs per second of a large matrix product in those rounds, in the same seconds.
    """

    title: str
    unit: str
    arms: Sequence[Arm]
    base: str | None = None
    better: Literal["less", "more"] = "less"
    matrix: list[float] | None = None

    def ratios(self, arm: Arm) -> Spread | None:
        """``arm`` over the base; None of the base itself."""
        base = next((other for other in self.arms if other.name == self.base), None)
        if base is None or arm is base:
            return None
        return ratio(arm.rounds, base.rounds)

    def share_of_matrix(self, arm: Arm) -> Spread | None:
        """FLOPs per second over those of the matrix product."""
        if self.matrix is None or arm.flops is None:
            return None
        flops = arm.flops
        per_second = [flops * v if self.better == "more" else flops / v for v in arm.rounds]
        return ratio(per_second, self.matrix)


@dataclass(frozen=True)
class Report:
    """All that one suite measured; ``about``: what one must know to read it."""

    title: str
    about: Mapping[str, object]
    tables: Sequence[Table]


def show(report: Report) -> None:
    """Median [lowest, highest] of each arm, and of its ratio to the base, round by round."""
    from srtrain.cli.quiet import make_console

    console = make_console(quiet=False)
    console.print(report.title, style="bold")
    facts = " · ".join(f"{name} {value}" for name, value in report.about.items())
    console.print(f"{facts}\n", markup=False, soft_wrap=True, style="dim")
    for table in report.tables:
        console.print(table.title, markup=False, soft_wrap=True, style="italic")
        console.print(_drawn(table))
        for arm in table.arms:
            if arm.note:
                console.print(f"  {arm.name}: {arm.note}", markup=False, soft_wrap=True)
        console.print()


def _drawn(table: Table) -> Any:  # noqa: ANN401 - rich is imported when something is shown
    from rich import box
    from rich.markup import escape
    from rich.table import Table as Drawn

    drawn = Drawn(box=box.SIMPLE_HEAD)
    titles = ["", f"{table.unit}\n{table.better} is better"]
    has_base = any(table.ratios(arm) for arm in table.arms)
    has_flops = any(table.share_of_matrix(arm) for arm in table.arms)
    titles += [f"÷ {table.base}"] * has_base + ["of matrix rate"] * has_flops
    for number, title in enumerate(titles):
        drawn.add_column(escape(title), justify="right" if number and title else "left")
    for arm in table.arms:
        cells = [Spread.of(arm.rounds).text("{:.4g}")]
        if has_base:
            found = table.ratios(arm)
            cells.append(found.text() if found else "-")
        if has_flops:
            share = table.share_of_matrix(arm)
            cells.append(share.text("{:.0%}") if share else "-")
        drawn.add_row(escape(arm.name), *cells)
    return drawn


def to_json(report: Report, *, command: Sequence[str]) -> str:
    """All that is needed to read the figures later, and to measure them again."""
    import torch

    content = {
        "title": report.title,
        "commit": commit(Path(__file__).parents[3]),
        "command": shlex.join(command),
        "hardware": hardware(),
        "torch": torch.__version__,
        "about": dict(report.about),
        "tables": [_table_json(table) for table in report.tables],
    }
    return json.dumps(content, indent=2, default=str) + "\n"


def _table_json(table: Table) -> dict[str, Any]:
    arms = []
    for arm in table.arms:
        found, share = table.ratios(arm), table.share_of_matrix(arm)
        derived = {
            **Spread.of(arm.rounds)._asdict(),
            "ratio": found._asdict() if found else None,
            "share_of_matrix_rate": share._asdict() if share else None,
        }
        arms.append({**asdict(arm), **derived})
    return {**asdict(table), "arms": arms}


def from_json(text: str) -> Report:
    """The report that ``to_json`` wrote."""
    content = json.loads(text)
    own = Arm.__dataclass_fields__
    tables = [
        Table(**{**table, "arms": [Arm(**{k: arm[k] for k in own}) for arm in table["arms"]]})
        for table in content["tables"]
    ]
    return Report(title=content["title"], about=content["about"], tables=tables)


def hardware() -> dict[str, object]:
    """What was measured on, and how busy it was."""
    import torch

    found: dict[str, object] = {
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "platform": platform.platform(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
    return found


def _cpu_name() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit(checkout: Path) -> str | None:
    """The commit of ``checkout``, marked where files differ from it; None outside of git."""
    words = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
