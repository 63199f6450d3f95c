"""All that is wrong with a cohort, case by case: what training refuses, and what a person should look at,
which is masks at the border, and scans that occur twice."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from magunet.base.errors import InputError
from magunet.cohort import Case, Cohort, case_problems
from magunet.volume import Volume, orientation, read_volume, reorient, touched_faces, voxel_hash


def check_cohort(cohort: Cohort, progress: Callable) -> tuple[pd.DataFrame, list[str]]:
    """A table with a row a case, and a line a problem; reads every case, whatever is wrong with others."""
    rows, lines, owners = [], [], {}
    for case in progress(list(cohort.cases.values()), "checked"):
        problems, volumes = [], []
        for path in (case.image, case.label):
            try:
                volumes.append(read_volume(path))
            except InputError as error:
                volumes.append(None)
                problems.append(str(error))
        image, label = volumes
        problems += case_problems(case, image, label)
        if label and not label.array.all() and (faces := touched_faces(label.array)):
            problems.append(f"{case.label}: the mask touches the {' and the '.join(faces)}, so the joint may "
                            "be cut off; take a scan that holds all of it, or remove the case")
        if image:
            problems += _duplicates(cohort, case, image, owners)
        rows.append(describe(case, image, label) | {
            "split": "train" if case.name in cohort.train else "val" if case.name in cohort.val else "",
            "hu": f"{image.array.min():g}..{image.array.max():g}" if image else None,
            "axes": orientation(image) if image else None, "problems": len(problems)})
        lines += [f"{case.name}: {text}" for text in problems]
    return pd.DataFrame(rows, dtype=object), lines


def describe(case: Case, image: Volume | None, label: Volume | None) -> dict:
    """A case in one row of a table; None where a file cannot be read. ``target_ml`` is the mask's volume."""
    depth, _, width = image.array.shape if image else (None, None, None)
    slice_mm, _, pixel_mm = image.spacing if image else (None, None, None)
    target_ml = np.count_nonzero(label.array) * np.prod(label.spacing) / 1000 if label else None
    grades = {name: case.info[name] for name in ("grade_left", "grade_right") if name in case.info}
    return {"case": case.name, "patient": case.patient, "slices": depth, "matrix": width,
            "slice_mm": slice_mm, "pixel_mm": pixel_mm, "target_ml": target_ml, **grades}


def _duplicates(cohort: Cohort, case: Case, image: Volume, owners: dict[str, str]) -> Iterator[str]:
    """A line for every earlier case with the same voxels, whatever number types and headers say. owners: hash
    of voxels -> case; those of this case, as stored and turned to LPS, are added."""
    hashes = {voxel_hash(image), voxel_hash(reorient(image, "LPS"))}
    for other in sorted({owners.setdefault(key, case.name) for key in hashes} - {case.name}):
        apart = all({case.name, other} & set(side) for side in (cohort.train, cohort.val))
        worse = ", and one is in train, the other in val: a score would be worthless" if apart else ""
        yield (f"{case.image}: holds the same voxels as {cohort.cases[other].image}{worse}; remove "
               f"{case.name} or {other}: image, mask and its name in splits.json")
