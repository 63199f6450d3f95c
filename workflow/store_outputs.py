"""Runs notebooks and stores what is kept of their outputs: what their check cells print, and one picture.

    python workflow/store_outputs.py [notebooks/NN_name.ipynb ...]

For whoever changes a notebook on purpose: ``make test`` and ``make test-notebooks`` then hold later changes
to the stored outputs, and notebooks/README.md shows the picture, the largest of the notebook's.
"""

import argparse
import base64
import io
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

from magunet.base.provenance import whole_file

CHECK = "nbval-check-output"
THUMBNAILS = Path("figures/notebooks")
PIXELS = (300, 150)
"""A thumbnail's width and height at most."""


def store_checks(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write an executed notebook with the outputs of its check cells only."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code" and CHECK not in cell.metadata.get("tags", []):
            cell.execution_count, cell.outputs = None, []
    notebook.metadata["language_info"] = {"name": "python"}
    with whole_file(path) as part:
        nbformat.write(notebook, part)


def store_thumbnail(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write the largest picture of an executed notebook, small."""
    pictures = [base64.b64decode(output.data["image/png"]) for cell in notebook.cells
                for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    picture = Image.open(io.BytesIO(max(pictures, key=len))).convert("RGB")
    picture.thumbnail(PIXELS, Image.Resampling.LANCZOS)
    with whole_file(path) as part:
        picture.quantize(64).save(part, format="PNG", optimize=True)


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("notebook", nargs="*", type=Path, default=sorted(Path("notebooks").glob("*.ipynb")),
                       help="all without one")
    for source in words.parse_args().notebook:
        executed = nbformat.read(source, as_version=4)
        NotebookClient(executed, timeout=600, resources={"metadata": {"path": str(source.parent)}}).execute()
        store_thumbnail(executed, THUMBNAILS / f"{source.stem[:2]}.png")
        store_checks(executed, source)
        print(source)
