"""Scores of finished runs: one row a case, measured on the scan's own grid."""

import json
import time
from pathlib import Path

import pandas as pd

from magunet import project, provenance
from magunet.data.cohort import Cohort
from magunet.data.volume import read_volume, write_volume
from magunet.errors import InputError
from magunet.learn.predict import RECORD_FILE, load_model
from magunet.profiles import Settings
from magunet.progress import track
from magunet.report.metrics import overlap

SCORES_FILE = "scores.csv"
MEASURES = ("dice", "iou", "precision", "recall")


def score_run(run: Path, cohort: Cohort) -> pd.DataFrame:
    """Segment the cohort's validation cases with a run and score them; done once, then read back.

    Writes ``scores.csv`` and ``masks/CASE.nii.gz`` into the run's folder. Raises InputError when the run was
    trained on another split, for its scores would not be on unseen cases.
    """
    path = run / SCORES_FILE
    if path.exists():
        return pd.read_csv(path)
    model = load_model(run)
    if seen := sorted(set(model.record["train"]) & set(cohort.val)):
        raise InputError(f"{run}: was trained on {seen[0]}, a validation case of this cohort; "
                         "train on this cohort")
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
    return table


def finished_runs(settings: Settings) -> list[Path]:
    """Runs of these very settings that have scores, oldest first."""
    found = []
    for record in project.runs().glob(f"*/{RECORD_FILE}"):
        if json.loads(record.read_text())["settings"] == settings.as_dict() and (record.parent / SCORES_FILE).exists():
            found.append(record.parent)
    return sorted(found, key=lambda run: (run / RECORD_FILE).stat().st_mtime)


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the cases of each network, in percent as in the paper."""
    grouped = scores.groupby("network", sort=False)
    table = pd.DataFrame({"cases": grouped.size()})
    for measure in MEASURES:
        mean, sd = 100 * grouped[measure].mean(), 100 * grouped[measure].std()
        table[measure] = [f"{m:.1f} ± {s:.1f}" for m, s in zip(mean, sd)]
    return table
