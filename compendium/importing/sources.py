"""Public CT data sets with bone labels, or anyone's CT with a segmentation, made into a cohort.

What each data set looks like (``layouts.toml``) was taken from its record's description and from several
programs that read it; none of the four was downloaded here. Whatever does not fit is left out, with a reason.
"""

import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compendium.importing import bones
from compendium.importing.bones import GRID_TOLERANCE, BoneNumbers, Pelvis, onto_grid
from compendium.view.segments import read_segments
from magunet import target, volume
from magunet.base import provenance
from magunet.base.errors import InputError
from magunet.cohort import holds_air
from magunet.series import AIR_HU
from magunet.target import THICKNESS
from magunet.volume import ENDING, FILE_ENDINGS, Volume, read_volume

LAYOUTS = tomllib.loads(Path(__file__).with_name("layouts.toml").read_text(encoding="utf-8"))
"""Files and terms of each data set, by the name that ``magunet import`` takes."""
BONE_HU = 150
"""In a CT in HU, the densest tenth of every pelvis is denser than this."""
STATE = "import.json"
"""Lists the finished cases of an import, which are not made again."""
HALF_TURN = np.diag([-1.0, 1.0, -1.0])
"""About the front-to-back axis through the origin: how VSD's upside-down scans are turned upright."""


@dataclass(frozen=True)
class SourceCase:
    """One CT and its bone labels on disk; label files and segments are numbered 1, 2, ... in order."""

    name: str
    patient: str
    image: Path | None
    labels: tuple[Path, ...]
    numbers: BoneNumbers
    segments: tuple[str, ...] = ()


def published_cases(source: str, folder: Path, out: Path) -> list[SourceCase]:
    """The cases of a published data set below a folder; raises InputError when there are none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; unpack the data set there")
    if folder.is_relative_to(out):
        raise InputError(f"{out}: --out must not be the data set's own folder, nor hold it; give a new one")
    layout, files, images, cases = LAYOUTS[source], _files_below(folder, without=out), {}, {}
    for key, match in _matches(layout["images"], files):
        images.setdefault(key, Path(match.string))
    numbers, segments = BoneNumbers(*map(tuple, layout["numbers"])), tuple(layout.get("segments", ()))
    for key, match in _matches(layout["labels"], files):
        path, name = Path(match.string), layout.get("prefix", "") + match["patient"]
        labels = tuple(path.with_name(f"{part}{ENDING}") for part in layout.get("parts", ())) or (path,)
        cases[labels] = SourceCase(name, match["patient"], images.get(key), labels, numbers, segments)
    if not cases:
        raise InputError(f"{folder}: holds nothing of {layout['dataset']['name']} as it is published; "
                         "see docs/data.md")
    return list(cases.values())


def _matches(pattern: str, files: list[Path]) -> Iterator[tuple[str, re.Match]]:
    for path in files:
        if match := re.search(pattern, path.as_posix()):
            folder, _, name = match["key"].rpartition("/")
            yield f"{folder}/{name.replace('-', '_')}", match


def own_cases(image: Path, labels: Path | None, numbers: BoneNumbers, patient: str | None
              ) -> list[SourceCase]:
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
    layout = LAYOUTS["totalsegmentator"]
    masks = tuple(labels / f"{part}{ENDING}" for part in layout["parts"])
    apart = all(path.exists() for path in masks if path.name != f"vertebrae_S1{ENDING}")
    single = apart or labels.is_file()
    if image.is_dir() and single and not patient:
        raise InputError(f"{image}: the folder of a DICOM series often bears the patient's name, which a "
                         "case must not; give another one with --patient")
    pairs = [(image, masks if apart else (labels,))]
    if not single:
        images: dict[str, Path] = {}
        for path in _files_below(image):
            if images.setdefault(stem(path), path) != path:
                raise InputError(f"{path}: another CT in {image} has the same name; rename one of them")
        pairs = [(images.get(stem(path)), (path,)) for path in _files_below(labels)]
    if not pairs:
        raise InputError(f"{labels}: holds no segmentations; they end in one of {', '.join(FILE_ENDINGS)}")
    cases, numbers = [], BoneNumbers(*map(tuple, layout["numbers"])) if apart else numbers
    for path, files in pairs:
        name = stem(path or files[0])
        if patient:
            name = patient if apart or (image.is_dir() and single) else f"{patient}_{name}"
        cases.append(SourceCase(name, patient or name, path, files, numbers))
    return cases


def stem(path: Path) -> str:
    """A file's name without the ending of its format, nnU-Net's channel number and 3D Slicer's .seg."""
    ending = next((e for e in FILE_ENDINGS if path.name.lower().endswith(e)), "")
    return path.name[:len(path.name) - len(ending)].removesuffix(".seg").removesuffix("_0000")


def _files_below(folder: Path, without: Path | None = None) -> list[Path]:
    """Volumes in a folder and below it, in order; none that are hidden or lie in ``without``."""
    return sorted(path for path in folder.rglob("*") if path.name.lower().endswith(FILE_ENDINGS)
                  and not path.name.startswith(".") and not (without and path.is_relative_to(without)))


def read_case(case: SourceCase) -> tuple[Volume, Pelvis]:
    """CT as it is, bones and joint mask on its grid. Raises InputError when the case cannot be used."""
    if case.image is None:
        raise InputError(f"no CT for {case.labels[0].name}; download it, and unpack it into the same folder")
    labels, image, notes = _read_labels(case), read_volume(case.image), []
    turned = Volume(image.array, image.spacing, tuple(HALF_TURN @ image.origin), HALF_TURN @ image.direction)
    if case.segments and volume.same_geometry(turned, labels, GRID_TOLERANCE):
        image, notes = turned, ["stored upside down, turned as its segmentation is"]
    pelvis = bones.derive_pelvis(onto_grid(labels, image), case.numbers)
    if not holds_air(image):
        raise InputError(f"no voxel of the CT is below {AIR_HU}, so its values are not HU; export it in HU")
    if np.percentile(image.array[pelvis.bones.array > 0], 90) < BONE_HU:
        raise InputError("the labels do not lie on bone; the segmentation belongs to another scan, or the "
                         "values are not HU")
    return image, pelvis._replace(notes=notes + pelvis.notes)


def _read_labels(case: SourceCase) -> Volume:
    """All labels of a case in one volume."""
    first = case.labels[0]
    if len(case.labels) == 1:
        return read_segments(first, case.segments) if case.segments else read_volume(first)
    masks = {number: read_volume(path) for number, path in enumerate(case.labels, 1) if path.exists()}
    if not masks:
        names = ", ".join(path.name for path in case.labels)
        raise InputError(f"none of {names} in {first.parent.name}; unpack the data set again")
    grid = next(iter(masks.values()))
    merged = np.zeros(grid.array.shape, np.uint8)
    for number, mask in masks.items():
        merged[onto_grid(mask, grid).array > 0] = number
    return grid.with_array(merged)


def import_cases(
        source: str, cases: list[SourceCase], base: Path, out: Path, progress: Callable[[list, str], Iterator]
        ) -> tuple[dict[str, str], list[str], dict[str, str]]:
    """Write cases as a cohort in nnU-Net raw layout, with the merged bones in ``bonesTr``.

    base: folder that sources are named from. Returns new cases with notes, those that were there before
    (``import.json`` lists them), and those left out with the reason. ``dataset.json`` comes last. Raises
    InputError when ``out`` holds anything else.
    """
    records, imported, present, skipped = _finished(out, source), {}, [], {}
    for case in progress(cases, "read"):
        name = re.sub(r"[^\w.-]+", "_", case.name).strip(".")
        files = (f"bonesTr/{name}", f"labelsTr/{name}", f"imagesTr/{name}_0000")
        paths = [out / f"{file}{ENDING}" for file in files]
        try:
            record = _record(case, base)
            old = records.get(name, {}) if all(path.exists() for path in paths) else {}
            if old == old | record:
                present.append(name)
                continue
            if old and old["files"] != record["files"]:
                raise InputError("is there already, from other files or label numbers; import this one under "
                                 f"another --patient or --out, or remove {paths[2]} to put it in its place")
            image, pelvis = read_case(case)
        except InputError as error:
            skipped[name] = str(error)
            continue
        (out / "dataset.json").unlink(missing_ok=True)
        provenance.write_json(out / STATE, {"source": source, "cases": records})
        for path, content in zip(paths, (pelvis.bones, pelvis.mask, image)):
            volume.write_volume(content, path)
        records[name] = record | {"notes": pelvis.notes}
        provenance.write_json(out / STATE, {"source": source, "cases": records})
        imported[name] = "; ".join(pelvis.notes)
    if records:
        keys = ("patient", "source", "thickness_mm", "notes")
        provenance.write_json(out / "dataset.json", {
            "channel_names": {"0": "CT"}, "labels": {"background": 0, "SIJ": 1}, "numTraining": len(records),
            "file_ending": ENDING, **LAYOUTS[source]["dataset"],
            "cases": {name: {key: record[key] for key in keys} for name, record in records.items()}})
    return imported, present, skipped


def _record(case: SourceCase, base: Path) -> dict:
    """What a finished case is known by: its files (of the CT the size will do), and the code that made it."""
    size = case.image.stat().st_size if case.image and case.image.is_file() else 0
    files = [size, *(provenance.file_hash(path) for path in case.labels if path.exists())]
    path = case.image or case.labels[0]
    source = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name
    return {"patient": case.patient, "source": "a DICOM series" if path.is_dir() else source,
            "files": provenance.content_hash(files, case.numbers), "thickness_mm": THICKNESS,
            "code": provenance.code_hash(target, bones)}


def _finished(out: Path, source: str) -> dict[str, dict]:
    """Cases of an earlier import; raises InputError unless the folder is new, or of the same source."""
    if not (out / STATE).exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out}: is not empty, and not from 'magunet import'; give another --out")
        return {}
    try:
        state = provenance.read_json(out / STATE)
        origin, records = state["source"], dict(state["cases"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{out / STATE}: damaged; remove {out} and import again") from error
    if origin != source:
        raise InputError(f"{out}: holds cases of {origin}; give another folder with --out for {source}")
    return records
