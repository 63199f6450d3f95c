"""A cohort: a folder of CTs and masks in nnU-Net v2 raw layout, with a split by patient.

    imagesTr/CASE_0000.nii.gz  labelsTr/CASE.nii.gz  dataset.json  splits.json

``dataset.json`` may name each case's patient under "cases"; without it every case is its own patient.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from magunet.base import provenance
from magunet.base.errors import InputError, require
from magunet.body import hu_problem
from magunet.volume import ENDING, Volume, corners, extent_problem, read_volume, same_geometry

SPLIT_SEED = 0
"""Of the random split of a cohort that comes without one."""
ANY_VALUES = "any_values"
"""Of a case in dataset.json: true where a person takes the values of its scan, although they are not HU."""


class Case(NamedTuple):
    """One scan: its name, files, patient, and what dataset.json says of it."""

    name: str
    image: Path
    label: Path
    patient: str
    info: dict


class Cohort(NamedTuple):
    """All cases of a folder, and the names of those to train on and to score."""

    root: Path
    cases: dict[str, Case]
    train: tuple[str, ...]
    val: tuple[str, ...]


def load_cohort(root: Path | str) -> Cohort:
    """Read a cohort's lists; makes ``splits.json`` once if there is none, and never changes it.

    Scans of one patient only are all for validation: they can be looked at and scored, not trained on. Raises
    InputError when a file is missing, a split names an unknown case, or a patient's scans are on both sides.
    """
    root = Path(root)
    cases, path = _cases(root), root / "splits.json"
    patients = {name: case.patient for name, case in cases.items()}
    if not path.exists():
        if len(set(patients.values())) == 1:
            return Cohort(root, cases, (), tuple(cases))
        train, val = split_by_patient(patients)
        provenance.write_json(path, {"seed": SPLIT_SEED, "train": train, "val": val})
    return Cohort(root, cases, *map(tuple, _read_split(path, patients)))


def split_by_patient(patients: Mapping[str, str], seed: int = SPLIT_SEED) -> tuple[list[str], list[str]]:
    """Cases for training and validation, 7:3 by patient at random (Sec. 2.1.1).

    patients: case -> patient. All scans of a patient land on one side; both sides get at least one.
    Raises InputError for fewer than two patients.
    """
    names = sorted(set(patients.values()))
    require(len(names) > 1, "a cohort needs scans of two patients, to train on one and score the other")
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = {names[i] for i in order[:round(len(names) * 7 / 10)]}
    train = sorted(case for case, patient in patients.items() if patient in chosen)
    return train, sorted(set(patients) - set(train))


def _cases(root: Path) -> dict[str, Case]:
    """Cases by name; hidden files, such as an interrupted write leaves, are none."""
    path, cases = root / "dataset.json", {}
    dataset = _read_json(path)
    require(dataset.get("file_ending", ENDING) == ENDING, f"{path}: file_ending must be {ENDING}; convert "
            "the images and labels")
    infos = dataset.get("cases", {})
    require(isinstance(infos, dict) and all(isinstance(info, dict) for info in infos.values()),
            f'{path}: \'cases\' must map each case to {{"patient": "p1"}} or such; correct or remove it')
    for image in sorted(root.glob(f"imagesTr/[!.]*_0000{ENDING}")):
        name = image.name.removesuffix(f"_0000{ENDING}")
        label, info = root / "labelsTr" / f"{name}{ENDING}", infos.get(name, {})
        require(label.exists(), f"{label}: the mask of {image.name} is missing; add it or remove the image")
        cases[name] = Case(name, image, label, str(info.get("patient", name)), info)
    require(cases, f"{root}: no images named imagesTr/CASE_0000{ENDING}; this is not nnU-Net raw layout")
    for label in root.glob(f"labelsTr/[!.]*{ENDING}"):
        name = label.name.removesuffix(ENDING)
        require(name in cases, f"{label}: has no image {name}_0000{ENDING}; add it or remove the mask")
    return cases


def _read_json(path: Path) -> dict:
    """The object in a JSON file."""
    try:
        content = provenance.read_json(path)
    except FileNotFoundError:
        raise InputError(f"{path}: missing; a cohort is a folder in nnU-Net raw layout, make one with "
                         "'magunet cohort'") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); restore it or remove it") from error
    require(isinstance(content, dict), f"{path}: must hold a JSON object; restore it or remove it")
    return content


def _read_split(path: Path, patients: Mapping[str, str]) -> list[list[str]]:
    """The cases for training and those for validation, whose patients are no others."""
    split = _read_json(path)
    sides = [split.get("train"), split.get("val")]
    require(all(isinstance(side, list) and side for side in sides), f"{path}: must hold two lists of cases, "
            "'train' and 'val'; remove it to split anew")
    for name in (*sides[0], *sides[1]):
        require(name in list(patients) and max(side.count(name) for side in sides) == 1, f"{path}: {name!r} "
                "must be the name of a case, and stand once; remove the file to split anew")
    for patient in sorted({patients[name] for name in sides[0]} & {patients[name] for name in sides[1]}):
        raise InputError(f"{path}: patient {patient!r} is in both train and val; a score would be worthless. "
                         "Remove the file to split anew")
    return sides


def read_checked(case: Case) -> tuple[Volume, Volume]:
    """CT and mask of a case; raises InputError when they do not make one to train on."""
    image, label = read_volume(case.image), read_volume(case.label)
    for problem in case_problems(case, image, label):
        raise InputError(problem)
    return image, label


def case_problems(case: Case, image: Volume | None, label: Volume | None) -> list[str]:
    """What makes a case useless for training, a line a problem; None is for a file that cannot be read.

    It is a mask that does not lie voxel on voxel of its scan, holds other values than 0 and 1 or only one of
    them, a scan of the wrong size, or whose values are not HU, if dataset.json does not say to take them.
    """
    lines, label_path, image_path = [], case.label, case.image
    if image and label and not same_geometry(image, label):
        how = f"{label.array.shape} voxels against {image.array.shape}"
        if image.array.shape == label.array.shape:
            distance = np.linalg.norm(corners(image) - corners(label), axis=1).max()
            how = f"corners up to {distance:.3g} mm apart"
        lines.append(f"{label_path}: lies on another grid than {image_path.name} ({how}); resample the mask "
                     "onto the image")
    values = np.unique(label.array) if label else np.array([0, 1])
    if not np.isin(values, (0, 1)).all():
        lines.append(f"{label_path}: holds labels {values[:6].tolist()}; the SIJ mask must hold 0 and 1 only")
    elif len(values) < 2:
        content = "fills the volume" if values.any() else "is empty"
        lines.append(f"{label_path}: the mask {content}; remove the case or label it")
    if image and (problem := extent_problem(image)):
        lines.append(f"{image_path}: {problem}")
    if image and not case.info.get(ANY_VALUES) and (problem := hu_problem(image)):
        lines.append(f"{image_path}: {problem}")
    return lines
