"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "srtrain").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FACADES = {"srtrain", "images"}
"""Packages whose ``__init__.py`` may import: what users and all other layers use."""
LARGE = {"srtrain/losses/weights": 1_200_000, "assets": 500_000, "tests/golden": 500_000}
"""Folders whose files may exceed 200 kB, and by how much."""


def committed() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_layers() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("color.py", "import srtrain.losses.pixel", "Upper layers"),
        ("metrics/luma.py", "import srtrain.networks.edsr", "Upper layers"),
        ("losses/pixel.py", "import lightning", "Lightning"),
        ("data/sources.py", "from omegaconf import DictConfig", "Hydra"),
        ("losses/pixel.py", "from spandrel import ModelLoader", "spandrel"),
    ],
)
def test_layers_would_notice(tmp_path: Path, file: str, line: str, contract: str) -> None:
    shutil.copytree(ROOT / "srtrain", tmp_path / "srtrain")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "srtrain" / file).open("a", encoding="utf-8") as stream:
        stream.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert re.search(rf"{contract}.* BROKEN", done.stdout), done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") < 300
    tree = ast.parse(text)
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    long = {node.name: length for node in functions if (length := _body_lines(node)) >= 40}
    assert not long, "functions of 40 lines or more"
    if path.name == "__init__.py" and path.parent.name not in FACADES:
        assert not [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]


def _body_lines(function: ast.FunctionDef) -> int:
    """Lines of code from the first statement after the docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("module", ["srtrain", "srtrain.cli.main", "srtrain.cli.fetch_weights"])
def test_import_is_cheap(module: str) -> None:
    heavy = "{'torch', 'lightning', 'hydra', 'numpy', 'wandb'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print({heavy} or 'none')"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "none"


def test_constraints_pin_every_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[\w.\-]+==[\w.\-]+", line)] == []
    versions = {_canonical(name): version for name, version in (line.split("==") for line in pins)}
    project = PROJECT["project"]
    wanted = [
        Requirement(text)
        for text in sum(project["optional-dependencies"].values(), project["dependencies"])
        if not text.startswith("srtrain[")  # its own extras, which are among them
    ]
    for requirement in wanted:
        version = versions[_canonical(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} but pinned {version}"


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_committed_files_are_small_and_of_no_machine() -> None:
    ours = Path(__file__).resolve()
    private = re.compile(rb"/work/(main|shared)|/opt/(wheels|pypi)|/root/|/home/(?!user\b)\w+/")
    for path in committed():
        name = path.relative_to(ROOT).as_posix()
        limit = next((size for folder, size in LARGE.items() if name.startswith(folder)), 200_000)
        assert path.stat().st_size <= limit, f"{name} is larger than {limit} bytes"
        if path != ours:
            assert not private.search(path.read_bytes()), f"{name} names somebody's machine"
    data = [path.stat().st_size for path in committed() if b"\0" in path.read_bytes()]
    assert 1_000_000 < sum(data) < 2_000_000  # the features, and little else that is no text


@pytest.mark.parametrize(
    ("case", "rc", "says"),
    [
        ("", 0, "0 skipped"),
        ("<skipped type='pytest.skip' message='needs a GPU'/>", 0, "1 skipped, 0 of them"),
        ("<skipped type='pytest.skip' message='shared material not found'/>", 1, "test_x::test_y"),
        ("<skipped type='pytest.xfail' message='known'/>", 0, "0 skipped"),
    ],
)
def test_ci_fails_on_silent_skips(tmp_path: Path, case: str, rc: int, says: str) -> None:
    report = tmp_path / "report.xml"
    begin = "<testcase classname='tests.test_x' name='test_y'>"
    report.write_text(f"<testsuites><testsuite>{begin}{case}</testcase></testsuite></testsuites>")
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "skips.py", ROOT / ".ci" / "allowed_skips.txt", report],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == rc
    assert says in done.stdout
