"""What a network that was trained on phantoms finds in scans that it has not seen: phantoms, other anatomy, a real CT."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compendium.sample import fetch_sample
from magunet.base.errors import InputError
from magunet.base.progress import track
from magunet.cohort import Cohort
from magunet.joints import JOINTS, SIDES, left_and_right, midline
from magunet.metrics import overlap
from magunet.surfaces import surface_distances
from magunet.volume import ENDING, Volume, read_volume, reorient
from sijphantom.anatomy import label_map_pelvis
from sijphantom.cohort import phantom_scan
from sijphantom.phantom import make_phantom

PHANTOMS, REAL = "validation phantoms", "real CT"
MATRIX, SLICES = 256, (50, 120)
"""Of the renders: pixels a side, fewest and most slices."""


@dataclass(frozen=True)
class Unseen:
    """A scan that a network was not trained on, and its true mask. grades: of the left and the right joint, if known."""

    group: str
    case: str
    scan: Volume
    truth: Volume
    grades: tuple[int, int] | None = None


def validation_phantoms(cohort: Cohort) -> Iterator[Unseen]:
    """The validation cases of a cohort of phantoms."""
    for name in track(cohort.val, "phantoms"):
        case = cohort.cases[name]
        grades = tuple(case.info[f"grade_{side}"] for side in SIDES)
        yield Unseen(PHANTOMS, name, read_volume(case.image), read_volume(case.label), grades)


def label_maps(folder: Path) -> list[Path]:
    """The label maps in a folder. Raises InputError when there are none."""
    if not (found := sorted(folder.glob(f"*{ENDING}"))):
        raise InputError(f"{folder}: holds no {ENDING} label maps; give a folder that does")
    return found


def renders(folder: Path, count: int) -> Iterator[Unseen]:
    """``count`` phantoms with the anatomy of each label map in a folder, their scans and grades drawn like any phantom's.

    Label maps are NIfTI with 1 sacrum, 3 and 4 left hip, 5 and 6 right hip. A group is named after its map.
    """
    for number, path in enumerate(label_maps(folder)):
        labels, name = reorient(read_volume(path), "LPS"), path.name.removesuffix(ENDING)
        bones = label_map_pelvis(labels.array, labels.spacing)
        for seed in track(range(number * count, (number + 1) * count), f"renders of {name}"):
            made = make_phantom(seed, matrix=MATRIX, slices=SLICES, bones=bones)
            yield Unseen(name, f"{name}, seed {seed}", *phantom_scan(made), made.grades)


def real_ct() -> Unseen:
    """The sample CT, with the mask derived from its bone labels, which a model predicted."""
    sample = fetch_sample()
    return Unseen(REAL, "TotalSegmentator sample", read_volume(sample.ct), read_volume(sample.mask))


def score(unseen: Unseen, prediction: Volume) -> dict:
    """Scores of a mask on the scan's grid, in a row: Dice in [0, 1] of the scan and of each side, and the median distance
    between the surfaces in mm, infinite where a mask is empty."""
    plane = midline(unseen.truth).x
    truth, predicted = (left_and_right(mask, plane).array for mask in (unseen.truth, prediction))
    distances = surface_distances(predicted, truth, unseen.truth.spacing)
    row = {"group": unseen.group, "case": unseen.case}
    row |= {f"grade_{side}": grade for side, grade in zip(SIDES, unseen.grades or (None, None))}
    row |= {"dice": overlap(predicted, truth).dice}
    row |= {f"dice_{joint.side}": overlap(predicted == joint.label, truth == joint.label).dice for joint in JOINTS}
    return row | {"median_surface_mm": distances.median() if distances else np.inf}
