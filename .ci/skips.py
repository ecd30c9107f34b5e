"""``skips.py ALLOWED REPORT…``: exit 1 if a junit report skips a test for no allowed reason."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree


def skips(report: Path) -> list[str]:
    """``module::test: reason`` of every skipped test; expected failures are not skips."""
    return [
        f"{case.get('classname')}::{case.get('name')}: {skipped.get('message')}"
        for case in ElementTree.parse(report).iter("testcase")
        for skipped in case.iter("skipped")
        if skipped.get("type") != "pytest.xfail"
    ]


def main(allowed: Path, *reports: Path) -> int:
    """Print the skips that no pattern of ``allowed`` (one regular expression a line) covers."""
    lines = [line.partition("#")[0].strip() for line in allowed.read_text().splitlines()]
    patterns = [re.compile(line) for line in lines if line]
    found = [line for report in reports for line in skips(report)]
    bad = [line for line in found if not any(pattern.search(line) for pattern in patterns)]
    for line in bad:
        print(f"skipped without leave: {line}")  # noqa: T201
    print(f"{len(found)} skipped, {len(bad)} of them not in {allowed}")  # noqa: T201
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
