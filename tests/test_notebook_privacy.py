"""Notebook 10 on somebody's own DICOM series: nothing of the patient in its outputs, nor in any file that it
writes."""

import base64
import json

import nbformat
import numpy as np
import pytest
from boxes import TINY, write_cohort
from conftest import ROOT
from dicom_series import PATIENT, planted, write_series
from identifiers import found, plant_in_nifti, plant_in_series
from joint_object import DIRECTIONS, both, grid
from nbclient import NotebookClient

from magunet.volume import Volume, write_volume

NOTEBOOK = ROOT / "notebooks" / "10_inspect_in_3d.ipynb"


def edited(notebook, changes):
    """The notebook after a user has typed into it; every change must find its place once."""
    for old, new in changes.items():
        cells = [cell for cell in notebook.cells if cell.cell_type == "code" and old in cell.source]
        assert len(cells) == 1, f"{old!r} stands in {len(cells)} cells"
        cells[0].source = cells[0].source.replace(old, new)
    return notebook


def shown(notebook) -> bytes:
    """All that the outputs hold, pictures decoded: their headers could name somebody."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [base64.b64decode(output.data["image/png"]) for output in outputs
                if "image/png" in output.get("data", {})]
    assert pictures
    return b"".join([*pictures, json.dumps(outputs).encode()])


@pytest.mark.parametrize("masked", [True, False])
def test_own_series_leaves_no_trace_of_the_patient(masked, compendium, monkeypatch):
    """With and without a mask of one's own, all cells run."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    write_cohort(compendium / "boxes")
    on = grid(DIRECTIONS["oblique"], (20, 24, 28), (6.0, 5.0, 4.4))
    scan = Volume(np.where(both(on).array != 0, 700, -1000).astype(np.int16), on.spacing, on.origin,
                  on.direction)
    folder = write_series(compendium / "in" / PATIENT, scan.array, scan.spacing, scan.origin, scan.direction)
    mask = compendium / "in" / f"{PATIENT}.nii.gz"
    write_volume(both(scan), mask)
    identifiers = plant_in_series(folder) | plant_in_nifti(mask)
    own_mask = str(mask) if masked else None

    tiny = [f"{name} = {getattr(TINY, name)}"
            for name in ("depth", "size", "width_divisor", "epochs", "samples_per_case")]
    typed = {"seeds: list = [0]": "\n".join(["seeds: list = [0]", "cohort = 'boxes'", *tiny]),
             "own_scan, own_mask = None, None": f"own_scan, own_mask = {str(folder)!r}, {own_mask!r}",
             "case, network = study.val[0], ": "case, network = 'my scan', "}
    notebook = edited(nbformat.read(NOTEBOOK, 4), typed)
    NotebookClient(notebook, timeout=600, kernel_name="python3",
                   resources={"metadata": {"path": str(compendium)}}).execute()

    written = {path: path.read_bytes() for top in ("figures", "runs")
               for path in (compendium / top).rglob("*") if path.is_file()}
    drawn = {"error_map.png", "surface_distance.png"} if masked else {"error_map.png"}
    assert drawn | {"run.json"} <= {path.name for path in written}
    words = [*planted(), b"Geheimnis", PATIENT.encode()]
    outputs = shown(notebook)
    assert b"my scan" in outputs and not [word for word in words
                                          if word in outputs] and not found(identifiers, outputs)
    for path, content in written.items():
        assert not found(identifiers, content, path.name.encode()), path.name
        assert not [word for word in words if word in content or word.decode() in path.name], path.name
