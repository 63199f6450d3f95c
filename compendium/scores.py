"""Scores of finished runs, measured on the scan's own grid: one row a case, and one row a joint.

Policies, so that nothing is ever dropped from a mean: empty masks and undefined distances as in
``magunet.metrics`` and ``magunet.surfaces``; a joint is missed where the truth has one on that side and
the prediction has no voxel in common with it. All are counted in the tables.
"""

import lzma
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from compendium.fits import with_room
from magunet import body, joints, metrics, predict, prepare, region, runs, surfaces, volume
from magunet.base import nifti, project, provenance
from magunet.base.device import peak_memory_mb, reset_peak_memory
from magunet.base.errors import InputError
from magunet.base.profiles import Settings
from magunet.base.progress import track
from magunet.cohort import Case, Cohort, read_checked

SCORES_FILE = "scores.csv"
"""Of a run: one row a case."""
SIDES_FILE = "scores_by_side.csv"
"""Of a run: one row a joint."""
KEY_FILE = "scores.json"
"""Of a run: what its scores come from, and the device that predicted."""
OVERLAPS = ("dice", "iou", "precision", "recall")
"""The paper's measures, in [0, 1]."""
CODE = (body, metrics, predict, prepare, region, joints, surfaces, volume, sys.modules[__name__])
"""The modules that decide a score when a network has answered."""


def score_run(run: Path, cohort: Cohort, plain: bool = False) -> pd.DataFrame:
    """Segment the cohort's validation cases with a run and score them; done once, then read back.

    Writes SCORES_FILE (returned), SIDES_FILE and ``masks/CASE.nii.gz`` into the run's folder, and in KEY_FILE
    the device and the `score_key`: when it changes, the run is scored again. Seconds and peak memory are of
    segmenting the case, whose region of interest is known. plain: as in `load_model`. Raises InputError when
    the run was trained on other data: these cases might not be unseen; and for a case that `check` refuses.
    """
    model = with_room(predict.load_model(run, plain))
    if model.record["data_hash"] != runs.data_hash(cohort, model.settings):
        raise InputError(f"{run}: was trained on other data, another split or other preparation than "
                         f"{cohort.root} now has; train on this cohort")
    of_scores = run, cohort, model.record["data_hash"], model.settings, plain
    if is_scored(*of_scores):
        return read_scores(run)
    locator = locator_hash(model.settings)
    tables = {SIDES_FILE: [], SCORES_FILE: []}
    of_run = {"network": model.record["network"], "seed": model.record["seed"]}
    for case in track([cohort.cases[name] for name in cohort.val], "scored"):
        scan, truth = read_checked(case)
        centre = _centre(case, scan, locator) if locator else None
        reset_peak_memory(model.device)
        began = time.monotonic()
        mask = model.segment(scan, centre)
        cost = {"seconds": round(time.monotonic() - began, 2), "peak_memory_mb": peak_memory_mb(model.device)}
        volume.write_volume(mask, run / "masks" / f"{case.name}.nii.gz")
        row, sides = score_case(case, scan, mask, truth)
        tables[SCORES_FILE].append(of_run | row | cost)
        tables[SIDES_FILE] += [of_run | side for side in sides]
    for file, rows in tables.items():
        with provenance.whole_file(run / file) as part:
            pd.DataFrame(rows).to_csv(part, index=False, float_format="%.4g")
    provenance.write_json(run / KEY_FILE, {
        "key": score_key(*of_scores), "device": provenance.device_name(model.device)})
    return read_scores(run)


def locator_hash(settings: Settings) -> str | None:
    """A hash of all that decides where the locator finds the joints; None where it is not asked."""
    return None if settings.depth else provenance.content_hash(
        provenance.file_hash(predict.shipped_weights() / predict.LOCATOR / predict.WEIGHTS_FILE),
        provenance.code_hash(*CODE, *runs.CODE, nifti))


def score_key(run: Path, cohort: Cohort, data: str, settings: Settings, plain: bool = False) -> str:
    """A hash of all that a run's scores come from; data: of `magunet.runs.data_hash`."""
    cases = [cohort.cases[name] for name in cohort.val]
    known = [(case.patient, *map(case.info.get, ("grade_left", "grade_right"))) for case in cases]
    hashes = provenance.file_hash(run / predict.WEIGHTS_FILE), provenance.code_hash(*CODE)
    return provenance.content_hash(*hashes, data, plain, locator_hash(settings), known)


def is_scored(run: Path, cohort: Cohort, data: str, settings: Settings, plain: bool = False) -> bool:
    """Whether a run has today's scores, which have today's `score_key`."""
    files = all((run / file).exists() for file in (SCORES_FILE, SIDES_FILE, predict.WEIGHTS_FILE))
    return files and scored_by(run).get("key") == score_key(run, cohort, data, settings, plain)


def _centre(case: Case, scan: volume.Volume, locator: str) -> region.Triple | None:
    """What `predict.locate` finds, kept in ``data/prepared``, since it is the same for every network."""
    key = provenance.content_hash(provenance.file_hash(case.image), locator)
    path = project.data() / "prepared" / f"{case.name}-{key}.json"
    try:
        centre = provenance.read_json(path)
        return centre and tuple(map(float, centre))
    except (OSError, ValueError, TypeError):                # not there yet, or damaged
        centre, _ = predict.locate(scan)
    provenance.write_json(path, centre)
    return centre


def score_case(case: Case, scan: volume.Volume, prediction: volume.Volume,
               truth: volume.Volume) -> tuple[dict, list[dict]]:
    """A case in one row, and its left and right side in one row each, or one row of the side "unknown".

    prediction, truth: masks on the scan's grid, parted by `joints.sides`, by the truth unless it is empty;
    what crosses the plane is cut there. Overlaps and NSD are in [0, 1], HD95 and ASSD in mm, volumes in ml;
    ``undefined`` says that just one mask was empty, and the whole scan's diagonal stands for its distances,
    for a side's, too; ``missed`` counts missed joints. ``dice_within`` and so on count only within the
    target's slices, which are axial whatever the order of the voxels, and all where the truth is empty.
    """
    penalty = surfaces.diagonal(truth.array.shape, truth.spacing)
    if (either := (truth.array != 0) | (prediction.array != 0)).any():                  # to save time
        box = volume.bounding_box(either)
        prediction, truth = (volume.part_of(mask, box) for mask in (prediction, truth))
    _, parted = joints.sides(scan, truth, prediction)
    true, predicted = (labels.array for labels in parted)
    names, rows = {"case": case.name, "patient": case.patient}, []
    grades = {key: case.info[key] for key in ("grade_left", "grade_right") if key in case.info}
    for joint in joints.joints_of(*parted):
        ours, theirs = predicted == joint.label, true == joint.label
        missed = int(theirs.any() and not (ours & theirs).any())
        rows.append({**names, "side": joint.side, "grade": grades.get(f"grade_{joint.side}"),
                     **_scores(ours, theirs, truth, penalty), "missed": missed})
    whole = _scores(predicted != 0, true != 0, truth, penalty) | _overlaps_within(prediction, truth)
    return {**names, **grades, **whole, "missed": sum(row["missed"] for row in rows)}, rows


def _overlaps_within(prediction: volume.Volume, truth: volume.Volume) -> dict:
    """Overlaps in the axial slices that hold any of the truth; the paper removes the others (Sec. 2.1.2)."""
    x, y = (volume.reorient(mask, "LPS").array for mask in (prediction, truth))
    slices = y.any((1, 2)) | ~y.any()
    counts = metrics.overlap(x[slices], y[slices])
    return {f"{name}_within": getattr(counts, name) for name in OVERLAPS}


def _scores(prediction: np.ndarray, truth: np.ndarray, grid: volume.Volume, penalty: float) -> dict:
    """All measures of two boolean masks (d, h, w) that lie on a grid; penalty: as in `surface_scores`."""
    counts, ml = metrics.overlap(prediction, truth), float(np.prod(grid.spacing)) / 1000
    surface = surfaces.surface_scores(prediction, truth, grid.spacing, penalty)
    return {**{name: getattr(counts, name) for name in OVERLAPS}, "hd95": surface.hd95, "assd": surface.assd,
            "nsd": surface.nsd, "undefined": int(surface.undefined),
            "truth_ml": np.count_nonzero(truth) * ml, "predicted_ml": np.count_nonzero(prediction) * ml}


def read_scores(run: Path, file: str = SCORES_FILE) -> pd.DataFrame:
    """What `score_run` or `compendium.results.store` wrote into a folder: one row a case, or a side.

    Raises InputError when the file holds anything else.
    """
    names = {"network": str, "case": str, "patient": str, "side": str}          # a case named 007 stays so
    try:
        table = pd.read_csv(run / file, dtype=names, keep_default_na=False, na_values=[""])
        if table.empty or not {"network", "case", *OVERLAPS} <= set(table):
            raise ValueError("columns are missing")
    except (ValueError, lzma.LZMAError, EOFError) as error:
        raise InputError(f"{run / file}: damaged; remove it and score the run again with 'magunet "
                         "evaluate', or store the results again") from error
    return table


def scored_by(run: Path) -> dict:
    """``key`` and ``device`` of a run's scores, as ``scores.json`` has them; empty where it is damaged."""
    try:
        return dict(provenance.read_json(run / KEY_FILE))
    except (OSError, ValueError, TypeError):
        return {}
