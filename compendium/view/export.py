"""All files that one scan and its masks are exported to. None holds anything of a DICOM header, but the DICOM
SEG what the standard requires; nor a path, the name of a series' folder, or of what a link leads to."""

import os
import shutil
import tempfile
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
from magunet import __version__, volume
from magunet.base.errors import InputError, require
from magunet.base.progress import say
from magunet.base.project import typed_name
from magunet.base.provenance import file_hash, read_json, whole_file, write_json
from magunet.body import body_box
from magunet.confidence import dice_to_expect
from magunet.joints import JOINTS, UNKNOWN, Joint, Midline, joints_of, sides
from magunet.predict import WEIGHTS_FILE, Model
from magunet.volume import FILE_ENDINGS, Volume, orientation, same_geometry, voxel_hash

OTHERWISE = "give another --out, or --overwrite to replace it"
"""What to do about a file that is in the way."""
EARLIER = "sha256_of_earlier_files"
"""In a report, of files of earlier exports of its scan."""
USUAL_ML = (5, 80)
"""Volume of the band about one joint, in adults."""
DOUBTFUL_DICE = 0.6
"""A joint of which less is to be expected has to be looked at."""
BORDER_MM = 6
"""A joint that comes nearer to the border of the scan may be cut off: masks end before it."""
HIGHEST_MM = 120
"""A mask of two sacroiliac joints is lower."""


class Exported(NamedTuple):
    """A scan with its predicted and, if known, true mask on its grid. ``name`` begins all file names;
    ``source`` is the headers of its DICOM series, if any; ``note`` is for the report; ``chance`` is the
    foreground probability, as of `magunet.predict.Answer`."""

    name: str
    scan: Volume
    prediction: Volume
    truth: Volume | None = None
    source: Sequence[pydicom.Dataset] | None = None
    note: str = ""
    chance: Volume | None = None


def origin_of(run: Path, model: Model) -> dict:
    """What made a prediction: run folder, network, profile, seed, hashes of weights and training data, what
    the network sees in a slice: a square around the body, or a box at the joints, in mm; and the line that
    `magunet.confidence` corrects its probabilities by, None where that is not known."""
    return {"run": typed_name(run), "network": model.record["network"], "profile": model.settings.profile,
            "seed": model.record["seed"], "sha256_of_weights": file_hash(run / WEIGHTS_FILE),
            "hash_of_training_data": model.record["data_hash"],
            "calibration": model.record.get("calibration"),
            "sees_xy_mm": [round(model.record["pixel_mm"] * n, 1) for n in model.settings.shape[:0:-1]]}


def case_name(path: Path, scan: Volume, anonymise: bool) -> str:
    """How a scan's files begin: as its own name; DICOM series, and with ``anonymise``, ``ct-`` and a hash."""
    name = typed_name(path)
    if anonymise or path.is_dir():
        return f"ct-{voxel_hash(scan)[:10]}"
    return next((name[:-len(e)] for e in FILE_ENDINGS if name.lower().endswith(e)), name)


def find_source(path: Path, scan: Volume, formats: Sequence[str] | None) -> list[pydicom.Dataset] | None:
    """Headers for the DICOM SEG of a scan read from ``path``. If they are unfit, None and a note, or, when
    ``formats`` ask for a DICOM SEG, InputError."""
    if "dicom-seg" in (formats or FORMATS) and (formats or path.is_dir()):
        try:
            return read_source(path, scan)
        except InputError as error:
            if formats:
                raise
            say(f"note: no DICOM SEG: {error}")
    return None


def earlier_files(out: Path, name: str, scan: Volume, overwrite: bool = False) -> dict[str, str]:
    """Files in ``out`` that are as earlier exports of this very scan wrote them, and hashes, by its report.
    Raises InputError where that report is another scan's, or none of magunet's, unless ``overwrite``."""
    path, files, grid, ours = out / f"{name}_sij.json", {}, _grid(scan), False
    if not os.path.lexists(path):
        return {}
    try:
        report = read_json(path)
        ours = {key: report["scan"].get(key) for key in grid} == grid
        known = [*report["sha256_of_files"].items(), *report.get(EARLIER, {}).items()]
        files = {file: value for file, value in known
                 if (out / file).is_file() and file_hash(out / file) == value}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass                                                # somebody's own file
    require(ours or overwrite, f"{path}: is there already, and not of this scan; {OTHERWISE}")
    return files if ours else {}


def export(case: Exported, origin: dict, out: Path, formats: Sequence[str] | None = None,
           anonymise: bool = False, overwrite: bool = False) -> list[Path]:
    """Write a case, with `origin_of` its model, into the folder ``out``; returns the files' paths. A joint
    without voxels gets no mesh, and an empty mask no DICOM SEG: such files of an earlier export are removed,
    and those in other formats stay, with notes. Raises InputError, before anything is written, for what
    cannot be made, and for a file that is no earlier export of this scan, unless ``overwrite``."""
    masks = {"sij": case.prediction} | ({} if case.truth is None else {"truth": case.truth})
    for name, mask in masks.items():
        require(same_geometry(case.scan, mask),
                f"{case.name}: the mask '{name}' lies on another grid than the scan")
    plane, parted = sides(case.scan, *reversed(masks.values()))
    labels, names, older, choice = dict(zip(masks, reversed(parted))), [], [], formats or FORMATS
    report = _report(case, origin, labels, plane)
    if UNKNOWN in joints_of(*parted):
        say(f"note: {case.name}: left and right are told by {plane.told_by}; no file names a side")
    if case.prediction.array.any() and report["doubts"]:
        say(f"note: {case.name}: look at the mask: {'; '.join(report['doubts'])}")
    model = "{network}, profile {profile}, seed {seed}".format_map(origin)
    jobs = [("png", "sij.png", lambda path: save_figure(
        three_planes(case.scan, case.prediction, case.truth, f"SIJ by {model}"), path,
        f"{model}; run {origin['run']}", vector=False))]
    for name, both in labels.items():
        jobs += [("nifti", f"{name}.nii.gz", lambda path, both=both: volume.write_volume(
                     both.with_array((both.array != 0).view(np.uint8)), path)),
                 ("seg.nrrd", f"{name}.seg.nrrd", partial(write_segments, both))]
        jobs += [("stl", f"{name}_{joint.side}.stl", partial(_write_mesh, both, joint)) for joint in JOINTS]
        jobs.append(("stl", f"{name}.stl", partial(_write_mesh, both, UNKNOWN)))
    if case.source is not None:
        jobs += [("dicom-seg", "sij.dcm", partial(write_dicom_seg, labels["sij"], case.source,
                                                  origin["network"], origin["run"], anonymise))]
    optional = {"stl"} | ({"dicom-seg"} if formats is None or not case.prediction.array.any() else set())
    with tempfile.TemporaryDirectory(prefix="magunet-") as folder:
        for form, ending, write in sorted(jobs, key=lambda job: FORMATS.index(job[0])):
            path = Path(folder, f"{case.name}_{ending}")
            if form not in choice:
                older += [path.name] * (out / path.name).exists()
                continue
            names.append(path.name)
            try:
                write(path)
            except InputError as error:
                if form not in optional:
                    raise
                say(f"note: {path.name} is not written: {error}")
        hashes = {path.name: file_hash(path) for path in map(Path(folder).joinpath, names) if path.exists()}
        earlier = earlier_files(out, case.name, case.scan, overwrite)
        for path in filter(os.path.lexists, (out / name for name in names)):
            ours = path.name in earlier or (path.is_file() and file_hash(path) == hashes.get(path.name))
            require(ours or overwrite, f"{path}: is there already, and not of this scan; {OTHERWISE}")
        path, with_report = out / f"{case.name}_sij.json", "json" in choice
        report["sha256_of_files"] = hashes
        if with_report:                                 # before what it lists, so that all that is, is known
            write_json(path, report | {EARLIER: earlier})
        elif path.exists():
            older.append(path.name)
        for name in hashes:
            with whole_file(out / name) as part:
                shutil.copyfile(Path(folder, name), part)
        for name in set(names) - set(hashes):
            (out / name).unlink(missing_ok=True)
    if older:
        say(f"note: of an earlier export, perhaps of another prediction, are still: {', '.join(older)}")
    if with_report:
        write_json(path, report | {EARLIER: {name: earlier[name] for name in earlier if name in older}})
    return [*(out / name for name in hashes), *[path] * with_report]


def _write_mesh(labels: Volume, joint: Joint, path: Path) -> None:
    if joint in joints_of(labels):
        inside = _only(joint, labels)
        require(inside.array.any(), f"the mask has no {joint.name}")
        write_stl(surface_mesh(inside), path)


def _only(joint: Joint, labels: Volume) -> Volume:
    return labels.with_array(labels.array == joint.label)


def _report(case: Exported, origin: dict, labels: dict[str, Volume], plane: Midline) -> dict:
    """The JSON report without files: grids, the model, and of each mask volumes, borders and the midline."""
    scan, parted_at = case.scan, {"x_mm_lps": None if np.isnan(plane.x) else round(plane.x, 3),
                                  "told_by": plane.told_by}
    masks = {name: _extent(both) | {
        "sha256_of_voxels": voxel_hash(both.with_array(both.array != 0)),
        "joints": {joint.side: _extent(_only(joint, both)) for joint in joints_of(both)},
        "left_and_right_parted_at": parted_at} for name, both in labels.items()}
    expected = dice_to_expect(case.chance, plane, origin["calibration"]) if (
        case.chance and origin["calibration"]) else {}
    for side in masks["sij"]["joints"].keys() & expected.keys():
        masks["sij"]["joints"][side]["dice_to_expect"] = round(expected[side], 2)
    field = np.multiply(scan.array.shape, scan.spacing)[::-1].round(1).tolist()
    body = dict(zip(("height", "depth", "width"), np.round(body_box(scan)[1], 1).tolist()))
    grid = _grid(scan) | {"field_of_view_xyz_mm": field, "body_mm": body}
    return {"magunet": __version__, "case": case.name, "note": case.note, "scan": grid, "model": origin,
            "masks": masks, "doubts": _doubts(labels["sij"], expected)}


def _grid(scan: Volume) -> dict:
    """What makes two scans the same: voxels, and where they lie."""
    return {"sha256_of_voxels": voxel_hash(scan), "voxels_zyx": list(scan.array.shape),
            "spacing_zyx_mm": [round(s, 6) for s in scan.spacing], "orientation_xyz": orientation(scan),
            "origin_lps_mm": np.round(scan.origin, 3).tolist(), "axes_lps": scan.direction.round(6).tolist()}


def _doubts(labels: Volume, expected: dict[str, float]) -> list[str]:
    """What speaks against a mask of two joints, of labels that tell them apart, and the Dice to expect."""
    joints, (low, high), lps = joints_of(labels), USUAL_ML, volume.reorient(labels, "LPS")
    places, volumes, doubts = np.flatnonzero(lps.array.any((1, 2))), [], {}
    height = np.ptp(places) * lps.spacing[0] if len(places) else 0
    for name, extent, dice in ((joint.name, _extent(_only(joint, labels)), expected.get(joint.side, 1))
                               for joint in joints):
        volumes.append(ml := extent["volume_ml"])
        away = extent["mm_to_border"] if ml else BORDER_MM
        doubts |= {f"the {name} has {ml:.1f} mL, where {low} to {high} are usual": not low <= ml <= high,
                   f"the {name} has a Dice to expect of {dice:.2f} only": dice < DOUBTFUL_DICE,
                   f"the {name} is {away:g} mm from the border of the scan, so perhaps cut": away < BORDER_MM}
    doubts |= {"it is no pair of joints": joints == (UNKNOWN,),
               "one joint is less than half as large as the other": 2 * min(volumes) < max(volumes),
               f"it is {height:.0f} mm high, so a piece of it is no joint": height > HIGHEST_MM}
    return [text for text, holds in doubts.items() if holds]


def _extent(mask: Volume) -> dict:
    """Volume, and mm from the mask to the nearest face of the scan; which it touches."""
    lps = volume.reorient(mask, "LPS")
    faces = volume.touched_faces(
        lps.array, ("inferior", "superior", "anterior", "posterior", "right", "left"))
    box = volume.bounding_box(lps.array) if lps.array.any() else ()
    away = [min(side.start, n - side.stop) * s for side, n, s in zip(box, lps.array.shape, lps.spacing)]
    return {"volume_ml": round(float(np.count_nonzero(mask.array) * np.prod(mask.spacing) / 1000), 4),
            "mm_to_border": round(min(away), 1) if away else None,
            "touches_border": bool(faces), "touched_faces": faces}
