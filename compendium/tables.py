"""Tables 1 to 4 of the paper, measured: every number in one long table.

One row a number: which row of the paper's table, over which cases (``group``), of what (``measure``, ``unit``).
``compendium.formats`` turns it into what people read.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from compendium.cost import network_cost
from compendium.paper import MI, TABLES, Row
from compendium.statistics import by_patient, estimate, holm, signed_rank
from magunet.base.errors import InputError
from magunet.studies import ALIASES

LEFT_OUT = {4: ("+MFF+LGAG",)}
"""Rows that the paper's tables lack, by table; shown like its own."""
BEYOND = {1: ("nnU-Net", "MedNeXt", "SegResNet", "SwinUNETR", "TransUNet")}
"""Networks a user may take instead, by table; shown where they have been trained."""
WHOLE_STUDY = ("gpu",)
"""Profiles whose grid trains those, too."""
REFERENCE = "MAG-UNet"
"""What every other network is tested against."""
ALL = "all"
TRAINED, NOT_TRAINED = "trained", "not trained"
COLUMNS = ("table", "row", "network", "status", "group", "measure", "unit", "value", "low", "high", "sd_seeds", "paper",
           "difference", "patients", "seeds", "p", "p_holm", "effect")


@dataclass(frozen=True)
class Measure:
    """A column of ``scores.csv`` and how tables show it; "%" is 100 times what is stored."""

    column: str
    title: str
    unit: str

    @property
    def scale(self) -> float:
        return 100.0 if self.unit == "%" else 1.0


MEASURES = (Measure("dice", "Dice", "%"), Measure("iou", "IoU", "%"), Measure("precision", "precision", "%"),
            Measure("recall", "recall", "%"), Measure("hd95", "HD95", "mm"), Measure("assd", "ASSD", "mm"),
            Measure("nsd", "NSD at 1 mm", "%"))


def paper_rows(table: int) -> tuple[Row, ...]:
    """The paper's Table 1, 2, 3 or 4. Raises InputError for another number."""
    if table not in range(1, len(TABLES) + 1):
        raise InputError(f"the paper has Tables 1 to {len(TABLES)}, no Table {table}")
    return TABLES[table - 1]


def study_rows(table: int, trained: Collection[str]) -> tuple[Row, ...]:
    """The paper's rows, those it leaves out, and those of ``trained`` that go beyond it. Raises as `paper_rows` does."""
    more = (*LEFT_OUT.get(table, ()), *(name for name in BEYOND.get(table, ()) if name in trained))
    return *paper_rows(table), *(Row(table=table, name=name, network=name) for name in more)


def grid(profile: str, beyond: bool | None = None) -> list[str]:
    """The networks that a profile trains, each once. beyond: with those of BEYOND; None asks WHOLE_STUDY."""
    more = BEYOND if (profile in WHOLE_STUDY if beyond is None else beyond) else {}
    rows = [row for table in range(1, len(TABLES) + 1) for row in study_rows(table, more.get(table, ()))]
    return list(dict.fromkeys(trained_as(row.network) for row in rows))


def trained_as(network: str) -> str:
    """The name that a row's network is trained under: two rows can share one."""
    return ALIASES.get(network, network)


def study_table(table: int, scores: pd.DataFrame, sides: pd.DataFrame) -> pd.DataFrame:
    """One of the paper's tables from the scores of finished runs, in COLUMNS.

    scores, sides: of `compendium.scores.read_scores`, of any networks and seeds; those of MAG-UNet are what the
    others are tested against. Every row of the paper is there: without scores it has its ``status``, the paper's
    numbers and what it costs.

    * Measures, group "all": ``value`` is the mean over patients, ``low`` and ``high`` its 95 % interval,
      ``sd_seeds`` its SD over seeds, ``difference`` value - paper. ``p`` and ``effect`` compare with MAG-UNet,
      positive where the row is higher; ``p_holm`` is adjusted within the measure over the rows of the table.
    * Measures, groups "left", "right", "grade 0", ...: of single joints that the truth has, the mean over patients.
    * Counts: over all predictions, of all seeds.
    * "parameters" (Mi) and "TFLOP" at the paper's widths and 50 x 256 x 256; "seconds a case" the median,
      "peak memory" (GB) the most, of the predictions.

    Raises InputError when there is no such table, or two networks were scored on different patients.
    """
    rows = []
    for row in study_rows(table, set(scores["network"])):
        network = trained_as(row.network)
        mine, joints = (frame[frame["network"] == network] for frame in (scores, sides))
        status = TRAINED if len(mine) else NOT_TRAINED
        numbers = [*_costs(row, mine, status), *_measures(row, mine), *_counts(mine, joints), *_groups(joints)]
        rows += [{"table": table, "row": row.name, "network": network, "status": status, "group": ALL} | n for n in numbers]
    numbers = pd.DataFrame(rows, columns=COLUMNS)
    return _with_tests(numbers.astype(dict.fromkeys(COLUMNS[7:], float)), scores)


def _costs(row: Row, scores: pd.DataFrame, status: str) -> list[dict]:
    cost = network_cost(trained_as(row.network))
    numbers = [{"measure": "parameters", "unit": "Mi", "value": cost.parameters / MI, "paper": row.params_mi},
               {"measure": "TFLOP", "unit": "10^12", "value": cost.flop / 1e12}]
    if row.params_mi:
        numbers[0]["difference"] = numbers[0]["value"] - row.params_mi
    if status == TRAINED:
        numbers += [{"measure": "seconds a case", "unit": "s", "value": scores["seconds"].median()},
                    {"measure": "peak memory", "unit": "GB", "value": scores["peak_memory_mb"].max() / 1000}]
    return numbers


def _measures(row: Row, scores: pd.DataFrame) -> list[dict]:
    numbers = []
    for measure in MEASURES:
        paper = getattr(row, measure.column, None)
        number = {"measure": measure.title, "unit": measure.unit, "paper": paper} | _estimated(scores, measure)
        if paper is not None and "value" in number:
            number["difference"] = number["value"] - paper
        numbers.append(number)
    return numbers


def _estimated(scores: pd.DataFrame, measure: Measure) -> dict:
    if scores.empty:
        return {}
    found = estimate(scores, measure.column)
    scaled = {"value": found.mean, "low": found.low, "high": found.high, "sd_seeds": found.sd_seeds}
    return {name: measure.scale * value for name, value in scaled.items()} | {"patients": found.patients, "seeds": found.seeds}


def _counts(scores: pd.DataFrame, sides: pd.DataFrame) -> list[dict]:
    """How often each policy took hold, so that a mean can be judged by what went into it."""
    if scores.empty:
        return []
    there = sides["truth_ml"] > 0
    counts = {"scans": scores["case"].nunique(), "predictions": len(scores),
              "empty predictions": (scores["predicted_ml"] == 0).sum(), "empty truths": (scores["truth_ml"] == 0).sum(),
              "undefined distances": scores["undefined"].sum(), "joints": there.sum(), "missed joints": sides["missed"].sum(),
              "empty sides": (~there).sum(), "false joints": (~there & (sides["predicted_ml"] > 0)).sum()}
    return [{"measure": name, "unit": "count", "value": int(count)} for name, count in counts.items()]


def _groups(sides: pd.DataFrame) -> list[dict]:
    """Measures and counts of single joints, by side and by grade. A side without a joint has no grade; it is counted."""
    if sides.empty:
        return []
    sides, numbers = sides[sides["truth_ml"] > 0], []
    for group, joints in [*sides.groupby("side"), *sides.groupby(sides["grade"].map(_grade))]:
        counts = {"joints": len(joints), "missed joints": joints["missed"].sum(),
                  "undefined distances": joints["undefined"].sum()}
        numbers += [{"group": group, "measure": m.title, "unit": m.unit} | _estimated(joints, m) for m in MEASURES]
        numbers += [{"group": group, "measure": name, "unit": "count", "value": int(n)} for name, n in counts.items()]
    return numbers


def _grade(grade: object) -> str:
    if pd.isna(grade):
        return "grade unknown"
    return f"grade {grade:g}" if isinstance(grade, (int, float)) else f"grade {grade}"


def _with_tests(numbers: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """The table with every trained network tested against MAG-UNet, where that is trained."""
    reference = scores[scores["network"] == REFERENCE]
    if reference.empty:
        return numbers
    trained = (numbers["status"] == TRAINED) & (numbers["network"] != REFERENCE) & (numbers["group"] == ALL)
    for measure in MEASURES:
        index = numbers.index[trained & (numbers["measure"] == measure.title)]
        tests = []
        for network in numbers.loc[index, "network"]:
            pair = [by_patient(scores[scores["network"] == name], measure.column).mean(axis=1) for name in (network, REFERENCE)]
            if set(pair[0].index) != set(pair[1].index):
                raise InputError(f"{network} and {REFERENCE} were scored on different patients; score both on one cohort")
            tests.append(signed_rank(*pair))
        p = [test.p for test in tests]
        numbers.loc[index, ["p", "p_holm", "effect"]] = np.array([p, holm(p), [test.effect for test in tests]]).T
    return numbers
