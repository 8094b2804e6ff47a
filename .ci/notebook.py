"""Runs a notebook from its first cell to its last, and saves its outputs: `make docs`."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when each cell began and ended
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
