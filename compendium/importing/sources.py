"""Public CT data sets with bone labels, or anyone's CT with a segmentation, made into a cohort.

What each data set looks like stands in ``layouts.toml``. What does not fit is left out, with a reason.
"""

import glob
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from compendium.figures.planes import save_figure, three_planes
from compendium.importing import bones
from compendium.importing.bones import BoneNumbers, Pelvis
from compendium.view.segments import read_segments
from magunet import target, volume
from magunet.base import provenance
from magunet.base.errors import InputError, require
from magunet.base.progress import say
from magunet.body import hu_problem
from magunet.cohort import ANY_VALUES
from magunet.volume import ENDING, FILE_ENDINGS, Volume, extent_problem, onto_grid, read_volume

LAYOUTS = tomllib.loads(Path(__file__).with_name("layouts.toml").read_text(encoding="utf-8"))
"""Files and terms of each data set, by the name that ``magunet import`` takes."""
STATE = "import.json"
"""Lists the cases of an import: the finished ones are not made again."""


class SourceCase(NamedTuple):
    """One CT and its bone labels on disk; label files and segments are numbered 1, 2, ... in order."""

    name: str
    patient: str
    image: Path | None
    labels: tuple[Path, ...]
    numbers: BoneNumbers
    segments: tuple[str, ...] = ()
    orientation: str | None = None


def published_cases(source: str, folder: Path, out: Path) -> list[SourceCase]:
    """The cases of a published data set below a folder; raises InputError when there are none."""
    require(folder.is_dir(), f"{folder}: no such folder; unpack the data set there")
    own = Path(os.path.realpath(out))               # unlike `resolve`, of links that lead in a circle, too
    require(not folder.resolve().is_relative_to(own),
            f"{out}: --out must not be the data set's own folder, nor hold it; give a new one")
    layout, files, cases = LAYOUTS[source], _files_below(folder, without=own), {}
    images = {key: Path(match.string) for key, match in reversed(_matches(layout["images"], files))}
    numbers, segments = BoneNumbers(*map(tuple, layout["numbers"])), tuple(layout.get("segments", ()))
    for key, match in _matches(layout["labels"], files):
        path, name = Path(match.string), layout.get("prefix", "") + match["patient"]
        labels = tuple(path.with_name(f"{part}{ENDING}") for part in layout.get("parts", ())) or (path,)
        cases[labels] = SourceCase(name, match["patient"], images.get(key), labels, numbers, segments)
    require(cases, f"{folder}: holds nothing of {layout['dataset']['name']} as it is published; "
            "see docs/data.md")
    return list(cases.values())


def _matches(pattern: str, files: list[Path]) -> list[tuple[str, re.Match]]:
    """The matches among the files, each with its key; - and _ in a file's own name count as one."""
    matches = filter(None, (re.search(pattern, path.as_posix()) for path in files))
    return [(re.sub("-(?=[^/]*$)", "_", match["key"]), match) for match in matches]


def own_cases(image: Path, labels: Path | None, numbers: BoneNumbers, patient: str | None
              ) -> list[SourceCase]:
    """A CT and its segmentation, or two folders with files of the same names (an nnU-Net folder holds both).
    Raises InputError when there is no segmentation to a CT."""
    if labels is None and (image / "labelsTr").is_dir():
        image, labels = image / "imagesTr", image / "labelsTr"
    require(labels, f"{image}: which file is its segmentation? Give it with --labels")
    for path in (image, labels):
        require(path.exists(), f"{path}: no such file or folder")
    layout = LAYOUTS["totalsegmentator"]
    parts = tuple(labels / f"{part}{ENDING}" for part in layout["parts"])
    apart = parts[0].exists()                       # TotalSegmentator writes a folder with a mask a bone
    prefix = f"{patient}_" if patient else ""
    if apart or labels.is_file():
        require(patient or not image.is_dir(), f"{image}: the folder of a DICOM series often bears the "
                "patient's name, which a case must not; give another one with --patient")
        name = patient if patient and (apart or image.is_dir()) else prefix + stem(image)
        numbers = BoneNumbers(*map(tuple, layout["numbers"])) if apart else numbers
        return [SourceCase(name, patient or name, image, parts if apart else (labels,), numbers)]
    images: dict[str, Path] = {}
    for path in _files_below(image):
        require(images.setdefault(stem(path), path) == path,
                f"{path}: another CT in {image} has the same name; rename one of them")
    masks = {path: stem(path) for path in _files_below(labels)}
    require(masks, f"{labels}: holds no segmentations; they end in one of {', '.join(FILE_ENDINGS)}")
    if alone := sorted(images.keys() - masks.values()):
        say(f"note: {len(alone)} CTs have no segmentation and are left out: {', '.join(alone[:9])}")
    return [SourceCase(prefix + name, patient or name, images.get(name), (path,), numbers)
            for path, name in masks.items()]


def stem(path: Path) -> str:
    """A file's name without the ending of its format, nnU-Net's channel number and 3D Slicer's .seg."""
    endings = "|".join(map(re.escape, FILE_ENDINGS))
    return re.sub(rf"(_0000)?(\.seg)?({endings})?$", "", path.name, count=1, flags=re.IGNORECASE)


def _files_below(folder: Path, without: Path | None = None) -> list[Path]:
    """Volumes in a folder and below it, also by links, in order; none hidden, and none in ``without``."""
    files = sorted(path for path in map(Path, glob.iglob(f"{glob.escape(str(folder))}/**", recursive=True))
                   if path.name.lower().endswith(FILE_ENDINGS))
    return [path for path in files if not (without and path.parent.resolve().is_relative_to(without))]


def read_case(case: SourceCase, force: bool = False) -> tuple[Volume, Pelvis]:
    """CT as it is, bones and joint mask on its grid; with ``force``, although its values are not HU. Raises
    InputError when the case cannot be used."""
    image, (first, *others), notes = read_volume(case.image, case.orientation), case.labels, []
    require(not (problem := extent_problem(image)), f"{case.image}: {problem}")
    if others:
        labels = image.with_array(np.zeros(image.array.shape, np.uint8))
        for number, path in enumerate(case.labels, 1):
            if path.exists():
                labels.array[onto_grid(read_volume(path, case.orientation), image).array > 0] = number
    else:
        labels = (read_segments(first, case.segments) if case.segments else
                  read_volume(first, case.orientation))
    upright = np.diag([-1.0, 1.0, -1.0])            # half a turn, since some CTs of VSD lie upside down
    turned = Volume(image.array, image.spacing, upright @ image.origin, upright @ image.direction)
    if case.segments and volume.same_geometry(turned, labels, volume.GRID_TOLERANCE):
        image, notes = turned, ["stored upside down, turned as its segmentation is"]
    pelvis = bones.derive_pelvis(onto_grid(labels, image), case.numbers)
    extent = onto_grid(labels.with_array(np.ones(labels.array.shape, bool)), image).array
    require(extent[ndimage.binary_dilation(pelvis.mask.array)].all(), f"{first}: ends where a joint goes "
            "on, so that its mask is cut off; give a segmentation of the whole CT")
    require(not (case.orientation and bones.SWAPPED in pelvis.notes), f"{case.image}: with --orientation "
            f"{case.orientation} left and right hip lie on the wrong sides; state another, or other numbers")
    if not force:
        require(not (problem := hu_problem(image)),
                f"{case.image}: {problem}; or take the values as they are with --force")
        require(not (beside := bones.misplaced(pelvis.bones, image)), f"the labels do not lie on bone: "
                f"{beside}; the segmentation is shifted or mirrored, or belongs to another scan")
    return image, pelvis._replace(notes=notes + pelvis.notes)


def import_cases(source: str, cases: list[SourceCase], base: Path, out: Path, progress: Callable,
                 force: bool = False) -> tuple[dict[str, str], list[str], dict[str, str]]:
    """Write cases as a cohort in nnU-Net raw layout, with the merged bones in ``bonesTr`` and pictures of
    them in ``pictures``; ``dataset.json`` comes last. Returns new cases with notes, those that were there
    before, and those left out with the reason. base: folder that sources are named from. Raises as
    `_records`."""
    records, imported, present, skipped = _records(out, source), {}, [], {}
    for case in progress(cases, "read"):
        name = re.sub(r"[^\w.-]+", "_", case.name).strip(".")
        files = (f"bonesTr/{name}", f"labelsTr/{name}", f"imagesTr/{name}_0000")
        paths = [out / f"{file}{ENDING}" for file in files]
        try:
            record = _record(case, base) | ({ANY_VALUES: True} if force else {})
            old = records.get(name, {}) if all(path.exists() for path in paths) else {}
            if old == old | record:
                present.append(name)
                continue
            require(name in records or not any(map(os.path.lexists, paths)),
                    f"{paths[2]} or its labels are there, and not from this import; give another --out")
            require(all(old.get(key, record[key]) == record[key] for key in ("files", "ct")),
                    "is there already, from other files or label numbers; import this one under another "
                    f"--patient or --out, or remove {paths[2]} to put it in its place")
            image, pelvis = read_case(case, force)
        except InputError as error:
            skipped[name] = str(error)
            continue
        (out / "dataset.json").unlink(missing_ok=True)
        provenance.write_json(out / STATE, {"source": source, "cases": records | {name: {}}})
        for path, content in zip(paths, (pelvis.bones, pelvis.mask, image)):
            volume.write_volume(content, path)
        picture = three_planes(image, None, pelvis.bones, name, "bone labels")
        save_figure(picture, out / f"pictures/{name}.png", "bone labels", dpi=150, vector=False)
        records[name] = record | {"notes": pelvis.notes}
        provenance.write_json(out / STATE, {"source": source, "cases": records})
        imported[name] = "; ".join(pelvis.notes)
    if finished := {name: record for name, record in records.items() if record}:
        provenance.write_json(out / "dataset.json", {
            "channel_names": {"0": "CT"}, "labels": {"background": 0, "SIJ": 1}, "numTraining": len(finished),
            "file_ending": ENDING, **LAYOUTS[source]["dataset"], "cases": finished})
    return imported, present, skipped


def _record(case: SourceCase, base: Path) -> dict:
    """What a finished case is known by: its CT, its labels, and the code that made it."""
    require(case.image, f"no CT for {case.labels[0].name}; download it, and unpack it into the same folder")
    series = case.image.is_dir()
    for path in filter(Path.is_symlink, (case.image, *case.labels)):
        volume.require_there(path)
    slices = sorted(filter(Path.is_file, case.image.iterdir())) if series else [case.image]
    files = [0 if series else case.image.stat().st_size,
             *(provenance.file_hash(path) for path in case.labels if path.exists())]
    known_by = files, case.numbers, *filter(None, [case.orientation])
    return {"patient": case.patient, "files": provenance.content_hash(*known_by),
            "ct": provenance.content_hash([provenance.file_hash(path) for path in slices]),
            "source": "a DICOM series" if series else case.image.relative_to(base).as_posix(),
            "thickness_mm": target.THICKNESS, "code": provenance.code_hash(target, bones)}


def _records(out: Path, source: str) -> dict[str, dict]:
    """Cases of an earlier import; empty for one that was begun only. Raises InputError unless the folder is
    new, or of the same source."""
    if not (out / STATE).exists():
        require(not out.exists() or (out.is_dir() and not any(out.iterdir())),
                f"{out}: is not empty, and not from 'magunet import'; give another --out")
        return {}
    try:
        state = provenance.read_json(out / STATE)
        origin, records = state["source"], dict(state["cases"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{out / STATE}: damaged; remove {out} and import again") from error
    require(origin == source, f"{out}: holds cases of {origin}; give another folder with --out for {source}")
    return records
