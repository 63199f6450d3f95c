"""A cohort: a folder of CTs and masks in nnU-Net v2 raw layout, with a split by patient.

    imagesTr/CASE_0000.nii.gz  labelsTr/CASE.nii.gz  dataset.json  splits.json or nnU-Net's splits_final.json

``dataset.json`` may name each case's patient under "cases"; a case without one is a patient of its own.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from magunet.base import provenance
from magunet.base.errors import InputError, require
from magunet.base.progress import say
from magunet.body import hu_problem
from magunet.volume import ENDING, FILE_ENDINGS, Volume, corners, extent_problem, read_volume, same_geometry

SPLIT_SEED = 0
"""Of the random split of a cohort that comes without one."""
ANY_VALUES = "any_values"
"""Of a case in dataset.json: true where a person takes the values of its scan, although they are not HU."""
KEYS = ("patient", "grade_left", "grade_right", ANY_VALUES)
"""Of a case in dataset.json that are read; others may stand there, unless they are one of these misspelt."""
MISSPELT = ("(patient|subject)([ _-]?(id|name))?|grade([ _-]?(left|right)|[ _-][lr])|(left|right)[ _-]?grade|"
            "any.?values?")
"""Keys, in small letters, that mean one of KEYS."""


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

    It is made of fold 0 of nnU-Net's ``splits_final.json`` where that is there and keeps patients together.
    Scans of one patient only are all for validation: they can be looked at and scored, not trained on. Raises
    InputError when a file is missing, a split names an unknown case, or a patient's scans are on both sides.
    """
    root = Path(root)
    cases, path = _cases(root), root / "splits.json"
    patients = {name: case.patient for name, case in cases.items()}
    if not path.exists():
        if len(set(patients.values())) == 1:
            return Cohort(root, cases, (), tuple(cases))
        fold = _nnunet_fold(root / "splits_final.json", patients)
        train, val = fold or split_by_patient(patients)
        source = {"from": "splits_final.json, fold 0"} if fold else {"seed": SPLIT_SEED}
        provenance.write_json(path, source | {"train": train, "val": val})
    return Cohort(root, cases, *map(tuple, _sides(path, _read_json(path), patients)))


def evenly(names: Sequence[str], count: int) -> list[str]:
    """At most so many of the names, from first to last, evenly spread over their order."""
    places = np.linspace(0, len(names) - 1, count).astype(int)
    return [names[place] for place in np.unique(places)]


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
    _require_all_read(root, dataset.get("channel_names") or dataset.get("modality") or {})
    for image in sorted(root.glob(f"imagesTr/[!.]*_0000{ENDING}")):
        name = image.name.removesuffix(f"_0000{ENDING}")
        label, info = root / "labelsTr" / f"{name}{ENDING}", infos.get(name, {})
        require(label.exists(), f"{label}: the mask of {image.name} is missing; add it or remove the image")
        for key in info.keys() - {*KEYS}:
            misspelt = re.fullmatch(MISSPELT, key.lower())
            require(not misspelt or (misspelt[1] and "patient" in info), f"{path}: {key!r} of {name} is not "
                    f"read; if it means one of {', '.join(KEYS)}, write that")
        require(info.get(ANY_VALUES) in (None, True, False), f"{path}: {ANY_VALUES} of {name} must be true "
                "or false, without quotes")
        patient = str(info.get("patient")).strip()
        cases[name] = Case(name, image, label, name if patient in ("", "None", "nan") else patient, info)
    require(cases, f"{root}: no images named imagesTr/CASE_0000{ENDING}; this is not nnU-Net raw layout")
    for label in root.glob(f"labelsTr/[!.]*{ENDING}"):
        name = label.name.removesuffix(ENDING)
        require(name in cases, f"{label}: has no image {name}_0000{ENDING}; add it or remove the mask")
    for name in infos.keys() - cases.keys():
        raise InputError(f"{path}: 'cases' names {name!r}, which has no image; correct the name, or the "
                         "scan that it means is taken for another patient's")
    return cases


def _require_all_read(root: Path, channels: Mapping[str, str]) -> None:
    """Raises InputError for a scan or mask that would be passed over; other channels get a note if named."""
    others = 0
    for path in sorted([*root.glob("imagesTr/[!.]*"), *root.glob("labelsTr/[!.]*")]):
        require(path.name.endswith(ENDING) or not (path.is_dir() or path.name.lower().endswith(FILE_ENDINGS)),
                f"{path}: files of cases must end in {ENDING}, in small letters; convert or rename it")
        if path.parent.name == "imagesTr" and path.name.endswith(ENDING):
            number = re.search(rf"_(\d{{4}}){re.escape(ENDING)}$", path.name)
            require(number and (number[1] == "0000" or str(int(number[1])) in channels), f"{path}: is no "
                    f"channel that {root / 'dataset.json'} names, and only _0000 is read; rename or move it")
            others += number[1] != "0000"
    if others:
        say(f"note: {root}: only channel 0 is read; {others} images of other channels are not")


def _nnunet_fold(path: Path, patients: Mapping[str, str]) -> list[list[str]]:
    """Cases for training and validation of nnU-Net's fold 0, with a note; none if it is missing or unfit."""
    if not path.exists():
        return []
    try:
        folds = _read_json(path, list)
        require(folds and isinstance(folds[0], dict), f"{path}: holds no folds of 'train' and 'val'")
        train, val = _sides(path, folds[0], patients)
    except InputError as error:
        say(f"note: cases are split anew, not as by nnU-Net: {error}")
        return []
    say(f"note: {path}: the split is fold 0 of {len(folds)}: {len(train)} to train on, {len(val)} to score")
    return [train, val]


def _read_json(path: Path, kind: type = dict) -> Any:
    """The object, or what else it must be, in a JSON file."""
    try:
        content = provenance.read_json(path)
    except FileNotFoundError:
        raise InputError(f"{path}: missing; a cohort is a folder in nnU-Net raw layout, make one with "
                         "'magunet cohort'") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); restore it or remove it") from error
    require(isinstance(content, kind), f"{path}: must hold a JSON {'object' if kind is dict else 'list'}; "
            "restore it or remove it")
    return content


def _sides(path: Path, split: dict, patients: Mapping[str, str]) -> list[list[str]]:
    """The cases for training and those for validation in a file's split, whose patients are no others."""
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
    """What makes a case useless for training, a line a problem; None is for a file that cannot be read."""
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
    if image:
        problems = extent_problem(image), None if case.info.get(ANY_VALUES) else hu_problem(image)
        lines += [f"{image_path}: {problem}" for problem in problems if problem]
    return lines
