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
from pathlib import Path

import pandas as pd

from compendium.figures.planes import save_figure, three_planes
from compendium.transfer import label_maps, real_ct, renders, score, validation_phantoms
from magunet.base import profiles
from magunet.base.errors import InputError
from magunet.base.progress import track
from magunet.predict import load_model
from magunet.runs import fit
from sijphantom.cohort import cohort_of


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
    figure = three_planes(real.scan, truth=real.truth, prediction=mask, title="Real CT, network trained on phantoms only")
    save_figure(figure, run / "transfer_real_ct.png", f"{arguments.network}, run {run.name}", vector=False)
    table["Dice, %"] = 100 * table["dice"]
    numbers = table.groupby("group", sort=False)[["Dice, %", "median_surface_mm"]].agg(["count", "mean", "min", "max"])
    print(numbers.drop(columns=("median_surface_mm", "count")).round(1).to_string())
    print(run / "transfer.csv", run / "transfer_real_ct.png", sep="\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"transfer: {error}")
