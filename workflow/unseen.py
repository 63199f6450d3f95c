"""Scans that no network was trained on: phantoms, renders of other anatomy and a real CT; and how to score a
mask of them, each on its own grid.

The phantom's mean shape was read off the Visible Human pelvises, so their renders are new in pose, shape
detail and tissue, but not a test on other people. The real CT is another person's, though the phantom's
cortex was varied more after a look at it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compendium.sample import fetch_sample
from magunet.base.errors import require
from magunet.base.progress import track
from magunet.joints import JOINTS, SIDES, sides
from magunet.metrics import overlap
from magunet.surfaces import surface_distances
from magunet.volume import ENDING, Volume, read_volume, reorient
from sijphantom.anatomy import label_map_pelvis
from sijphantom.cohort import phantom_scan
from sijphantom.phantom import make_phantom

PHANTOMS = "validation phantoms"
"""Group of the phantoms that are scored."""
MATRIX = 256
"""Pixels a side of the renders."""
SLICES = (50, 120)
"""Fewest and most slices of the renders."""


@dataclass(frozen=True)
class Unseen:
    """A scan that a network was not trained on, and its true mask. grades: of the left and the right joint,
    if known."""

    group: str
    case: str
    scan: Volume
    truth: Volume
    grades: tuple[int, int] | None = None


def label_maps(folder: Path) -> list[Path]:
    """The label maps in a folder. Raises InputError when there are none."""
    paths = sorted(folder.glob(f"*{ENDING}"))
    require(paths, f"{folder}: holds no {ENDING} label maps; give a folder that does")
    return paths


def renders(folder: Path, count: int) -> Iterator[Unseen]:
    """``count`` phantoms with the anatomy of each label map in a folder, their scans and grades drawn like
    any phantom's.

    Label maps are NIfTI with 1 sacrum, 3 and 4 left hip, 5 and 6 right hip. A group is named after its map.
    """
    for number, path in enumerate(label_maps(folder)):
        labels, name = reorient(read_volume(path), "LPS"), path.name.removesuffix(ENDING)
        bones = label_map_pelvis(labels.array, labels.spacing)
        for seed in track(range(number * count, (number + 1) * count), f"renders of {name}"):
            phantom = make_phantom(seed, matrix=MATRIX, slices=SLICES, bones=bones)
            yield Unseen(name, f"{name}, seed {seed}", *phantom_scan(phantom), phantom.grades)


def real_ct() -> Unseen:
    """The sample CT, with the mask derived from its bone labels, which a model predicted."""
    sample = fetch_sample()
    return Unseen("real CT", "TotalSegmentator sample", read_volume(sample.ct), read_volume(sample.mask))


def score(unseen: Unseen, prediction: Volume) -> dict:
    """Scores of a mask on the scan's grid, in a row: Dice in [0, 1] of the scan and of each side, its volume
    as a share of the true one, and the median distance between the surfaces in mm, infinite where a mask is
    empty."""
    plane, parted = sides(unseen.scan, unseen.truth, prediction)
    truth, predicted = (labels.array for labels in parted)
    distances = surface_distances(predicted, truth, unseen.truth.spacing)
    row = {"group": unseen.group, "case": unseen.case}
    row |= {f"grade_{side}": grade for side, grade in zip(SIDES, unseen.grades or (None, None))}
    row |= {"dice": overlap(predicted, truth).dice,
            "volume": np.count_nonzero(predicted) / np.count_nonzero(truth)}
    row |= {f"dice_{joint.side}": overlap(predicted == joint.label, truth == joint.label).dice
            for joint in JOINTS if not np.isnan(plane.x)}
    return row | {"median_surface_mm": distances.median() if distances else np.inf}
