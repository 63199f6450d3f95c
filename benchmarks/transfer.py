"""What a network that has only seen parametric phantoms finds in other anatomy and in a real CT.

    python benchmarks/transfer.py [--network NAME] [--labels FOLDER] [--renders N]

Trains on the profile `transfer` (or goes on, or takes the finished run), then scores, each on its own grid:
the profile's validation phantoms; renders of the label maps in FOLDER, if given (NIfTI: 1 sacrum, 3 and 4 left
hip, 5 and 6 right hip, such as the Visible Human pelvises); and the real sample CT against the mask derived from
its bone labels. No test scan is trained on, and none chooses anything: the last epoch's weights are taken. The
phantom's mean shape was read off the Visible Human pelvises, so their renders are new in pose, shape detail and
tissue, but not a test on other people. The real CT is another person's, though the phantom's cortex was varied more after a
look at it.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from magunet import profiles
from magunet.data.anatomy import label_map_pelvis
from magunet.data.cohort import cohort_of
from magunet.data.phantom import make_phantom
from magunet.data.phantom_cohort import phantom_scan
from magunet.data.sample import fetch_sample
from magunet.data.volume import Volume, read_volume, reorient
from magunet.errors import InputError
from magunet.learn.predict import Model, load_model
from magunet.learn.runs import fit
from magunet.progress import track
from magunet.report.figures import save_figure, three_planes
from magunet.report.metrics import overlap
from magunet.report.surfaces import surface_distances


def score(model: Model, scan: Volume, truth: Volume) -> dict:
    """Dice in percent and median surface distance in mm on the scan's grid."""
    mask, target = model.segment(scan).array > 0, truth.array > 0
    distances = surface_distances(mask, target, scan.spacing)
    return {"Dice": 100 * overlap(mask, target).dice, "median surface mm": distances.median() if distances else np.inf}


def renders(folder: Path, count: int) -> Iterator[tuple[str, str, Volume, Volume]]:
    """Group, case, scan and truth of `count` phantoms of each label map, with scans and grades drawn like any phantom's."""
    for number, path in enumerate(sorted(folder.glob("*.nii.gz"))):
        labels, name = reorient(read_volume(path), "LPS"), path.name.removesuffix(".nii.gz")
        bones = label_map_pelvis(labels.array, labels.spacing)
        for seed in range(number * count, (number + 1) * count):
            yield name, f"{name}, seed {seed}", *phantom_scan(make_phantom(seed, matrix=256, slices=(50, 120), bones=bones))


def main() -> None:
    """Train if need be, score, print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="3D U-Net")
    parser.add_argument("--labels", type=Path, help="folder of label maps to render and score")
    parser.add_argument("--renders", type=int, default=4, help="of each label map (4)")
    arguments = parser.parse_args()
    if arguments.labels and not list(arguments.labels.glob("*.nii.gz")):
        parser.error(f"{arguments.labels}: holds no .nii.gz label maps")
    sample = fetch_sample()
    settings = profiles.load("transfer")
    cohort = cohort_of(settings, track)
    run = fit(arguments.network, settings, settings.seeds[0], cohort)
    model, rows = load_model(run), []
    for name in track(cohort.val, "phantoms"):
        case = cohort.cases[name]
        grades = f"{case.info['grade_left']}, {case.info['grade_right']}"
        rows.append({"group": "validation phantoms", "case": name, "grades": grades}
                    | score(model, read_volume(case.image), read_volume(case.label)))
    if arguments.labels:
        for group, name, scan, truth in renders(arguments.labels, arguments.renders):
            rows.append({"group": group, "case": name} | score(model, scan, truth))
    scan, truth = read_volume(sample.ct), read_volume(sample.mask)
    rows.append({"group": "real CT", "case": "TotalSegmentator sample"} | score(model, scan, truth))
    table = pd.DataFrame(rows)
    table.to_csv(run / "transfer.csv", index=False)
    figure = three_planes(scan, truth=truth, prediction=model.segment(scan), title="Real CT, network trained on phantoms only")
    save_figure(figure, run / "transfer_real_ct.png", f"{arguments.network}, run {run.name}", vector=False)
    numbers = table.groupby("group", sort=False)[["Dice", "median surface mm"]].agg(["count", "mean", "min", "max"])
    print(numbers.drop(columns=("median surface mm", "count")).round(1).to_string())
    print(run / "transfer.csv", run / "transfer_real_ct.png", sep="\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"transfer: {error}")
