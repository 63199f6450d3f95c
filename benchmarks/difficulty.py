"""How hard a profile's phantoms are: Dice of every validation joint, by grade of disease.

    python benchmarks/difficulty.py [--profile cpu] [--network "3D U-Net"]

Trains the network on the profile (or goes on, or takes the finished run) and scores its validation cases on their own
grids. The two joints of a scan are scored apart, since each has its own grade.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from magunet import profiles
from magunet.data.cohort import Case, cohort_of
from magunet.data.volume import read_volume, reorient
from magunet.errors import InputError
from magunet.learn.predict import load_model
from magunet.learn.runs import fit
from magunet.progress import track
from magunet.report.metrics import overlap
from magunet.report.scores import score_run


def joints(case: Case, mask_file: Path) -> list[dict]:
    """Dice in percent of the left and the right joint of a case, and their grades."""
    truth, mask = (reorient(read_volume(path), "LPS").array > 0 for path in (case.label, mask_file))
    columns = np.flatnonzero(truth.any((0, 1)))
    middle = (columns[0] + columns[-1] + 1) // 2            # larger columns are the patient's left
    halves = {"left": np.s_[..., middle:], "right": np.s_[..., :middle]}
    return [{"case": case.name, "side": side, "grade": case.info[f"grade_{side}"],
             "Dice": 100 * overlap(mask[half], truth[half]).dice} for side, half in halves.items()]


def main() -> None:
    """Train if need be, score, print Dice of all cases and by grade."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--network", default="3D U-Net")
    arguments = parser.parse_args()
    settings = profiles.load(arguments.profile)
    cohort = cohort_of(settings, track)
    if not all("grade_left" in cohort.cases[name].info for name in cohort.val):
        raise InputError(f"{cohort.root}: its dataset.json gives no grades; take a cohort of phantoms")
    run = fit(arguments.network, settings, settings.seeds[0], cohort)
    whole = 100 * score_run(run, cohort).dice
    rows = [row for name in cohort.val for row in joints(cohort.cases[name], run / "masks" / f"{name}.nii.gz")]
    by_grade = pd.DataFrame(rows).groupby("grade")["Dice"].agg(["count", "mean", "std", "min", "max"])
    print(f"{arguments.network}, profile {arguments.profile}, {load_model(run).record['seconds']:.0f} s of training")
    print(f"{len(whole)} scans: Dice {whole.mean():.1f} ± {whole.std():.1f} %, {whole.min():.1f} to {whole.max():.1f}")
    print(by_grade.round(1).to_string())


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"difficulty: {error}")
