"""The paper's claims, each with its verdict: read from ``claims.csv``, or judged by scores of networks.

Verdicts that rest on the paper's numbers and on untrained networks stand in the file, since neither changes:
notebook 11 computes them under the heading in the column "shown". Claims about trained networks, "each of
these beats each of those", have a judge here; the file says what the paper's own tables say of them. A judge
takes ``scores`` in percent, as of `means`.
"""

from collections.abc import Sequence
from enum import StrEnum
from itertools import product
from pathlib import Path

import pandas as pd

from compendium.audit import read_table
from compendium.formats import to_markdown
from compendium.grid import trained_as
from compendium.paper import TABLE_1, TABLE_2, TABLE_3
from compendium.scores import OVERLAPS
from magunet.base import project
from magunet.base.provenance import git_revision, whole_file

LEAST_CASES = 5
"""With fewer validation cases a mean ranks nothing."""
MODULES = ["+DA", "+MFF", "+LGAG"]
"""The rows of Table 4 with a single module."""
RANKED = ["dice", "iou", "precision"]
"""What the text ranks networks by."""


class Verdict(StrEnum):
    """What became of a claim. A PENDING claim is about trained networks of which some have no scores yet."""

    HOLDS = "holds here"
    FAILS = "does not hold here"
    CONTRADICTS = "contradicts the paper's own numbers"
    UNTESTABLE = "cannot be tested without the hospital's data"
    PENDING = "needs the study runs"


def means(scores: pd.DataFrame) -> pd.DataFrame:
    """Means over cases and seeds of scores by case, a row a network; no rows where the cases are few."""
    table = scores.assign(network=scores["network"].map(trained_as)).astype(dict.fromkeys(OVERLAPS, float))
    enough = table if table["case"].nunique() >= LEAST_CASES else table[:0]
    return 100 * enough.groupby("network", sort=False)[list(OVERLAPS)].mean()


def judged(scores: pd.DataFrame) -> pd.DataFrame:
    """One line a claim: place, claim, verdict, found, shown."""
    table = read_table("claims")
    for number, key, paper in table[["key", "found"]].itertuples():
        if key in JUDGES:
            verdict, reason = JUDGES[key](scores)
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
            "was found. Of trained networks, higher means better here, however little; the tables have the "
            "intervals.")
    lines = to_markdown(linked(table, "../../notebooks/11_paper_audit.ipynb"))
    with whole_file(path) as part:
        part.write_text(f"# The paper's claims\n\n{text}\n\n{lines}\n", encoding="utf-8")


def leads(scores: pd.DataFrame, better: Sequence[str], worse: Sequence[str],
          measures: list[str]) -> pd.Series:
    """Every lead that a claim needs, in points, named like "dice of +DA over +SE"."""
    pairs = product(map(trained_as, better), map(trained_as, worse), measures)
    return pd.Series({f"{m} of {b} over {w}": scores.loc[b, m] - scores.loc[w, m] for b, w, m in pairs})


def unscored(scores: pd.DataFrame, networks: Sequence[str], measures: list[str]) -> list[str]:
    """Networks that have no mean of one of the measures."""
    known = scores.dropna(subset=measures).index
    return [name for name in networks if trained_as(name) not in known]


def beats(scores: pd.DataFrame, better: Sequence[str], worse: Sequence[str],
          measures: list[str]) -> tuple[Verdict, str]:
    """HOLDS where all leads are above 0, else FAILS; PENDING while a network has no scores."""
    if missing := unscored(scores, [*better, *worse], measures):
        more = f" and {len(missing) - 2} more" if missing[2:] else ""
        return Verdict.PENDING, f"no scores of {', '.join(missing[:2])}{more}"
    points = leads(scores, better, worse, measures)
    verdict = Verdict.HOLDS if points.min() > 0 else Verdict.FAILS
    return verdict, f"least lead {points.min():+.1f}: {points.idxmin()}"


def synergy(scores: pd.DataFrame) -> tuple[Verdict, str]:
    """Whether the three modules together gain more than one by one, in Dice and IoU."""
    if unscored(scores, [*MODULES, "MAG-UNet", "3D U-Net"], ["dice", "iou"]):
        return Verdict.PENDING, "no scores yet"
    gains = scores[["dice", "iou"]] - scores.loc["3D U-Net", ["dice", "iou"]]
    dice, iou = gains.loc["MAG-UNet"] - gains.loc[MODULES].sum()
    verdict = Verdict.HOLDS if min(dice, iou) > 0 else Verdict.FAILS
    return verdict, f"beyond the sum: dice {dice:+.1f}, iou {iou:+.1f}"


JUDGES = {
    "best": lambda scores: beats(scores, ["MAG-UNet"], [row.network for row in TABLE_1[:-1]], RANKED),
    "eca": lambda scores: beats(scores, ["3D U-Net"], ["+ECA"], RANKED),
    "da": lambda scores: beats(scores, ["+DA"], [row.network for row in TABLE_2[:-1]], RANKED),
    "kernel_iou": lambda scores: beats(scores, ["[1,3,5]"], [row.network for row in TABLE_3
                                                             if row.network != "[1,3,5]"], ["iou"]),
    "modules": lambda scores: beats(scores, MODULES, ["3D U-Net"], ["dice", "iou"]),
    "synergy": synergy,
}
"""Key of a claim about trained networks -> its judge, scores -> verdict and the reason in a line."""
