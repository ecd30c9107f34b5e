"""scripts/setup.sh, with stand-ins for Python and pip that note calls."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PYTHON = f"""#!/bin/sh
case "$*" in
"-c "*version_info*) exit $OLD ;;
"-c "*ensurepip*) exit $BARE ;;
"-m venv"*)
    echo "python $*" >>"$LOG"
    mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp "$0" .venv/bin/pip ;;
"-m pip"*)
    echo "pip $*" >>"$LOG"
    exit ${{PIP_FAILS:-0}} ;;
*) exec "{sys.executable}" "$@" ;;
esac
"""


class Machine:
    """A checkout in a folder with spaces, on a machine that has nothing but what is put there."""

    def __init__(self, folder: Path) -> None:
        self.home, self.bin, self.root = (folder / name for name in ("home", "bin", "a b/srt rain"))
        self.log = folder / "calls"
        for made in (self.home, self.bin, self.root / "scripts"):
            made.mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "setup.sh", self.root / "scripts")
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root)
        for tool in ("awk", "cat", "cksum", "cp", "df", "dirname", "mkdir", "rm", "sed", "sh"):
            (self.bin / tool).symlink_to(str(shutil.which(tool)))

    def add(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def add_python(self, path: Path, *, old: bool = False, bare: bool = False) -> None:
        self.add(path, PYTHON.replace("$OLD", str(int(old))).replace("$BARE", str(int(bare))))

    def setup(self, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", self.root / "scripts" / "setup.sh"],
            cwd=self.home,
            env={"PATH": str(self.bin), "HOME": str(self.home), "LOG": str(self.log), **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


INSTALL = "pip -m pip install --use-pep517 -c constraints.txt -e .[dev]"


def test_installs_once_from_any_folder(machine: Machine) -> None:
    machine.add_python(machine.bin / "python3.12")
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert machine.calls() == ["python -m venv --clear .venv", INSTALL]
    again = machine.setup()
    assert (again.returncode, again.stdout) == (0, "")
    assert len(machine.calls()) == 2, "the second run finds nothing to do"


def test_installs_again_when_a_pin_changes(machine: Machine) -> None:
    machine.add_python(machine.bin / "python3")
    machine.setup()
    (machine.root / "constraints.txt").write_text("rich==15.0.0\n")
    machine.setup()
    assert machine.calls()[2:] == [INSTALL], "into the same environment"


def test_makes_it_anew_when_the_checkout_moved(machine: Machine) -> None:
    machine.add_python(machine.bin / "python3")
    machine.setup()
    moved = machine.root.with_name("elsewhere")
    machine.root.rename(moved)
    machine.root = moved
    machine.setup()
    assert machine.calls()[2:] == ["python -m venv --clear .venv", INSTALL]


def test_does_not_empty_what_a_link_points_to(machine: Machine) -> None:
    machine.add_python(machine.bin / "python3")
    machine.setup()
    (machine.root / ".venv" / "pyvenv.cfg").touch()
    other = Machine(machine.home / "other")
    (other.root / ".venv").symlink_to(machine.root / ".venv")
    other.add_python(other.bin / "python3")
    before = sorted((machine.root / ".venv").rglob("*"))
    done = other.setup()
    assert done.returncode == 1
    assert "is a link to an environment that was not made here · rm .venv" in done.stderr
    assert other.calls() == []
    assert sorted((machine.root / ".venv").rglob("*")) == before


def test_a_failed_install_is_tried_again(machine: Machine) -> None:
    machine.add_python(machine.bin / "python3")
    done = machine.setup(PIP_FAILS="1")
    assert done.returncode == 1
    assert "pip could not install everything" in done.stderr
    assert machine.setup().returncode == 0
    assert machine.calls().count(INSTALL) == 2


def test_an_interrupted_environment_is_made_anew(machine: Machine) -> None:
    machine.add_python(machine.bin / "python3")
    machine.setup(PIP_FAILS="1")
    (machine.root / ".venv/bin/pip").unlink()
    machine.setup()
    assert machine.calls()[2:] == ["python -m venv --clear .venv", INSTALL]


@pytest.mark.parametrize(
    "place", [".pyenv/versions/3.12.1/bin/python3", ".local/share/uv/python/cpython/bin/python3"]
)
def test_finds_pythons_behind_broken_shims(machine: Machine, place: str) -> None:
    machine.add(machine.bin / "python3.13", "#!/bin/sh\necho 'pyenv: not found' >&2; exit 127\n")
    machine.add_python(machine.bin / "python3", old=True)
    machine.add_python(machine.home / place)
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert str(machine.home / place) in done.stdout


def test_prefers_a_python_with_venv(machine: Machine) -> None:
    machine.add_python(machine.bin / "python3.13", bare=True)
    machine.add_python(machine.bin / "python3.11")
    assert "python3.11 makes" in machine.setup().stdout


@pytest.mark.parametrize(
    ("pythons", "variables", "says"),
    [
        ({}, {}, "no Python 3.11 or newer found · install one (apt-get install python3"),
        ({"python3": {"old": True}}, {}, "no Python 3.11 or newer found"),
        ({"python3.13": {"bare": True}}, {}, "python3.13 lacks the venv module · apt-get"),
        ({"python3": {}}, {"PYTHON": "python3.9"}, "PYTHON=python3.9 does not start"),
        ({"python3": {}}, {"SRTRAIN_DISK_GB": "9999999"}, "about 9999999 GB needed · free some"),
    ],
)
def test_says_in_one_line_what_is_missing(
    machine: Machine, pythons: dict[str, dict[str, bool]], variables: dict[str, str], says: str
) -> None:
    for name, faults in pythons.items():
        machine.add_python(machine.bin / name, **faults)
    done = machine.setup(**variables)
    assert done.returncode == 1
    assert done.stderr.startswith("srtrain: setup: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert machine.calls() == []
