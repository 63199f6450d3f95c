"""How well the region of interest holds the joints, and the best Dice that preparation leaves.

    python benchmarks/region.py [PROFILE ...] [--phantoms N]     measures, stores, and prints what is stored
    python benchmarks/region.py --show                           prints what is stored

For phantoms of the usual protocol with a profile's first seeds, which the locator has not seen: mm between
where the locator finds the middle between the joints and where it is, along each axis of the patient; mm from
the outermost voxel of a joint to the nearest face of the box about the middle that was found, below 0 where
the box cuts a joint; and the Dice of a perfect answer, which is the true mask as the network would see it,
put back onto the scan's grid as a prediction is. Whole planes have no box; theirs are as wide as the scan's.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from magunet.base import profiles, project, provenance
from magunet.base.errors import InputError, require
from magunet.base.profiles import Settings
from magunet.base.progress import track
from magunet.metrics import overlap
from magunet.predict import THRESHOLD, locate
from magunet.prepare import HALF
from magunet.region import Region, cut, joints_centre, put_back, region_about, whole, whole_planes
from magunet.volume import Volume, bounding_box, reorient
from sijphantom.cohort import phantom_scan
from sijphantom.phantom import make_phantom

PHANTOMS = {"cpu": 200, "smoke": 20, "paper": 2}
"""Phantoms of a profile; 5 of others."""
AXES = ("up or down", "front or back", "left or right")
"""Along which the locator is off, in the order of z, y and x."""
FACE, BEST = "joint to face", "best Dice"
"""Columns of FILE beside the axes."""
FILE = "region.csv"
"""What was measured, beside this script: a row a phantom, in mm."""


def scan_of(settings: Settings, seed: int) -> tuple[Volume, Volume]:
    """CT and mask of the profile's training phantom of a seed."""
    return phantom_scan(make_phantom(seed, matrix=settings.scan_matrix, slices=settings.scan_slices,
                                     thickness=settings.target_mm))


def to_face(mask: Volume, region: Region) -> float:
    """mm from the outer faces of a mask's voxels to the nearest face of a region, below 0 where it is cut."""
    lps = reorient(mask, "LPS")
    box = bounding_box(lps.array)
    low, high = (np.multiply([getattr(side, end) for side in box], lps.spacing) - np.divide(lps.spacing, 2)
                 for end in ("start", "stop"))
    first = np.subtract(region.first, np.divide(region.voxel, 2))
    return float(min(*(low - first), *(first + np.multiply(region.shape, region.voxel) - high)))


def best_dice(mask: Volume, region: Region) -> float:
    """Dice, on the scan's grid, of the true mask as the network sees it in a region."""
    prepared = (cut(mask, region) > HALF).astype(np.float32)
    return overlap(put_back(prepared, region, mask).array > THRESHOLD, mask.array).dice


def measures(scan: Volume, mask: Volume, settings: Settings) -> dict[str, float]:
    """A row of FILE: mm that the locator is off, with sign, and to the nearest face; and the best Dice.

    Raises InputError where the locator finds no joint.
    """
    if settings.depth:
        return {BEST: best_dice(mask, whole(mask, settings.voxel_mm) if settings.voxel_mm else
                                whole_planes(mask, settings))}
    require(centre := locate(scan)[0], "the locator finds no joint")
    region = region_about(centre, scan, settings.voxel_mm)
    return dict(zip(AXES, np.subtract(centre, joints_centre(mask)))) | {
        FACE: to_face(mask, region), BEST: best_dice(mask, region)}


def measure(settings: Settings, count: int) -> pd.DataFrame:
    """Rows of FILE for the profile's first phantoms. Raises InputError, naming the phantom, as `measures`."""
    rows = []
    for seed in track(range(settings.cohort_seed, settings.cohort_seed + count), settings.profile):
        try:
            row = measures(*scan_of(settings, seed), settings)
        except InputError as error:
            raise InputError(f"phantom of seed {seed}: {error}") from error
        rows.append({"profile": settings.profile, "seed": seed, **row})
    return pd.DataFrame(rows)


def tables(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How far the locator is off and how many joints are cut; and the best Dice, of each profile."""
    off, best = [], []
    for profile, group in rows.groupby("profile", sort=False):
        settings, names = profiles.load(profile), {"profile": profile, "phantoms": len(group)}
        sees = (f"{'all' if settings.depth else 'boxes'} in voxels of {settings.voxel_mm:g} mm"
                if settings.voxel_mm else f"planes of {settings.size} pixels")
        best.append(names | {"the network sees": sees, "mean": f"{100 * group[BEST].mean():.1f}",
                             "least": f"{100 * group[BEST].min():.1f}"})
        if not settings.depth:
            levels = {axis: group[axis].abs().quantile((0.5, 0.95, 1)) for axis in AXES}
            errors = {axis: " / ".join(f"{mm:.1f}" for mm in level) for axis, level in levels.items()}
            cut = int((group[FACE] < 0).sum())
            off.append(names | errors | {FACE: f"{group[FACE].min():.1f}", "cut": cut,
                                         "boxes move in training": f"{settings.margin_mm:g}"})
    return pd.DataFrame(off), pd.DataFrame(best)


def main(words: list[str] | None = None) -> None:
    """Measure and store, or only read, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", nargs="*", help="default: all")
    parser.add_argument("--phantoms", type=int, help="default: 200 of cpu, fewer of others")
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args(words)
    every = [path.stem for path in sorted((project.root() / project.MARKER).glob("*.yaml"))
             if profiles.load(path.stem).networks is None]  # others have the phantoms of one of these
    path = Path(__file__).with_name(FILE)
    rows = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["profile", "seed"], dtype=object)
    for profile in [] if arguments.show else arguments.profile or every:
        more = measure(profiles.load(profile), arguments.phantoms or PHANTOMS.get(profile, 5))
        rows = pd.concat([rows[rows["profile"] != profile], more]).sort_values(["profile", "seed"])
        rows["seed"] = rows["seed"].astype(int)
        with provenance.whole_file(path) as part:
            rows.to_csv(part, index=False, float_format="%.4f")
    off, best = tables(rows)
    print("mm that the locator is off: median / 95th percentile / largest; mm from a joint to the box's face",
          off.to_markdown(tablefmt="github", index=False, disable_numparse=True),
          "Dice, in %, of a perfect answer",
          best.to_markdown(tablefmt="github", index=False, disable_numparse=True), sep="\n\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"region: {error}")
