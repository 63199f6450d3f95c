"""Runs notebooks and stores what their check cells print; every other output is removed.

    python workflow/store_checks.py [notebooks/NN_name.ipynb ...]

For whoever changes a notebook on purpose: ``make test`` then holds later changes to the stored outputs.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from magunet.base.provenance import whole_file

CHECK = "nbval-check-output"


def store_checks(path: Path) -> None:
    """Execute one notebook in its folder and rewrite it with the outputs of its check cells only."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code" and CHECK not in cell.metadata.get("tags", []):
            cell.execution_count, cell.outputs = None, []
    notebook.metadata["language_info"] = {"name": "python"}
    with whole_file(path) as part:
        nbformat.write(notebook, part)


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(map(str, Path("notebooks").glob("*.ipynb"))):
        store_checks(Path(name))
        print(name)
