"""Every notebook runs from top to bottom, on few steps, and is committed without output."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIGURES = {  # what the text leans on, as printed
    "03_why_mse_blurs": [
        "missing energy / squared error, of the mean: 1.00\n",
        "the same of any one of the 40, on average: 0.00\n",
        "squared error of any one / of the mean: 2.00\n",
    ],
    "04_compare_checkpoints": ["best PSNR: "],
    "05_many_outcomes": [
        "error of one sample / of the mean: 2.0\n",
        "of the mean of 8 / D* (1 + 1/8): 1.00\n",
        "of the mean, moved to what x looks like: 0.59\n",
        "what srtrain says of 1 step: 1 step falls back to the mean",
        "rank correlation of spread and error:\n",
    ],
}


def test_there_are_notebooks() -> None:
    assert [path.name for path in NOTEBOOKS][:1] == ["01_first_run.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_output(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_executes(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel of this interpreter; nbclient raises what any cell raises."""
    monkeypatch.setenv("SRTRAIN_NOTEBOOK_STEPS", "4")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))  # no kernels of the user's
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    first = nbformat.v4.new_code_cell(
        f"import sys\nassert sys.executable == {sys.executable!r}, sys.executable"
    )
    notebook.cells.insert(0, first)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    said = _said(notebook, "stderr")
    assert "Traceback" not in said
    assert "Warning" not in said
    for figure in FIGURES.get(path.stem, []):
        assert figure in _said(notebook, "stdout")


def _said(notebook: nbformat.NotebookNode, stream: str) -> str:
    return "".join(
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == stream
    )
