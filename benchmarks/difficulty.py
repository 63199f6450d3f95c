"""How hard a profile's phantoms are: Dice of every validation joint, by grade of disease.

    python benchmarks/difficulty.py [--profile cpu] [--network "3D U-Net"]

Trains the network on the profile (or goes on, or takes the finished run) and scores its validation cases on
their own grids. The two joints of a scan are scored apart, since each has its own grade.
"""

import argparse
import sys

from compendium.scores import SIDES_FILE, read_scores, score_run
from magunet.base import profiles
from magunet.base.errors import InputError
from magunet.base.progress import track
from magunet.predict import load_model
from magunet.runs import fit
from sijphantom.cohort import cohort_of


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
    joints = read_scores(run, SIDES_FILE).assign(Dice=lambda table: 100 * table.dice)
    by_grade = joints.groupby("grade")["Dice"].agg(["count", "mean", "std", "min", "max"])
    seconds = load_model(run).record["seconds"]
    print(f"{arguments.network}, profile {arguments.profile}, {seconds:.0f} s of training")
    print(f"{len(whole)} scans: Dice {whole.mean():.1f} ± {whole.std():.1f} %, "
          f"{whole.min():.1f} to {whole.max():.1f}")
    print(by_grade.round(1).to_string())


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"difficulty: {error}")
