"""Scores of finished runs, measured on the scan's own grid: one row a case, and one row a joint.

Policies, so that nothing is ever dropped from a mean: empty masks and undefined distances as in
``magunet.metrics`` and ``magunet.surfaces``; a joint is missed where the truth has one on that side and
the prediction has no voxel in common with it. All are counted in the tables.
"""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from compendium.fits import with_room
from magunet import joints, metrics, predict, prepare, surfaces, volume
from magunet.base import provenance
from magunet.base.device import peak_memory_mb, reset_peak_memory
from magunet.base.errors import InputError
from magunet.base.progress import track
from magunet.cohort import Case, Cohort
from magunet.joints import JOINTS, SIDES, left_and_right, midline
from magunet.metrics import overlap
from magunet.predict import WEIGHTS_FILE, load_model
from magunet.runs import data_hash
from magunet.surfaces import diagonal, surface_scores
from magunet.volume import Volume, read_volume, write_volume

SCORES_FILE, SIDES_FILE, KEY_FILE = "scores.csv", "scores_by_side.csv", "scores.json"
OVERLAPS = ("dice", "iou", "precision", "recall")
"""The paper's measures, in [0, 1]."""
DAMAGED_SCORES = "damaged; remove it and score the run again with 'magunet evaluate'"
SURFACES = ("hd95", "assd", "nsd")
"""Measures of surfaces, in mm, mm, and [0, 1]."""


def score_run(run: Path, cohort: Cohort, plain: bool = False) -> pd.DataFrame:
    """Segment the cohort's validation cases with a run and score them; done once, then read back.

    Writes ``scores.csv`` (returned), ``scores_by_side.csv`` (for `read_scores`) and ``masks/CASE.nii.gz`` into the
    run's folder, and in ``scores.json`` the device and a hash of the weights, the data and the code they come from:
    when one changes, the run is scored again. plain: as in `load_model`. Seconds and peak memory are those of
    segmenting the case.
    Raises InputError when the run was trained on other data, for then these cases might not be unseen.
    """
    model = with_room(load_model(run, plain))
    if model.record["data_hash"] != data_hash(cohort, model.settings):
        raise InputError(f"{run}: was trained on other data, another split or other preparation than {cohort.root} now "
                         "has; train on this cohort")
    key = provenance.content_hash(
        provenance.file_hash(run / WEIGHTS_FILE), model.record["data_hash"], plain,
        provenance.code_hash(metrics, predict, prepare, joints, surfaces, volume, sys.modules[__name__]))
    if (run / SCORES_FILE).exists() and (run / SIDES_FILE).exists() and scores_key(run) == key:
        return read_scores(run)
    rows, side_rows = [], []
    of_run = {"network": model.record["network"], "seed": model.record["seed"]}
    for name in track(cohort.val, "scored"):
        case = cohort.cases[name]
        scan, truth = read_volume(case.image), read_volume(case.label)
        reset_peak_memory(model.device)
        began = time.monotonic()
        mask = model.segment(scan)
        seconds, megabytes = time.monotonic() - began, peak_memory_mb(model.device)
        write_volume(mask, run / "masks" / f"{name}.nii.gz")
        whole, sides = score_case(case, mask, truth)
        rows.append(of_run | whole | {"seconds": round(seconds, 2), "peak_memory_mb": megabytes})
        side_rows += [of_run | side for side in sides]
    for table, file in ((side_rows, SIDES_FILE), (rows, SCORES_FILE)):
        with provenance.whole_file(run / file) as part:
            pd.DataFrame(table).to_csv(part, index=False)
    provenance.write_json(run / KEY_FILE, {"key": key, "device": provenance.device_name(model.device)})
    return read_scores(run)


def score_case(case: Case, prediction: Volume, truth: Volume) -> tuple[dict, list[dict]]:
    """A case in one row, and its left and right side in one row each.

    prediction, truth: masks on the scan's grid. In the rows, overlaps and NSD are in [0, 1], HD95 and ASSD in mm, the
    masks' volumes in ml; ``undefined`` says that just one mask was empty and penalties stand for the distances, and
    ``missed`` counts missed joints. A side's penalty is the whole scan's diagonal, too. Both masks are parted at the
    midline of the truth; what crosses it is cut there.
    """
    plane = midline(truth).x
    predicted, true = (left_and_right(mask, plane).array for mask in (prediction, truth))
    grades = {f"grade_{side}": case.info[f"grade_{side}"] for side in SIDES if f"grade_{side}" in case.info}
    named = {"case": case.name, "patient": case.patient}
    rows = []
    for joint in JOINTS:
        ours, theirs = predicted == joint.label, true == joint.label
        missed = theirs.any() and not (ours & theirs).any()
        rows.append({**named, "side": joint.side, "grade": grades.get(f"grade_{joint.side}"),
                     **_measured(ours, theirs, truth), "missed": int(missed)})
    return {**named, **grades, **_measured(predicted != 0, true != 0, truth), "missed": sum(r["missed"] for r in rows)}, rows


def _measured(prediction: np.ndarray, truth: np.ndarray, grid: Volume) -> dict:
    """All measures of two boolean masks (d, h, w) that lie on a grid."""
    counts = overlap(prediction, truth)
    surface = surface_scores(prediction, truth, grid.spacing, diagonal(grid.array.shape, grid.spacing))
    ml = float(np.prod(grid.spacing)) / 1000
    return {**{m: getattr(counts, m) for m in OVERLAPS}, **{m: getattr(surface, m) for m in SURFACES},
            "undefined": int(surface.undefined),
            "truth_ml": np.count_nonzero(truth) * ml, "predicted_ml": np.count_nonzero(prediction) * ml}


def read_scores(run: Path, file: str = SCORES_FILE) -> pd.DataFrame:
    """A run's scores as `score_run` wrote them: one row a case, or with SIDES_FILE one row a side.

    Raises InputError when the file holds anything else.
    """
    names = {"network": str, "case": str, "patient": str, "side": str}          # a case named 007 stays so
    try:
        table = pd.read_csv(run / file, dtype=names, keep_default_na=False, na_values=[""])
    except ValueError as error:
        raise InputError(f"{run / file}: {DAMAGED_SCORES}") from error
    if table.empty or not {"network", "case", *OVERLAPS} <= set(table):
        raise InputError(f"{run / file}: {DAMAGED_SCORES}")
    return table


def scores_key(run: Path) -> str | None:
    """The key that ``scores.csv`` was written under, or None where that cannot be told."""
    return _noted(run, "key")


def scored_on(run: Path) -> str:
    """The device that the scored masks were predicted on, in words."""
    return _noted(run, "device") or "unknown"


def _noted(run: Path, name: str) -> str | None:
    try:
        return provenance.read_json(run / KEY_FILE)[name]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the cases of each network, in percent as in the paper."""
    grouped = scores.groupby("network", sort=False)
    table = pd.DataFrame({"cases": grouped.size()})
    for measure in OVERLAPS:
        mean, sd = 100 * grouped[measure].mean(), 100 * grouped[measure].std()
        table[measure] = [f"{m:.1f}" if pd.isna(s) else f"{m:.1f} ± {s:.1f}" for m, s in zip(mean, sd)]
    return table
