"""Tables 1 to 4 of the paper, measured: every number in one long table.

One row a number: its row in the paper's table, over which cases (``group``), of what (``measure``, ``unit``).
``compendium.formats`` turns it into what people read.
"""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from compendium.fits import network_cost
from compendium.grid import REFERENCE, study_rows, trained_as
from compendium.paper import MI, Row
from compendium.statistics import by_patient, estimate, holm, signed_rank
from magunet.base.errors import InputError

ALL = "all"
"""The group of all cases."""
TRAINED = "trained"
"""Status of a row whose network has scores."""
NOT_TRAINED = "not trained"
"""Status of a row whose network has none."""
COLUMNS = ("table", "row", "network", "status", "group", "measure", "unit",
           "value", "low", "high", "sd_seeds", "paper", "difference", "patients", "seeds", "p", "p_holm",
           "effect")
"""Of the long table; numbers from ``value`` on."""


class Measure(NamedTuple):
    """A column of ``scores.csv`` and how tables show it; "%" is 100 times what is stored."""

    column: str
    title: str
    unit: str


MEASURES = (Measure("dice", "Dice", "%"), Measure("iou", "IoU", "%"), Measure("precision", "precision", "%"),
            Measure("recall", "recall", "%"), Measure("hd95", "HD95", "mm"), Measure("assd", "ASSD", "mm"),
            Measure("nsd", "NSD at 1 mm", "%"))
"""In the order in which tables show them."""


def study_table(table: int, scores: pd.DataFrame, sides: pd.DataFrame) -> pd.DataFrame:
    """One of the paper's tables from the scores of finished runs, in COLUMNS.

    scores, sides: of `compendium.scores.read_scores`, of any networks and seeds; every network is tested
    against MAG-UNet. Every row of the paper is there: without scores it has its ``status``, the paper's
    numbers and what it costs.

    * Measures, group "all": ``value`` is the mean over patients, ``low`` and ``high`` its 95 % interval,
      ``sd_seeds`` its SD over seeds, ``difference`` value - paper; ``p`` and ``effect`` compare with
      MAG-UNet, positive where the row is higher; ``p_holm`` is adjusted within the measure over the rows.
    * Measures, groups "left", "right", "grade 0", ...: the same of single joints that the truth has.
    * Counts: over all predictions, of all seeds.
    * "parameters" (Mi) and "TFLOP" at the paper's widths and 50 x 256 x 256; "seconds a case" the median,
      "peak memory" (GB) the maximum, of the predictions.

    Raises InputError when there is no such table, or two networks were scored on different patients.
    """
    rows = []
    for row in study_rows(table, set(scores["network"])):
        network = trained_as(row.network)
        mine, joints = (frame[frame["network"] == network] for frame in (scores, sides))
        status = TRAINED if len(mine) else NOT_TRAINED
        measures = [_number(mine, m) | {"paper": getattr(row, m.column, None)} for m in MEASURES]
        first = {"table": table, "row": row.name, "network": network, "status": status, "group": ALL}
        numbers = [*_costs(row, mine), *measures]
        if len(mine):
            numbers += [*_counts(mine, joints), *_groups(joints)]
        rows += [first | number for number in numbers]
    numbers = pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(COLUMNS[7:], float))
    return _with_tests(numbers.assign(difference=numbers["value"] - numbers["paper"]), scores)


def _costs(row: Row, scores: pd.DataFrame) -> list[dict]:
    parameters, flop = network_cost(trained_as(row.network))
    numbers = [{"measure": "parameters", "unit": "Mi", "value": parameters / MI, "paper": row.params_mi},
               {"measure": "TFLOP", "unit": "10^12", "value": flop / 1e12}]
    if len(scores):
        numbers += [{"measure": "seconds a case", "unit": "s", "value": scores["seconds"].median()},
                    {"measure": "peak memory", "unit": "GB", "value": scores["peak_memory_mb"].max() / 1000}]
    return numbers


def _number(scores: pd.DataFrame, measure: Measure) -> dict:
    """A measure's name and unit and, where there are scores, its mean with interval and spread."""
    number = {"measure": measure.title, "unit": measure.unit}
    if scores.empty:
        return number
    ours, scale = estimate(scores, measure.column), 100 if measure.unit == "%" else 1
    return number | {"value": scale * ours.mean, "low": scale * ours.low, "high": scale * ours.high,
                     "sd_seeds": scale * ours.sd_seeds, "patients": ours.patients, "seeds": ours.seeds}


def _counts(scores: pd.DataFrame, sides: pd.DataFrame) -> list[dict]:
    """How often each policy took hold, so that a mean can be judged by what went into it."""
    exists = sides["truth_ml"] > 0
    return _as_counts(
        {"scans": scores["case"].nunique(), "predictions": len(scores),
         "empty predictions": (scores["predicted_ml"] == 0).sum(),
         "empty truths": (scores["truth_ml"] == 0).sum(), "undefined distances": scores["undefined"].sum(),
         "joints": exists.sum(), "missed joints": sides["missed"].sum(), "empty sides": (~exists).sum(),
         "false joints": (~exists & (sides["predicted_ml"] > 0)).sum()})


def _as_counts(counts: Mapping[str, int]) -> list[dict]:
    return [{"measure": name, "unit": "count", "value": int(count)} for name, count in counts.items()]


def _groups(sides: pd.DataFrame) -> list[dict]:
    """Measures and counts of single joints, by side and by grade. A side without a joint is only counted."""
    sides, numbers = sides[sides["truth_ml"] > 0], []
    for group, joints in [*sides.groupby("side"), *sides.groupby(sides["grade"].map(_grade))]:
        counts = {"joints": len(joints), "missed joints": joints["missed"].sum(),
                  "undefined distances": joints["undefined"].sum()}
        measures = [_number(joints, measure) for measure in MEASURES]
        numbers += [{"group": group} | number for number in (*measures, *_as_counts(counts))]
    return numbers


def _grade(grade: object) -> str:
    if pd.isna(grade):
        return "grade unknown"
    return f"grade {grade:g}" if isinstance(grade, (int, float)) else f"grade {grade}"


def _with_tests(numbers: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """The table with every trained network tested against MAG-UNet, where that is trained."""
    if REFERENCE not in set(scores["network"]):
        return numbers
    trained = (numbers["status"] == TRAINED) & (numbers["network"] != REFERENCE) & (numbers["group"] == ALL)
    for measure in MEASURES:
        means = {name: by_patient(mine, measure.column).mean(axis=1)
                 for name, mine in scores.groupby("network")}
        index = numbers.index[trained & (numbers["measure"] == measure.title)]
        for number, network in numbers.loc[index, "network"].items():
            if set(means[network].index) != set(means[REFERENCE].index):
                raise InputError(f"{network} and {REFERENCE} were scored on different patients; "
                                 "score both on one cohort")
            numbers.loc[number, ["p", "effect"]] = list(signed_rank(means[network], means[REFERENCE]))
        numbers.loc[index, "p_holm"] = holm(numbers.loc[index, "p"].tolist())
    return numbers
