"""demo/wav2lip.ipynb, run from start to end, as by someone without a video."""

from __future__ import annotations

import pytest

import video
from conftest import ROOT

NOTEBOOK = ROOT / "demo" / "wav2lip.ipynb"
SMALLER = """
from dataclasses import replace
from wav2lip.demo import run_demo
run_demo.HEAD = replace(run_demo.HEAD, seconds=1.4)  # instead of 6
run_demo.SIZE, run_demo.ZOOM = run_demo.SIZE // 2, run_demo.ZOOM / 2
"""


@pytest.fixture
def notebook():
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient, which brings nbformat")
    return nbformat.read(NOTEBOOK, as_version=4)


def text_of(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def test_notebook_is_stored_without_outputs(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


def test_notebook_runs_from_start_to_end(notebook, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient to run a notebook")
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient, which brings nbformat")
    pytest.importorskip("ipykernel", reason="needs ipykernel to run a notebook")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SMALLER))
    limits = {"startup_timeout": 120, "timeout": 600}  # seconds
    nbclient.NotebookClient(notebook, **limits, resources={"metadata": {"path": str(tmp_path)}}).execute()
    lip_synced = video.probe(tmp_path / "result.mp4")
    source = video.probe(tmp_path / "portrait.mp4")
    assert (lip_synced.width, lip_synced.height, lip_synced.fps) == (source.width, source.height, source.fps)
    shown = [output.get("data", {}) for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("video/mp4" in data or "<video" in str(data.get("text/html")) for data in shown)
    printed = "".join(text_of(cell) for cell in notebook.cells if cell.cell_type == "code")
    assert "after: in sync" in printed and "before: unrelated" in printed
