"""All that is wrong with a cohort, case by case: what ``magunet check`` prints."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from compendium import check
from compendium.figures.planes import both_grids, save_figure
from magunet.base.errors import InputError
from magunet.cohort import Case, Cohort, describe, grid_problems, image_problems, label_problems
from magunet.volume import Volume, orientation, read_volume


def check_cohort(cohort: Cohort, progress: Callable[[Sequence, str], Iterator]) -> tuple[pd.DataFrame, list[str]]:
    """A table with a row a case, and a line for every problem: the case, the file, what is wrong, what to do.

    Reads every case, whatever is wrong with others. Where image and mask lie on different grids, a picture
    of both is written to the cohort's folder ``check``.
    """
    rows, problems, seen = [], [], {}
    for case in progress(list(cohort.cases.values()), "checked"):
        found: list[str] = []
        image, label = _read(case.image, found), _read(case.label, found)
        found += _case_problems(cohort, case, image, label)
        if image:
            found += _duplicates(cohort, case, image, seen)
        rows.append(_row(cohort, case, image, label) | {"problems": len(found)})
        problems += [f"{case.name}: {text}" for text in found]
    return pd.DataFrame(rows, dtype=object), problems


def as_text(table: pd.DataFrame) -> str:
    """The table in plain text, with two decimals; what is not known is left blank."""
    def cell(value: object) -> object:
        return "" if pd.isna(value) else f"{value:.2f}" if isinstance(value, float) else value
    return table.map(cell).to_string(index=False)


def _read(path: Path, found: list[str]) -> Volume | None:
    """The volume, or None with the reason added to what was found."""
    try:
        return read_volume(path)
    except InputError as error:
        found.append(str(error))
        return None


def _case_problems(cohort: Cohort, case: Case, image: Volume | None, label: Volume | None) -> list[str]:
    picture = cohort.root / "check" / f"{case.name}.png"
    with contextlib.suppress(OSError):                  # of an earlier check, if any
        picture.unlink()
    found: list[str] = []
    if image and label:
        for text in grid_problems(case.image, case.label, image, label):
            found.append(f"{text}. Picture: {_draw(case, image, label, picture)}")
    if label:
        found += [*label_problems(case.label, label), *check.border_problems(case.label, label)]
    if image:
        found += list(image_problems(case.image, image)) or list(check.scale_problems(case.image, image))
    return found


def _draw(case: Case, image: Volume, label: Volume, path: Path) -> str:
    try:
        return str(save_figure(both_grids(image, label, f"{case.name}: image and mask"), path, "magunet check", vector=False))
    except OSError as error:                            # a data folder that may only be read
        return f"none, {path} cannot be written ({error.strerror})"


def _duplicates(cohort: Cohort, case: Case, image: Volume, seen: dict[str, Case]) -> list[str]:
    """A line for every earlier case with the same voxels; ``seen``, fingerprint -> case, is added to."""
    marks = check.fingerprints(image)
    found = []
    for other in {seen[mark].name: seen[mark] for mark in marks if mark in seen}.values():
        apart = {_side(cohort, case), _side(cohort, other)} == {"train", "val"}
        found.append(f"{case.image}: holds the same voxels as {other.image}"
                     + (", and one is in train, the other in val: a score would be worthless" if apart else "")
                     + f"; remove {case.name} or {other.name}: image, mask and its name in splits.json")
    for mark in marks:
        seen.setdefault(mark, case)
    return found


def _side(cohort: Cohort, case: Case) -> str:
    return "train" if case.name in cohort.train else "val" if case.name in cohort.val else ""


def _row(cohort: Cohort, case: Case, image: Volume | None, label: Volume | None) -> dict:
    return describe(case, image, label) | {
        "split": _side(cohort, case), "hu": f"{image.array.min():g}..{image.array.max():g}" if image else None,
        "axes": orientation(image) if image else None}
