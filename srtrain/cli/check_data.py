"""``srtrain check-data HR_DIR``: everything that a training would stumble over, in one table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from srtrain.checks import counted
from srtrain.cli.arguments import Arguments, one_or_more

if TYPE_CHECKING:
    from srtrain.data.report import Report


def main(argv: list[str]) -> int:
    """Exit code 0 if all is well, 3 with a table of what is not."""
    from srtrain.data.report import LISTED, cut_line
    from srtrain.images import shown

    options = _parser().parse_args(argv)
    if options.bicubic and options.lr is None:
        _parser().error("--bicubic compares LR with HR: give --lr LR_DIR")
    report, val = _check(options)
    print_report(report, limit=None if options.all else LISTED)
    if line := cut_line({shown(options.hr): report, **val}, scale=options.scale):
        print(line if options.lr else f"{line} (training crops lie anywhere)")
    return 3 if report.total else 0


def print_report(report: Report, *, limit: int | None) -> None:
    """One table, a section per kind of problem; ``limit`` files of each, then how many more."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=140)  # a log file folds no lines
    if not report.total:
        console.print(f"{counted(report.images, 'image')}: no problem found")
        return
    title = f"{counted(report.total, 'problem')} in {counted(report.images, 'image')}"
    table = Table(title=title, title_justify="left")
    table.add_column("problem", no_wrap=True)
    table.add_column("file", overflow="fold")
    table.add_column("reason", overflow="fold")
    for kind, found in report.problems.items():
        for row, (where, reason) in enumerate(found[:limit]):
            label = f"{kind} ({len(found)})" if row == 0 else ""
            table.add_row(escape(label), escape(where), escape(reason))
        if limit is not None and len(found) > limit:
            table.add_row("", f"… and {len(found) - limit} more", "--all shows them")
        table.add_section()
    console.print(table)


def _check(options: argparse.Namespace) -> tuple[Report, dict[str, Report]]:
    """What is wrong, and of the validation folders how many images lose rows or columns."""
    from srtrain.data import check
    from srtrain.data.report import Report
    from srtrain.data.sources import Folder, Paired, PairFiles
    from srtrain.images import shown

    report = Report()
    source = (
        Folder(options.hr)
        if options.lr is None
        else Paired(options.hr, options.lr, scale=options.scale)
    )
    parts = check.matched(source, report)
    for part in parts:
        check.check_names(part, report)
        check.check_sizes(part, report, scale=options.scale, smallest=options.patch)
        if not options.headers_only:
            check.check_decodable(part, report)
        if options.bicubic and isinstance(part, PairFiles):
            check.check_bicubic(part, report)
    val: dict[str, Report] = {}
    for folder in options.val:
        of_val = check.matched(Folder(folder), report)
        check.check_leaks(parts, of_val, report)
        sizes = val[f"val {shown(folder)}"] = Report()
        for part in of_val:
            check.check_sizes(part, sizes, scale=options.scale, smallest=1)
    return report, val


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(
        prog="srtrain check-data",
        description="Lists all images that a training would stumble over. "
        "Exit code: 0 none, 3 some.",
    )
    parser.add_argument("hr", metavar="HR_DIR", type=Path, help="folder of HR images, any depth")
    parser.add_argument("--lr", metavar="LR_DIR", type=Path, help="folder of their LR partners")
    parser.add_argument("--scale", metavar="N", type=one_or_more, default=4, help="HR / LR (4)")
    parser.add_argument(
        "--patch", metavar="P", type=one_or_more, default=1, help="data.hr_patch_size of the run"
    )
    parser.add_argument(
        "--bicubic",
        action="store_true",
        help="LR must be MATLAB's bicubic of HR, as papers take it",
    )
    parser.add_argument(
        "--val", metavar="DIR", type=Path, action="append", default=[],
        help="validation folder: no file of it may be among the HR images (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--headers-only", action="store_true", help="fast: do not decode; misses truncated files"
    )
    parser.add_argument("--all", action="store_true", help="list every file, not ten of a kind")
    return parser
