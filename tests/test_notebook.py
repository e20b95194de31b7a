"""demo/wav2lip.ipynb, run from start to end as somebody would who has no video at hand."""

from __future__ import annotations

import pytest

import video
from conftest import ROOT

NOTEBOOK = ROOT / "demo" / "wav2lip.ipynb"
SHORTER = """
from dataclasses import replace
from wav2lip.demo import run_demo
run_demo.HEAD = replace(run_demo.HEAD, seconds=1.4)  # instead of 6
"""


@pytest.fixture
def notebook():
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient, which brings nbformat")
    return nbformat.read(NOTEBOOK, as_version=4)


def text_of(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def test_it_is_kept_without_what_it_said(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


def test_it_runs_from_start_to_end(notebook, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient to run a notebook")
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient, which brings nbformat")
    pytest.importorskip("ipykernel", reason="needs ipykernel to run a notebook")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SHORTER))
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    made = video.probe(tmp_path / "result.mp4")
    source = video.probe(tmp_path / "portrait.mp4")
    assert (made.width, made.height, made.fps) == (source.width, source.height, source.fps)
    shown = [output.get("data", {}) for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("video/mp4" in data or "<video" in str(data.get("text/html")) for data in shown)
    said = "".join(text_of(cell) for cell in notebook.cells if cell.cell_type == "code")
    assert "after: in sync" in said and "before: unrelated" in said
