"""Everything that one scan and its masks are written to: one entry for all formats.

No file holds anything of a DICOM header, but the DICOM SEG what the standard requires; file names, pictures and reports hold
no path, and of a DICOM series not even the folder's name, for that often is the patient's.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from compendium.figures.planes import save_figure, three_planes
from compendium.view import FORMATS
from compendium.view.case_report import describe_mask, describe_scan, voxel_hash
from compendium.view.dicom_seg import read_source, write_dicom_seg
from compendium.view.meshes import surface_mesh, write_stl, write_vtp
from compendium.view.segments import write_segments
from compendium.view.slicer import write_script
from compendium.view.surface_map import surface_map
from magunet import __version__
from magunet.base.errors import InputError
from magunet.base.progress import say
from magunet.base.provenance import file_hash, write_json
from magunet.joints import JOINTS, left_and_right
from magunet.predict import WEIGHTS_FILE, Model
from magunet.volume import FILE_ENDINGS, Volume, same_geometry, write_volume

DEFAULT = tuple(name for name in FORMATS if name != "vtp")
"""Of these, dicom-seg where the scan is a DICOM series."""
MESHES = {"stl": write_stl, "vtp": write_vtp}
PREDICTION, TRUTH = "sij", "truth"
"""What masks are called in file names."""
KINDS = (*itertools.product((PREDICTION, TRUTH), (".nii.gz", ".seg.nrrd")), *((PREDICTION, e) for e in (".png", ".dcm", ".json")),
         *itertools.product((f"{mask}_{joint.side}" for mask in (PREDICTION, TRUTH) for joint in JOINTS), (".stl", ".vtp")),
         ("ct", ".nii.gz"), ("slicer", ".py"))
"""Every file that a case can have: what stands behind its name, and the ending."""
DISTANCE = "distance to the prediction in mm"
"""At each point of the truth's surface in a VTP; positive where the prediction reaches too far."""


@dataclass(frozen=True)
class Origin:
    """What made the prediction: a run's folder name, network, profile, seed, and hashes of its weights and training data."""

    run: str
    network: str
    profile: str
    seed: int
    weights: str
    data: str

    @classmethod
    def of(cls, run: Path, model: Model) -> "Origin":
        record = model.record
        return cls(run.resolve().name, record["network"], model.settings.profile, record["seed"],
                   file_hash(run / WEIGHTS_FILE), record["data_hash"])

    def __str__(self) -> str:
        return f"{self.network}, profile {self.profile}, seed {self.seed}"


@dataclass(frozen=True)
class Exported:
    """A scan and its masks on the scan's grid: the prediction, and the truth where there is one. ``name`` begins all file
    names; ``source`` holds the headers of the DICOM series that the scan is of, if any; ``note`` is for the report."""

    name: str
    scan: Volume
    prediction: Volume
    truth: Volume | None = None
    source: Sequence[pydicom.Dataset] | None = None
    note: str = ""


def case_name(path: Path, scan: Volume, anonymise: bool) -> str:
    """What a scan's files begin with: the input's name, but for DICOM series and with ``anonymise`` ``ct-`` and a hash."""
    path = path.resolve()
    if anonymise or path.is_dir():
        return f"ct-{voxel_hash(scan)[:10]}"
    return next((path.name[:-len(e)] for e in FILE_ENDINGS if path.name.lower().endswith(e)), path.name)


def find_source(path: Path, scan: Volume, formats: Sequence[str] | None) -> list[pydicom.Dataset] | None:
    """Headers for the DICOM SEG of a scan read from ``path``; None where none is to be written.

    ``formats`` None is the default: then a series that cannot be referred to gets a note and no DICOM SEG. Raises
    InputError when a DICOM SEG is asked for and cannot be made.
    """
    if formats is not None and "dicom-seg" not in formats:
        return None
    if not path.is_dir():
        if formats is not None:
            raise InputError(f"{path}: is no DICOM series, so no DICOM SEG can be made of it; give the folder of the series, or "
                             "leave dicom-seg out of --formats")
        return None
    try:
        return read_source(path, scan)
    except InputError as error:
        if formats is not None:
            raise
        say(f"note: no DICOM SEG: {error}")
        return None


def export(case: Exported, origin: Origin, out: Path, formats: Sequence[str] | None = None,
           anonymise: bool = False) -> list[Path]:
    """Write a case in ``formats`` (without them: DEFAULT) into the folder ``out``, each file whole or not at all; returns
    their paths.

    A joint without voxels gets no mesh, and an empty mask no DICOM SEG; a note says so, and removes that file of an earlier
    export. Files of the case in other formats stay, for they may be wanted; a note names them. Raises InputError when a
    mask lies on another grid than the scan, and when a DICOM SEG is asked for and the series makes none; by default that is
    a note.
    """
    wanted = [name for name in FORMATS if name in (formats or DEFAULT)]
    masks = {PREDICTION: case.prediction} | ({TRUTH: case.truth} if case.truth is not None else {})
    for name, mask in masks.items():
        if not same_geometry(case.scan, mask):
            raise InputError(f"{case.name}: the mask '{name}' lies on another grid than the scan; resample it onto the scan")
    labels = {name: left_and_right(mask) for name, mask in masks.items()}
    files = _Files(out, case.name)
    if "nifti" in wanted:
        for name, mask in masks.items():
            write_volume(mask.with_array((mask.array != 0).astype(np.uint8)), files.new(name, ".nii.gz"))
    if "png" in wanted:
        figure = three_planes(case.scan, case.prediction, case.truth, f"SIJ by {origin}")
        save_figure(figure, files.new(PREDICTION, ".png"), f"{origin}; run {origin.run}", vector=False)
    if "seg.nrrd" in wanted:
        for name, both in labels.items():
            write_segments(both, files.new(name, ".seg.nrrd"))
    if "dicom-seg" in wanted and case.source is not None:
        try:
            write_dicom_seg(labels[PREDICTION], case.source, files.path(PREDICTION, ".dcm"), network=origin.network,
                            run=origin.run, anonymise=anonymise)
            files.new(PREDICTION, ".dcm")
        except InputError as error:
            if formats is not None and case.prediction.array.any():
                raise
            files.leave_out(PREDICTION, ".dcm", str(error))
    meshes = {form: _write_meshes(labels, form, files) for form in wanted if form in MESHES}
    if "slicer" in wanted:
        segmentations = [name for name in files.names() if name.endswith(".seg.nrrd")]
        plain = [] if segmentations else [name for name in files.names() if name.endswith(".nii.gz")]
        ct = files.new("ct", ".nii.gz")
        write_volume(case.scan, ct)
        write_script(files.new("slicer", ".py"), ct.name, segmentations, plain, next(iter(meshes.values()), {}))
    if "json" in wanted:
        content = {
            "magunet": __version__, "case": case.name, "note": case.note, "scan": describe_scan(case.scan),
            "model": {"run": origin.run, "network": origin.network, "profile": origin.profile, "seed": origin.seed,
                      "sha256_of_weights": origin.weights, "hash_of_training_data": origin.data},
            "masks": {name: describe_mask(case.scan, both) for name, both in labels.items()},
            "sha256_of_files": {file.name: file_hash(file) for file in files.written}}
        write_json(files.new(PREDICTION, ".json"), content)
    if old := files.older():
        say(f"note: not written anew, from an earlier export, perhaps of another prediction: {', '.join(old)}")
    return files.written


class _Files:
    """The files of one case: CASE_KIND.ENDING in one folder."""

    def __init__(self, folder: Path, case: str):
        self.folder, self.case = folder, case
        self.written: list[Path] = []

    def path(self, kind: str, ending: str) -> Path:
        return self.folder / f"{self.case}_{kind}{ending}"

    def new(self, kind: str, ending: str) -> Path:
        """The path of a file that is written now."""
        self.written.append(self.path(kind, ending))
        return self.written[-1]

    def leave_out(self, kind: str, ending: str, why: str) -> None:
        """Says why a file is not written, and removes the one of an earlier export."""
        path = self.path(kind, ending)
        path.unlink(missing_ok=True)
        say(f"note: {path.name} is not written: {why}")

    def names(self) -> list[str]:
        return [path.name for path in self.written]

    def older(self) -> list[str]:
        """Names of the case's files that lie there and are not written now."""
        return [path.name for kind, ending in KINDS if (path := self.path(kind, ending)).exists() and path not in self.written]


def _write_meshes(labels: dict[str, Volume], form: str, files: _Files) -> dict[str, tuple[str, tuple[float, float, float]]]:
    """One mesh a joint; returns each file's name and what 3D Slicer shall call it and in which colour."""
    shown = {}
    for name, both in labels.items():
        for joint in JOINTS:
            one, kind = both.with_array(both.array == joint.label), f"{name}_{joint.side}"
            if one.array.any():
                path = files.new(kind, f".{form}")
                if form == "vtp" and name == TRUTH and labels[PREDICTION].array.any():
                    found = surface_map(one, labels[PREDICTION])
                    write_vtp(found.mesh, path, {DISTANCE: found.distance})
                else:
                    MESHES[form](surface_mesh(one), path)
                shown[path.name] = joint.name if name == PREDICTION else f"{joint.name} ({name})", joint.colour
            else:
                files.leave_out(kind, f".{form}", f"the mask has no {joint.name}")
    return shown
