"""The paper's claims, each with its verdict: read from ``claims.csv``, or judged by scores of networks.

Verdicts that rest on the paper's numbers and on untrained networks stand in the file, since neither changes:
notebook 11 computes them under the heading in the column "shown". Claims about trained networks are judged
by their leads, such as "dice of +DA over +SE": a measure and networks with weights, pooled over seeds and
patients; the file says what the paper's own tables say of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from compendium.audit import read_table
from compendium.effects import BASE, MODULES, NETWORKS, contrast, factorial
from compendium.formats import to_markdown
from compendium.grid import REFERENCE
from compendium.paper import TABLE_1, TABLE_2, TABLE_3, Row
from compendium.statistics import LEAST_SEEDS, LEVEL, crossed, holm
from magunet.base import project
from magunet.base.provenance import git_revision, whole_file
from magunet.studies import checked

Leads = dict[str, tuple[str, Mapping[str, float]]]
"""What a claim needs to be above 0: name -> measure, and weights of networks."""


class Verdict(StrEnum):
    """What became of a claim. A PENDING claim is about trained networks of which some have no scores yet."""

    HOLDS = "holds here"
    FAILS = "does not hold here"
    AGREES = "agrees with the paper's own numbers"
    CONTRADICTS = "contradicts the paper's own numbers"
    UNTESTABLE = "cannot be tested without the hospital's data"
    UNTOLD = "cannot be told here"
    PENDING = "needs the study runs"


def judged(scores: pd.DataFrame) -> pd.DataFrame:
    """One line a claim: place, claim, verdict, found, shown. scores: by case, of `read_scores`."""
    table = read_table("claims")
    for number, key, paper in table[["key", "found"]].itertuples():
        if key in CLAIMED:
            verdict, reason = judge(scores, CLAIMED[key])
            reasons = (paper, reason) if verdict == Verdict.PENDING else (reason, paper)
            table.loc[number, ["verdict", "found"]] = str(verdict), "; ".join(reasons)
    return table.drop(columns="key")


def linked(table: pd.DataFrame, notebook: str = "") -> pd.DataFrame:
    """The table with Markdown links to headings of a notebook, or of this one, in its column ``shown``."""
    anchors = table["shown"].str.replace(" ", "-")
    return table.assign(shown="[" + table["shown"] + f"]({notebook}#" + anchors + ")")


def save_claims(table: pd.DataFrame, path: Path, source: str) -> None:
    """Write the table of `judged` beside a profile's figures, with what the verdicts rest on."""
    text = (f"{source}, git {git_revision(project.root())}. Links lead to notebook 11, which shows what "
            "was found. Leads are in points, with intervals over seeds and patients.")
    lines = to_markdown(linked(table, "../../notebooks/11_paper_audit.ipynb"))
    with whole_file(path) as part:
        part.write_text(f"# The paper's claims\n\n{text}\n\n{lines}\n", encoding="utf-8")


def beats(better: str, rows: Iterable[Row], measures: Sequence[str] = ("dice", "iou", "precision")) -> Leads:
    """A network over the others of a table's rows, by each measure."""
    networks = dict.fromkeys(checked(row.network) for row in rows)
    return {f"{measure} of {better} over {network}": (measure, {better: 1, network: -1})
            for network, measure in product(networks, measures) if network != better}


CLAIMED = {
    "best": beats(REFERENCE, TABLE_1),
    "eca": beats(BASE, [row for row in TABLE_2 if row.name == "+ECA"]),
    "da": beats("+DA", TABLE_2),
    "kernel_iou": beats(checked("[1,3,5]"), TABLE_3, ["iou"]),
    "modules": {f"{measure}, main effect of {module}": (measure, factorial(module))
                for module, measure in product(MODULES, ("dice", "iou"))},
    "synergy": {f"{measure}, gained beyond the sum": (
        measure, {REFERENCE: 1, BASE: 2} | {NETWORKS[module,]: -1 for module in MODULES})
        for measure in ("dice", "iou")},
}
"""Key of a claim about trained networks -> its leads."""


def judge(scores: pd.DataFrame, leads: Leads) -> tuple[Verdict, str]:
    """The verdict on a claim, and its reason in a line.

    HOLDS where the intervals of all leads lie above 0; FAILS where a lead is below 0 after Holm's correction
    over the leads; UNTOLD else, below LEAST_SEEDS trainings, and where such a lead is no larger than its SD
    over seeds, so that another training could turn it round; PENDING where a network has no scores.
    """
    networks = dict.fromkeys(name for _, weights in leads.values() for name in weights)
    if missing := [name for name in networks if name not in set(scores["network"])]:
        more = f" and {len(missing) - 2} more" if missing[2:] else ""
        return Verdict.PENDING, f"no scores of {', '.join(missing[:2])}{more}"
    tables = {measure: 100 * crossed(scores, measure) for measure in {m for m, _ in leads.values()}}
    points = pd.DataFrame([contrast(tables[measure], weights) for measure, weights in leads.values()], leads)
    least, seeds = points.sort_values("mean").iloc[0], int(points["seeds"].min())
    outside = points["mean"].abs() > points["sd_seeds"]                   # never of one seed, whose SD is NaN
    verdict = Verdict.HOLDS if (outside & points["low"].gt(0)).all() else Verdict.UNTOLD
    if (outside & points["mean"].lt(0) & (np.array(holm(points["p"])) < 1 - LEVEL)).any():
        verdict = Verdict.FAILS
    return verdict if seeds >= LEAST_SEEDS else Verdict.UNTOLD, (
        f"least lead {least['mean']:+z.1f} [{least['low']:+z.1f}, {least['high']:+z.1f}], {least.name}; "
        f"{seeds} seed{'s'[:seeds > 1]}" + f", SD {least['sd_seeds']:.1f}" * (seeds > 1))
