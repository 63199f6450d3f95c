"""Scores of finished runs: one row a case, measured on the scan's own grid."""

import json
import time
from pathlib import Path

import pandas as pd

from magunet import provenance
from magunet.data import prepare, volume
from magunet.data.cohort import Cohort
from magunet.data.volume import read_volume, write_volume
from magunet.errors import InputError
from magunet.learn import predict
from magunet.learn.predict import WEIGHTS_FILE, load_model
from magunet.learn.runs import data_hash
from magunet.progress import track
from magunet.report import metrics
from magunet.report.metrics import overlap

SCORES_FILE, KEY_FILE = "scores.csv", "scores.json"
MEASURES = ("dice", "iou", "precision", "recall")


def score_run(run: Path, cohort: Cohort) -> pd.DataFrame:
    """Segment the cohort's validation cases with a run and score them; done once, then read back.

    Writes ``scores.csv`` and ``masks/CASE.nii.gz`` into the run's folder, and in ``scores.json`` a hash of the
    weights, the data and the code they come from: when one changes, the run is scored again. Raises InputError
    when the run was trained on other data, for then these cases might not be unseen.
    """
    path = run / SCORES_FILE
    model = load_model(run)
    if model.record["data_hash"] != data_hash(cohort, model.settings):
        raise InputError(f"{run}: was trained on other data, another split or other preparation than {cohort.root} now "
                         "has; train on this cohort")
    key = provenance.content_hash(provenance.file_hash(run / WEIGHTS_FILE), model.record["data_hash"],
                                  provenance.code_hash(metrics, predict, prepare, volume))
    if path.exists() and scores_key(run) == key:
        return pd.read_csv(path)
    rows = []
    for name in track(cohort.val, "scored"):
        case = cohort.cases[name]
        scan, truth = read_volume(case.image), read_volume(case.label)
        began = time.monotonic()
        mask = model.segment(scan)
        seconds = time.monotonic() - began
        write_volume(mask, run / "masks" / f"{name}.nii.gz")
        counts = overlap(mask.array, truth.array)
        rows.append({"network": model.record["network"], "seed": model.record["seed"], "case": name,
                     **{k: v for k, v in case.info.items() if k.startswith("grade_")},
                     **{m: getattr(counts, m) for m in MEASURES}, "seconds": round(seconds, 2)})
    table = pd.DataFrame(rows)
    with provenance.whole_file(path) as part:
        table.to_csv(part, index=False)
    provenance.write_json(run / KEY_FILE, {"key": key})
    return table


def scores_key(run: Path) -> str | None:
    """The key that ``scores.csv`` was written under, or None where that cannot be told."""
    try:
        return json.loads((run / KEY_FILE).read_text())["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the cases of each network, in percent as in the paper."""
    grouped = scores.groupby("network", sort=False)
    table = pd.DataFrame({"cases": grouped.size()})
    for measure in MEASURES:
        mean, sd = 100 * grouped[measure].mean(), 100 * grouped[measure].std()
        table[measure] = [f"{m:.1f}" if pd.isna(s) else f"{m:.1f} ± {s:.1f}" for m, s in zip(mean, sd)]
    return table
