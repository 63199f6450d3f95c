"""What a network that has only seen parametric phantoms finds in other anatomy and in a real CT.

    python benchmarks/transfer.py [--network NAME] [--labels FOLDER] [--renders N]

Trains on the profile `transfer` (or goes on, or takes the finished run), then scores, each on its own grid:
the profile's validation phantoms; renders of the label maps in FOLDER, if given (NIfTI: 1 sacrum, 3 and 4
left hip, 5 and 6 right hip, such as the Visible Human pelvises); and the real sample CT against the mask
derived from its bone labels. No test scan is trained on, and none chooses anything: the last epoch's weights
are taken. The phantom's mean shape was read off the Visible Human pelvises, so their renders are new in pose,
shape detail and tissue, but not a test on other people. The real CT is another person's, though the phantom's
cortex was varied more after a look at it.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from compendium.figures.planes import save_figure, three_planes
from compendium.sample import fetch_sample
from magunet.base import profiles
from magunet.base.errors import InputError
from magunet.base.progress import track
from magunet.cohort import Cohort
from magunet.joints import JOINTS, SIDES, sides
from magunet.metrics import overlap
from magunet.predict import load_model
from magunet.runs import fit
from magunet.surfaces import surface_distances
from magunet.volume import ENDING, Volume, read_volume, reorient
from sijphantom.anatomy import label_map_pelvis
from sijphantom.cohort import cohort_of, phantom_scan
from sijphantom.phantom import make_phantom

PHANTOMS = "validation phantoms"
"""Group of the cases of the cohort that a network was not trained on."""
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


def validation_phantoms(cohort: Cohort) -> Iterator[Unseen]:
    """The validation cases of a cohort of phantoms."""
    for name in track(cohort.val, "phantoms"):
        case = cohort.cases[name]
        grades = tuple(case.info[f"grade_{side}"] for side in SIDES)
        yield Unseen(PHANTOMS, name, read_volume(case.image), read_volume(case.label), grades)


def label_maps(folder: Path) -> list[Path]:
    """The label maps in a folder. Raises InputError when there are none."""
    if not (paths := sorted(folder.glob(f"*{ENDING}"))):
        raise InputError(f"{folder}: holds no {ENDING} label maps; give a folder that does")
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


def main() -> None:
    """Train if need be, score, print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="3D U-Net")
    parser.add_argument("--labels", type=Path, help="folder of label maps to render and score")
    parser.add_argument("--renders", type=int, default=4, help="of each label map (4)")
    arguments = parser.parse_args()
    if arguments.labels:
        label_maps(arguments.labels)                        # a wrong folder fails before any work
    real, settings = real_ct(), profiles.load("transfer")
    cohort = cohort_of(settings, track)
    run = fit(arguments.network, settings, settings.seeds[0], cohort)
    model, rows = load_model(run), []
    for one in validation_phantoms(cohort):
        rows.append(score(one, model.segment(one.scan)))
    for one in renders(arguments.labels, arguments.renders) if arguments.labels else ():
        rows.append(score(one, model.segment(one.scan)))
    mask = model.segment(real.scan)
    table = pd.DataFrame([*rows, score(real, mask)])
    table.to_csv(run / "transfer.csv", index=False)
    figure = three_planes(real.scan, truth=real.truth, prediction=mask,
                          title="Real CT, network trained on phantoms only")
    save_figure(figure, run / "transfer_real_ct.png", f"{arguments.network}, run {run.name}", vector=False)
    table["Dice, %"] = 100 * table["dice"]
    groups = table.groupby("group", sort=False)[["Dice, %", "median_surface_mm"]]
    numbers = groups.agg(["count", "mean", "min", "max"])
    print(numbers.drop(columns=("median_surface_mm", "count")).round(1).to_string())
    print(run / "transfer.csv", run / "transfer_real_ct.png", sep="\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"transfer: {error}")
