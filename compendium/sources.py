"""Public CT data sets with bone labels, or anyone's CT with a segmentation, made into a cohort of joint masks.

What each data set looks like was taken from its record's description and from several programs that read it;
none of the four was downloaded here. Whatever does not fit is left out, and the reason is given:

    totalsegmentator  sXXXX/ct.nii.gz  sXXXX/segmentations/{sacrum,vertebrae_S1,hip_left,hip_right}.nii.gz
    vsd               CASE/[CASE/]SMIR.*/X-Pelvis-Thighs_Reconstruction.seg.nrrd, a 3D Slicer segmentation of hollow
                      bones named Sacrum, Hip_L, Hip_R; the CT is X-Pelvis-Thighs.nrrd or X.nrrd. Many are stored upside
                      down with a segmentation that is not.
    ctpelvic1k        [datasetN_]X_mask_4label.nii.gz and, in some other folder, [datasetN_]X_data.nii.gz: 1 sacrum, 2 and
                      3 hips, 4 lumbar. The CTs of datasets 1 to 5 come from other collections under their own names.
    pengwin           PENGWIN_CT_train_images_part{1,2}/XXX.mha, PENGWIN_CT_train_labels/XXX.mha: fragments 1-10 of the
                      sacrum, 11-20 of the left hip, 21-30 of the right
    labelmap          any of the formats magunet reads
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from compendium import bones
from compendium.bones import GRID_TOLERANCE, BoneNumbers, Pelvis, check_present, derive_pelvis, onto_grid
from magunet import distance, target
from magunet.base import provenance
from magunet.base.errors import InputError
from magunet.cohort import holds_air
from magunet.series import AIR_HU
from magunet.target import THICKNESS
from magunet.volume import ENDING, FILE_ENDINGS, Volume, read_segments, read_volume, same_geometry, write_volume

ONE_TWO_THREE = BoneNumbers((1,), (2,), (3,))
BONE_HU = 150
"""In a CT in HU, the densest tenth of every pelvis is denser than this."""
STATE = "import.json"
PARTS = ("sacrum", "vertebrae_S1", "hip_left", "hip_right")
SEGMENTS = ("Sacrum", "Hip_L", "Hip_R")
RECONSTRUCTION, FOUR_LABELS = "_Reconstruction.seg.nrrd", "_mask_4label"
HALF_TURN = np.diag([-1.0, 1.0, -1.0])
"""About the front-to-back axis through the origin: how VSD's upside-down scans are turned upright."""


@dataclass(frozen=True)
class Terms:
    """What goes into dataset.json about a data set."""

    title: str
    licence: str
    citation: str
    reference: str


@dataclass(frozen=True)
class Scan:
    """One CT and its bone labels as they lie on disk; several label files are masks, numbered 1, 2, ... in order."""

    name: str
    patient: str
    image: Path | None
    labels: tuple[Path, ...]
    numbers: BoneNumbers
    segments: tuple[str, ...] = ()      # of a 3D Slicer segmentation, in the order of the numbers


@dataclass
class Outcome:
    """Cases of an import: new ones with notes, those that were there, and those left out with the reason."""

    imported: dict[str, str] = field(default_factory=dict)
    present: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


# What lies in a folder -----------------------------------------------------------------------------------

def find_totalsegmentator(files: list[Path]) -> Iterator[Scan]:
    for image in files:
        folder = image.parent / "segmentations"
        if image.name == "ct.nii.gz" and folder.is_dir():
            masks = tuple(folder / f"{part}.nii.gz" for part in PARTS)
            yield Scan(image.parent.name, image.parent.name, image, masks, BoneNumbers((1, 2), (3,), (4,)))


def find_vsd(files: list[Path]) -> Iterator[Scan]:
    for labels in files:
        if labels.name.endswith(f"-Pelvis-Thighs{RECONSTRUCTION}"):
            stem = labels.name.removesuffix(RECONSTRUCTION)
            images = [labels.with_name(f"{s}.nrrd") for s in (stem, stem.removesuffix("-Pelvis-Thighs"))]
            image, patient = next((path for path in images if path.exists()), None), labels.parent.parent.name
            yield Scan(f"vsd_{patient}", patient, image, (labels,), ONE_TWO_THREE, SEGMENTS)


def find_ctpelvic1k(files: list[Path]) -> Iterator[Scan]:
    def key(path: Path) -> str:
        name = path.parent.name if path.name == "imaging.nii.gz" else stem(path)            # KiTS: case_00014/imaging.nii.gz
        return re.sub(r"^dataset\d_|_data$", "", name.replace("-", "_"))                    # cervix: 0507688-Image.nii.gz

    masks = [path for path in files if stem(path).endswith(FOUR_LABELS)]
    images = {key(path): path for path in files if path not in set(masks) and not path.parent.name.startswith("label")}
    for mask in masks:
        name = stem(mask).removesuffix(FOUR_LABELS)
        yield Scan(name, name, images.get(re.sub(r"^dataset\d_", "", name).replace("-", "_")), (mask,), ONE_TWO_THREE)


def find_pengwin(files: list[Path]) -> Iterator[Scan]:
    files = [path for path in files if path.suffix == ".mha"]
    images = {stem(path): path for path in files if "label" not in path.parent.name}
    for labels in files:
        if "label" in labels.parent.name:
            name = f"pengwin_{stem(labels)}"
            numbers = BoneNumbers(tuple(range(1, 11)), tuple(range(11, 21)), tuple(range(21, 31)))
            yield Scan(name, name, images.get(stem(labels)), (labels,), numbers)


def find_labelmaps(image: Path, labels: Path | None, numbers: BoneNumbers, patient: str | None) -> list[Scan]:
    """A CT and its segmentation, or two folders with files of the same names (an nnU-Net folder holds both).

    Raises InputError when there is no segmentation to a CT.
    """
    if labels is None and (image / "labelsTr").is_dir():
        image, labels = image / "imagesTr", image / "labelsTr"
    if labels is None:
        raise InputError(f"{image}: which file is its segmentation? Give it with --labels")
    for path in (image, labels):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
    apart = labels.is_dir() and all((labels / f"{part}{ENDING}").exists() for part in ("sacrum", "hip_left", "hip_right"))
    if image.is_dir() and (apart or labels.is_file()) and not patient:
        raise InputError(f"{image}: the folder of a DICOM series often bears the patient's name, which a case must not; give "
                         "another one with --patient")
    if apart:
        name = patient or stem(image)                       # TotalSegmentator's output without --ml: a mask a file
        masks = tuple(labels / f"{part}{ENDING}" for part in PARTS)
        return [Scan(name, name, image, masks, BoneNumbers((1, 2), (3,), (4,)))]
    pairs = [(image, labels)]
    if labels.is_dir():
        found = files_below(image)
        images = {stem(path): path for path in found}
        if len(images) < len(found):
            twice = next(path for path in found if images[stem(path)] != path)
            raise InputError(f"{twice}: another CT in {image} has the same name; give each CT a name of its own")
        pairs = [(images.get(stem(path)), path) for path in files_below(labels)]
    if not pairs:
        raise InputError(f"{labels}: holds no segmentations; they end in one of {', '.join(FILE_ENDINGS)}")
    names = [patient if image.is_dir() and labels.is_file() else f"{patient}_{stem(path or mask)}" if patient
             else stem(path or mask) for path, mask in pairs]
    return [Scan(name, patient or name, path, (mask,), numbers) for name, (path, mask) in zip(names, pairs)]


FINDERS = {"totalsegmentator": find_totalsegmentator, "vsd": find_vsd, "ctpelvic1k": find_ctpelvic1k, "pengwin": find_pengwin}
TERMS = {
    "totalsegmentator": Terms(
        "TotalSegmentator CT", "CC BY 4.0",
        "Wasserthal J et al. TotalSegmentator: robust segmentation of 104 anatomic structures in CT images. Radiology: "
        "Artificial Intelligence 5 (2023) e230024", "https://doi.org/10.5281/zenodo.10047263"),
    "vsd": Terms(
        "VSD full body bone reconstruction", "CC BY-NC-SA 4.0",
        "Fischer MCM. Database of segmentations and surface models of bones of the entire lower body created from cadaver "
        "CT scans. Scientific Data 10 (2023) 763", "https://doi.org/10.5281/zenodo.8302448"),
    "ctpelvic1k": Terms(
        "CTPelvic1K", "see the page of the record, and those of the collections that its datasets 1 to 5 label",
        "Liu P et al. Deep learning to segment pelvic bones: large-scale CT datasets and baseline models. International "
        "Journal of Computer Assisted Radiology and Surgery 16 (2021) 749", "https://doi.org/10.5281/zenodo.4588403"),
    "pengwin": Terms(
        "PENGWIN 2024, task 1", "see the page of the record",
        "Liu Y et al. Pelvic fracture segmentation using a multi-scale distance-weighted neural network. MICCAI 2023",
        "https://doi.org/10.5281/zenodo.10927452"),
    "labelmap": Terms("own CTs with bone segmentations", "not stated", "not stated", "not stated"),
}


def stem(path: Path) -> str:
    """A file's name without the ending of its format, nnU-Net's channel number and 3D Slicer's .seg."""
    ending = next((e for e in FILE_ENDINGS if path.name.lower().endswith(e)), "")
    return path.name[:len(path.name) - len(ending)].removesuffix(".seg").removesuffix("_0000")


def files_below(folder: Path, without: Path | None = None) -> list[Path]:
    """Volumes in a folder and below it, in order; none that are hidden or lie in ``without``."""
    return sorted(path for path in folder.rglob("*") if path.name.lower().endswith(FILE_ENDINGS)
                  and not path.name.startswith(".") and not (without and path.is_relative_to(without)))


def find_scans(source: str, folder: Path, out: Path) -> list[Scan]:
    """The scans of a published data set below a folder; raises InputError when there are none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; unpack the data set there")
    if folder.is_relative_to(out):
        raise InputError(f"{out}: --out must not be the data set's own folder, nor hold it; give a new one")
    if scans := list(FINDERS[source](files_below(folder, without=out))):
        return scans
    raise InputError(f"{folder}: holds nothing of {TERMS[source].title} as it is published; see docs/data.md")


# From scan to case -----------------------------------------------------------------------------------------

def read_scan(scan: Scan) -> tuple[Volume, Pelvis]:
    """CT as it is, bones and joint mask on its grid. Raises InputError that says why the scan cannot be used."""
    if scan.image is None:
        raise InputError(f"no CT for {scan.labels[0].name}; download it, and unpack it into the same folder")
    labels = read_segments(scan.labels[0], scan.segments) if scan.segments else _read_labels(scan.labels)
    check_present(labels.array, scan.numbers)
    image, notes = read_volume(scan.image), []
    turned = Volume(image.array, image.spacing, tuple(HALF_TURN @ image.origin), HALF_TURN @ image.direction)
    if scan.segments and same_geometry(turned, labels, GRID_TOLERANCE):
        image, notes = turned, ["stored upside down, turned as its segmentation is"]
    pelvis = derive_pelvis(onto_grid(labels, image), scan.numbers)
    if not holds_air(image):
        raise InputError(f"no voxel of the CT is below {AIR_HU}, so its values are not HU; export it again in HU")
    if np.percentile(image.array[pelvis.bones.array > 0], 90) < BONE_HU:
        raise InputError("the labels do not lie on bone; the segmentation belongs to another scan, or the values are not HU")
    return image, pelvis._replace(notes=notes + pelvis.notes)


def _read_labels(paths: tuple[Path, ...]) -> Volume:
    if len(paths) == 1:
        return read_volume(paths[0])
    masks = {number: read_volume(path) for number, path in enumerate(paths, 1) if path.exists()}
    if not masks:
        raise InputError(f"none of {', '.join(path.name for path in paths)} in {paths[0].parent.name}; unpack the data set again")
    grid = next(iter(masks.values()))
    merged = np.zeros(grid.array.shape, np.uint8)
    for number, mask in masks.items():
        merged[onto_grid(mask, grid).array > 0] = number
    return grid.with_array(merged)


# Into a cohort -------------------------------------------------------------------------------------------

def import_scans(source: str, scans: list[Scan], base: Path, out: Path, progress: Callable[[list, str], Iterator]) -> Outcome:
    """Write scans as a cohort in nnU-Net raw layout, with the merged bones in ``bonesTr``.

    base: folder that sources are named from. Finished cases are not made again (``import.json`` lists them),
    and ``dataset.json`` comes last. Raises InputError when ``out`` holds anything else.
    """
    done, outcome = _finished(out, source), Outcome()
    for scan in progress(scans, "read"):
        name = re.sub(r"[^\w.-]+", "_", scan.name).strip(".")
        paths = [out / f"{file}{ENDING}" for file in (f"bonesTr/{name}", f"labelsTr/{name}", f"imagesTr/{name}_0000")]
        try:
            record = _record(scan, base)
            old = done.get(name, {}) if all(path.exists() for path in paths) else {}
            if old == old | record:
                outcome.present.append(name)
                continue
            if old and old["files"] != record["files"]:
                raise InputError("is there already, from other files or label numbers; import this one under another "
                                 f"--patient or --out, or remove {paths[2]} to put it in its place")
            image, pelvis = read_scan(scan)
        except InputError as error:
            outcome.skipped[name] = str(error)
            continue
        (out / "dataset.json").unlink(missing_ok=True)
        provenance.write_json(out / STATE, {"source": source, "cases": done})
        for path, volume in zip(paths, (pelvis.bones, pelvis.mask, image)):
            write_volume(volume, path)
        done[name] = record | {"notes": pelvis.notes}
        provenance.write_json(out / STATE, {"source": source, "cases": done})
        outcome.imported[name] = "; ".join(pelvis.notes)
    if done:
        _write_dataset(out, TERMS[source], done)
    return outcome


def _record(scan: Scan, base: Path) -> dict:
    """What a finished case is known by: its files (of the CT the size will do), and the code that made it."""
    size = scan.image.stat().st_size if scan.image and scan.image.is_file() else 0
    files = [size, *(provenance.file_hash(path) for path in scan.labels if path.exists())]
    path = scan.image or scan.labels[0]
    source = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name
    return {"patient": scan.patient, "source": "a DICOM series" if path.is_dir() else source,
            "files": provenance.content_hash(files, scan.numbers), "thickness_mm": THICKNESS,
            "code": provenance.code_hash(target, bones, distance)}


def _finished(out: Path, source: str) -> dict[str, dict]:
    """Cases of an earlier import; raises InputError unless the folder is new, or of the same source."""
    if not (out / STATE).exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out}: is not empty, and not from 'magunet import'; give a new folder with --out")
        return {}
    try:
        state = provenance.read_json(out / STATE)
        found, cases = state["source"], dict(state["cases"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{out / STATE}: damaged; remove {out} and import again") from error
    if found != source:
        raise InputError(f"{out}: holds cases of {found}; give another folder with --out for {source}")
    return cases


def _write_dataset(out: Path, terms: Terms, done: dict[str, dict]) -> None:
    keys = ("patient", "source", "thickness_mm", "notes")
    provenance.write_json(out / "dataset.json", {
        "channel_names": {"0": "CT"}, "labels": {"background": 0, "SIJ": 1}, "numTraining": len(done), "file_ending": ENDING,
        "name": terms.title, "licence": terms.licence, "citation": terms.citation, "reference": terms.reference,
        "cases": {name: {key: record[key] for key in keys} for name, record in done.items()}})
