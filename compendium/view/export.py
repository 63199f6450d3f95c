"""All files that one scan and its masks are exported to.

No file holds anything of a DICOM header, but the DICOM SEG what the standard requires; and none holds a path,
or the name of a DICOM series' folder, which often is the patient's.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom

from compendium.figures.planes import save_figure, three_planes
from compendium.view import FORMATS
from compendium.view.dicom_seg import read_source, write_dicom_seg
from compendium.view.meshes import surface_mesh, write_stl
from compendium.view.segments import write_segments
from magunet import __version__
from magunet.base.errors import InputError, require
from magunet.base.progress import say
from magunet.base.provenance import file_hash, write_json
from magunet.body import body_extent
from magunet.joints import JOINTS, Joint, left_and_right, midline
from magunet.predict import WEIGHTS_FILE, Model
from magunet.volume import (
    FILE_ENDINGS,
    Volume,
    orientation,
    reorient,
    same_geometry,
    touched_faces,
    voxel_hash,
    write_volume,
)


class Exported(NamedTuple):
    """A scan with its predicted and, if known, true mask on its grid. ``name`` begins all file names;
    ``source`` is the headers of its DICOM series, if any; ``note`` is for the report."""

    name: str
    scan: Volume
    prediction: Volume
    truth: Volume | None = None
    source: Sequence[pydicom.Dataset] | None = None
    note: str = ""


def origin_of(run: Path, model: Model) -> dict:
    """What made a prediction: run folder, network, profile, seed, hashes of weights and training data, and
    the side in mm of the square around the body that the network sees."""
    return {"run": run.resolve().name, "network": model.record["network"], "profile": model.settings.profile,
            "seed": model.record["seed"], "sha256_of_weights": file_hash(run / WEIGHTS_FILE),
            "hash_of_training_data": model.record["data_hash"],
            "sees_square_of_mm": round(model.record["pixel_mm"] * model.settings.size, 1)}


def case_name(path: Path, scan: Volume, anonymise: bool) -> str:
    """How a scan's files begin: as its own name; DICOM series, and with ``anonymise``, ``ct-`` and a hash."""
    path = path.resolve()
    if anonymise or path.is_dir():
        return f"ct-{voxel_hash(scan)[:10]}"
    return next((path.name[:-len(e)] for e in FILE_ENDINGS if path.name.lower().endswith(e)), path.name)


def find_source(path: Path, scan: Volume, formats: Sequence[str] | None) -> list[pydicom.Dataset] | None:
    """Headers for the DICOM SEG of a scan read from ``path``. If they are unfit, None and a note, or, when
    ``formats`` ask for a DICOM SEG, InputError."""
    if "dicom-seg" not in (formats or FORMATS) or (formats is None and not path.is_dir()):
        return None
    try:
        return read_source(path, scan)
    except InputError as error:
        if formats is not None:
            raise
        say(f"note: no DICOM SEG: {error}")
        return None


def export(case: Exported, origin: dict, out: Path, formats: Sequence[str] | None = None,
           anonymise: bool = False) -> list[Path]:
    """Write a case, with `origin_of` its model, into the folder ``out``; returns the files' paths.

    A joint without voxels gets no mesh, and an empty mask no DICOM SEG: a note says so, and that file of an
    earlier export is removed. Files in other formats stay, with a note. Raises InputError for a mask on
    another grid, and when a DICOM SEG is asked for and cannot be made.
    """
    masks = {"sij": case.prediction} | ({} if case.truth is None else {"truth": case.truth})
    for name, mask in masks.items():
        if not same_geometry(case.scan, mask):
            raise InputError(f"{case.name}: the mask '{name}' lies on another grid than the scan")
    labels, files, older = {name: left_and_right(mask) for name, mask in masks.items()}, [], []
    model = "{network}, profile {profile}, seed {seed}".format_map(origin)
    jobs = [("json", "sij.json", lambda path: write_json(path, _report(case, origin, labels, files))),
            ("png", "sij.png", lambda path: save_figure(
                three_planes(case.scan, case.prediction, case.truth, f"SIJ by {model}"), path,
                f"{model}; run {origin['run']}", vector=False))]
    for name, both in labels.items():
        whole = both.with_array(np.uint8(both.array != 0))
        jobs += [("nifti", f"{name}.nii.gz", partial(write_volume, whole)),
                 ("seg.nrrd", f"{name}.seg.nrrd", partial(write_segments, both))]
        jobs += [("stl", f"{name}_{joint.side}.stl", partial(_write_mesh, both, joint)) for joint in JOINTS]
    if case.source is not None:
        jobs += [("dicom-seg", "sij.dcm", partial(write_dicom_seg, labels["sij"], case.source,
                                                  origin["network"], origin["run"], anonymise))]
    optional = {"stl"} | ({"dicom-seg"} if formats is None or not case.prediction.array.any() else set())
    for form, ending, write in sorted(jobs, key=lambda job: FORMATS.index(job[0])):
        path = out / f"{case.name}_{ending}"
        if form not in (formats or FORMATS):
            older += [path.name] * path.exists()
            continue
        try:
            write(path)
            files.append(path)
        except InputError as error:
            if form not in optional:
                raise
            path.unlink(missing_ok=True)
            say(f"note: {path.name} is not written: {error}")
    if older:
        say(f"note: of an earlier export, perhaps of another prediction, are still: {', '.join(older)}")
    return files


def _write_mesh(labels: Volume, joint: Joint, path: Path) -> None:
    inside = labels.with_array(labels.array == joint.label)
    require(inside.array.any(), f"the mask has no {joint.name}")
    write_stl(surface_mesh(inside), path)


def _report(case: Exported, origin: dict, labels: dict[str, Volume], files: Sequence[Path]) -> dict:
    """The JSON report: grids, hashes, the model, and of each mask volumes, borders and the midline."""
    scan, masks = case.scan, {}
    for name, both in labels.items():
        plane = midline(both)
        kind = ("halfway between the two joints" if plane.between_joints else
                "middle of the scan, for no two joints were found")
        masks[name] = _extent(both) | {
            "sha256_of_voxels": voxel_hash(both.with_array(both.array != 0)),
            "joints": {joint.side: _extent(both.with_array(both.array == joint.label)) for joint in JOINTS},
            "left_and_right_parted_at": {"x_mm_lps": round(plane.x, 3), "which_is": kind}}
    field = np.multiply(scan.array.shape, scan.spacing)[::-1].round(1).tolist()
    grid = {"sha256_of_voxels": voxel_hash(scan), "voxels_zyx": list(scan.array.shape),
            "spacing_zyx_mm": [round(s, 6) for s in scan.spacing], "orientation_xyz": orientation(scan),
            "field_of_view_xyz_mm": field, "body_mm": body_extent(scan)}
    hashes = {path.name: file_hash(path) for path in files}
    return {"magunet": __version__, "case": case.name, "note": case.note, "scan": grid, "model": origin,
            "masks": masks, "sha256_of_files": hashes}


def _extent(mask: Volume) -> dict:
    faces = touched_faces(reorient(mask, "LPS").array,
                          ("inferior", "superior", "anterior", "posterior", "right", "left"))
    return {"volume_ml": round(float(np.count_nonzero(mask.array) * np.prod(mask.spacing) / 1000), 4),
            "touches_border": bool(faces), "touched_faces": faces}
