"""The wheel, installed where there is no checkout: trains and upscales."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``srtrain`` in an environment of its own, which borrows only the libraries of this one."""
    home = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    install = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install"]
    subprocess.run([*install, "--no-deps", str(wheel)], check=True, capture_output=True)
    (packages,) = home.glob("lib/python*/site-packages")
    # After its own site-packages, and without running .pth files: no editable srtrain comes along.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin" / "srtrain"


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_wheel_holds_what_a_run_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    conf = (ROOT / "conf").rglob("*.yaml")
    wanted = {f"srtrain/conf/{path.relative_to(ROOT / 'conf').as_posix()}" for path in conf}
    wanted |= {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "srtrain").rglob("*")
        if path.suffix in {".py", ".safetensors", ".html", ".css", ".js"}
    }
    assert wanted - set(names) == set()
    outside = {name.split("/")[0] for name in names} - {"srtrain"}
    assert all(name.endswith(".dist-info") for name in outside)
    assert wheel.stat().st_size < 3_000_000


def test_trains_and_upscales_without_checkout(program: Path, tmp_path: Path) -> None:
    where = run(
        program.with_name("python"), "-c", "import srtrain; print(srtrain.__file__)", cwd=tmp_path
    )
    assert Path(where.stdout.strip()).is_relative_to(program.parents[1])
    run(program, "experiment=mse", "trainer.max_steps=5", "run_dir=run", cwd=tmp_path)
    Image.new("RGB", (9, 7), "teal").save(tmp_path / "small.png")
    run(program, "infer", "run", "small.png", "-o", "out", cwd=tmp_path)
    with Image.open(tmp_path / "out" / "small.png") as upscaled:
        assert upscaled.size == (36, 28)
