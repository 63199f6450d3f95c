"""Compares parametric pelvises with measured people.

    python benchmarks/anatomy.py [--seeds 100] [--processes 2]

Prints mean and SD of every measure of `pelvimetry.py` over the seeds, on label maps of 1 mm, beside those
of 19 adults (surface models made from CT, VSD full-body bone models, doi:10.5281/zenodo.8316730), and of
women and men apart. Ends with status 1 when a mean is more than one reference SD off, or an SD less than half
or more than twice the reference's.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

from magunet.base.progress import track
from sijphantom.pelvis import parametric_pelvis

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.pelvimetry import pelvimetry

SPACING = 1.0  # mm, as in the reference
REFERENCE = {  # mean, SD: lengths in mm, areas in cm2, volume in cm3, angles in degrees
    "sacrum_width": (118.42, 7.12), "sacrum_height": (127.68, 18.14), "sacrum_depth": (96.63, 10.15),
    "sacrum_cm3": (202.51, 25.92), "biiliac_width": (277.95, 18.32), "hip_height": (219.53, 11.88),
    "joint_height_L": (64.58, 5.19), "joint_height_R": (64.79, 5.44), "joint_ap_L": (63.0, 5.55),
    "joint_ap_R": (62.53, 8.47),
    "gap_median_L": (3.83, 0.23), "gap_median_R": (3.89, 0.14), "gap_p10_L": (2.54, 0.2),
    "gap_p10_R": (2.57, 0.19),
    "joint_area_cm2_L": (20.31, 3.24), "joint_area_cm2_R": (20.42, 3.47),
    "obliq_lower_L": (-9.28, 11.93), "obliq_lower_R": (10.42, 10.24), "obliq_middle_L": (-22.06, 12.76),
    "obliq_middle_R": (23.65, 10.45), "obliq_upper_L": (-31.53, 13.29), "obliq_upper_R": (33.17, 11.34),
    "joint_centre_lat_L": (48.76, 2.56), "joint_centre_lat_R": (49.01, 2.65),
}  # fmt: skip


def measured(seed: int) -> dict[str, float]:
    """Measures of one pelvis, and whether it is a woman's."""
    bones = parametric_pelvis(seed, SPACING)
    labels = np.zeros(bones.sacrum.shape, np.uint8)
    for label, level in enumerate((bones.sacrum, bones.left_hip, bones.right_hip), 1):
        labels[level < 0] = label
    return {"female": bones.parameters["female"]} | pelvimetry(labels, (SPACING,) * 3)


def comparison(found: pd.DataFrame) -> pd.DataFrame:
    """One row a measure: reference and ours, and whether each is within its limits."""
    table = pd.DataFrame(REFERENCE, index=["mean", "SD"]).T
    ours = found[list(REFERENCE)]
    table["our mean"], table["our SD"] = ours.mean(), ours.std()
    table["shift / SD"], table["SD ratio"] = ((table["our mean"] - table["mean"]) / table["SD"],
                                              table["our SD"] / table["SD"])
    table["women"], table["men"] = ours[found.female == 1].mean(), ours[found.female == 0].mean()
    table["within"] = (table["shift / SD"].abs() <= 1) & table["SD ratio"].between(0.5, 2)
    return table


def main() -> int:
    """Measure, print, say whether all is within the limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:
        done = pool.map(measured, range(arguments.seeds))
        found = pd.DataFrame([next(done) for _ in track(range(arguments.seeds), "pelvises")])
    table = comparison(found)
    print(table.round(2).to_string())
    sides = found[[f"{name}_{side}" for name in ("joint_height", "joint_area_cm2", "obliq_middle")
                   for side in "LR"]].corr()
    pairs = {name: sides.loc[f"{name}_L", f"{name}_R"]
             for name in ("joint_height", "joint_area_cm2", "obliq_middle")}
    print("correlation of left and right:", ", ".join(f"{name} {value:.2f}" for name, value in pairs.items()))
    print(f"{int(table.within.sum())} of {len(table)} measures within the limits, {arguments.seeds} seeds")
    return 0 if table.within.all() else 1


if __name__ == "__main__":
    sys.exit(main())
