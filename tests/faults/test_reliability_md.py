"""RELIABILITY.md claims what tests show: each row is there, each test that it names exists."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "RELIABILITY.md").read_text(encoding="utf-8")
FAULTS = 54  # of the list that was made before the code
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def _rows() -> list[list[str]]:
    rows = [line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows if row[-1].strip() != "tests"]


@functools.cache
def _tests_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_fault_of_the_list_has_one_row() -> None:
    numbers = [int(row[0]) for row in _rows() if row[0].isdigit()]
    assert numbers == list(range(1, FAULTS + 1))


@pytest.mark.parametrize("row", _rows(), ids=lambda row: row[0][:30])
def test_a_row_names_tests_that_exist_or_says_why_not(row: list[str]) -> None:
    assert len(row) in {3, 5}, row
    named = NAMED.findall(row[-1])
    assert named or "*Not shown:*" in " ".join(row), row
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not (ROOT / "tests" / file).is_file() or test not in _tests_of(ROOT / "tests" / file)
    ]
    assert missing == []


def test_nothing_that_looks_like_a_test_is_overlooked() -> None:
    """A name that the pattern does not match would not be checked."""
    rows = "\n".join(row[-1] for row in _rows())
    assert rows.count("::") == len(NAMED.findall(rows))


def test_every_file_of_the_suite_is_named() -> None:
    named = {file for file, _ in NAMED.findall(PAGE)}
    files = {f"faults/{path.name}" for path in (ROOT / "tests" / "faults").glob("test_*.py")}
    assert files - named == {"faults/test_reliability_md.py"}
