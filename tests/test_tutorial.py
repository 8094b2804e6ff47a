"""The notebook runs from its first cell to its last, on the code as it is."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"
MISSING = not all(map(importlib.util.find_spec, ("nbclient", "nbformat", "ipykernel")))
pytestmark = pytest.mark.skipif(MISSING and not os.environ.get("CI"), reason="needs nbclient and ipykernel")


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own
def test_the_notebook_ends_with_the_answer_from_the_weights() -> None:
    import nbformat
    from nbclient import NotebookClient

    saved = nbformat.read(NOTEBOOK, as_version=4)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    cells = [cell for cell in saved.cells if cell.cell_type == "code"]
    assert len(cells) == 12 and all(cell.outputs for cell in cells[1:8])
    assert notebook.cells[-2].outputs[0].text.rstrip().endswith("from the weights:     Bram Osterly")
