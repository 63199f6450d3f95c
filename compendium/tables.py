"""Tables 1 to 4 of the paper, measured: every number in one long table.

One row a number: its row in the paper's table, over which cases (``group``), of what (``measure``, ``unit``).
``compendium.formats`` turns it into what people read.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from compendium.fits import network_cost
from compendium.grid import study_rows
from compendium.paper import MI, Row
from compendium.statistics import LEAST_PATIENTS, crossed, pooled
from magunet.studies import checked

ALL = "all"
"""The group of all cases."""
TRAINED = "trained"
"""Status of a row whose network has scores."""
NOT_TRAINED = "not trained"
"""Status of a row whose network has none."""
COLUMNS = ("table", "row", "network", "status", "group", "measure", "unit", "value", "low", "high",
           "sd_seeds", "paper", "difference", "patients", "seeds")
"""Of the long table; numbers from ``value`` on."""
MEASURES = {"dice": ("Dice", "%"), "iou": ("IoU", "%"), "precision": ("precision", "%"),
            "recall": ("recall", "%"), "hd95": ("HD95", "mm"), "assd": ("ASSD", "mm"),
            "nsd": ("NSD at 1 mm", "%"), "dice_within": ("Dice within the target's slices", "%")}
"""Column of ``scores.csv`` -> title and unit in tables, in their order; "%" is 100 times what is stored."""


def study_table(table: int, scores: pd.DataFrame, sides: pd.DataFrame,
                runs: Sequence[dict] = ()) -> pd.DataFrame:
    """One of the paper's tables from the scores of finished runs, in COLUMNS: it describes and tests nothing.

    scores, sides: of `compendium.scores.read_scores`, of any networks and seeds; runs: their records. Every
    row of the paper is there: without scores it has its ``status``, the paper's numbers and what it costs.

    ``value`` of a measure is the mean over patients and seeds, with interval and SD as of
    `compendium.statistics.pooled`: of all cases, and of single joints that the truth has, by side and grade.
    ``difference`` is value - paper, from LEAST_PATIENTS on; the paper's Dice, which leaves out slices without
    target, stands beside ours of all slices, and of the target's. Counts and costs: ``tables.toml``. Raises
    InputError when there is no such table, or as `compendium.statistics.crossed`.
    """
    rows, columns = [], [column for column in MEASURES if scores.empty or column in scores]
    if len(scores):
        crossed(scores, "dice")                     # raises where networks were scored on different patients
    for row in study_rows(table, set(scores["network"])):
        network = checked(row.network)
        mine, joints = (frame[frame["network"] == network] for frame in (scores, sides))
        status = TRAINED if len(mine) else NOT_TRAINED
        measures = [_number(mine, column) | {"paper": getattr(row, column.removesuffix("_within"), None)}
                    for column in columns]
        first = {"table": table, "row": row.name, "network": network, "status": status, "group": ALL}
        numbers = [*_costs(row, mine, [run for run in runs if run["network"] == network]), *measures]
        if len(mine):
            truth = joints["truth_ml"] > 0
            numbers += _counts({
                "seeds": mine["seed"].nunique(), "predictions": len(mine),
                "empty predictions": (mine["predicted_ml"] == 0).sum(),
                "empty truths": (mine["truth_ml"] == 0).sum(), "undefined distances": mine["undefined"].sum(),
                "joints": truth.sum(), "missed joints": joints["missed"].sum(),
                "empty sides": (~truth).sum(), "false joints": (~truth & (joints["predicted_ml"] > 0)).sum()})
            numbers += _groups(joints[truth])
        rows += [first | number for number in numbers]
    numbers = pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(COLUMNS[7:], float))
    comparable = ~(numbers["patients"] < LEAST_PATIENTS)                   # true of costs, which have none
    return numbers.assign(difference=(numbers["value"] - numbers["paper"]).where(comparable))


def extent(numbers: pd.DataFrame) -> str:
    """How much stands behind a table: how many of its networks, trainings and patients."""
    rows = numbers.drop_duplicates("row")
    whole = numbers[(numbers["group"] == ALL) & numbers["seeds"].notna()]
    if whole.empty:
        return f"0 of {len(rows)} networks trained"
    (few, many), patients = whole["seeds"].agg(["min", "max"]).astype(int), int(whole["patients"].max())
    seeds = f"{many} training{'s'[:many != 1]} each" if few == many else f"{few} to {many} trainings each"
    return (f"{whole['row'].nunique()} of {len(rows)} networks, {seeds}, "
            f"{patients} patient{'s'[:patients != 1]}")


def _costs(row: Row, scores: pd.DataFrame, runs: list[dict]) -> list[dict]:
    parameters, flop = network_cost(checked(row.network))
    numbers = [{"measure": "parameters", "unit": "Mi", "value": parameters / MI, "paper": row.params_mi},
               {"measure": "TFLOP", "unit": "10^12", "value": flop / 1e12}]
    if len(scores):
        numbers += [{"measure": "seconds a case", "unit": "s", "value": scores["seconds"].median()},
                    {"measure": "peak memory", "unit": "GB", "value": scores["peak_memory_mb"].max() / 1000}]
    if runs:
        seconds, memory = ([run[name] for run in runs] for name in ("seconds", "peak_memory_mb"))
        numbers += [{"measure": "minutes a training", "unit": "min", "value": np.median(seconds) / 60},
                    {"measure": "training memory", "unit": "GB", "value": max(memory) / 1000}]
    return numbers


def _number(scores: pd.DataFrame, column: str) -> dict:
    """A measure's name and unit and, where there are scores, its mean with interval and spread."""
    title, unit = MEASURES[column]
    if scores.empty:
        return {"measure": title, "unit": unit}
    ours = pooled((100 if unit == "%" else 1) * crossed(scores, column))
    return {"measure": title, "unit": unit, "value": ours.mean} | ours._asdict()


def _counts(counts: dict[str, int]) -> list[dict]:
    return [{"measure": name, "unit": "count", "value": int(count)} for name, count in counts.items()]


def _groups(sides: pd.DataFrame) -> list[dict]:
    """Measures and counts of single joints that the truth has, by side and by grade."""
    numbers, grades = [], sides["grade"].astype(object).where(sides["grade"].notna(), "unknown")
    grades = grades.map("grade {}".format).str.removesuffix(".0")
    for group, joints in [*sides.groupby("side"), *sides.groupby(grades)]:
        counts = {"joints": len(joints), "missed joints": joints["missed"].sum(),
                  "undefined distances": joints["undefined"].sum()}
        measures = [_number(joints, column) for column in MEASURES if column in joints]
        numbers += [{"group": group} | number for number in (*measures, *_counts(counts))]
    return numbers
