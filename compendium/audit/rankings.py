"""Claims that compare trained networks: "each of these beats each of those".

``scores`` is a table of means with the columns network, dice, iou, precision and recall, in percent; None
where nothing has been trained. Networks have the names of the paper's tables or of ``magunet.studies``.
"""

from collections.abc import Sequence
from enum import StrEnum

import pandas as pd

from compendium.paper import TABLE_1, TABLE_2, TABLE_3, TABLES, Row
from compendium.scores import OVERLAPS
from magunet.studies import ALIASES

LEAST_CASES = 5
"""With fewer validation cases a mean ranks nothing."""
MODULES = ("+DA", "+MFF", "+LGAG")
"""The rows of Table 4 with a single module."""
RANKED = ("dice", "iou", "precision")
"""What the text ranks networks by."""


class Verdict(StrEnum):
    """What became of a claim. A PENDING claim is about trained networks of which some have no scores yet."""

    HOLDS = "holds here"
    FAILS = "does not hold here"
    CONTRADICTS = "contradicts the paper's own numbers"
    UNTESTABLE = "cannot be tested without the hospital's data"
    PENDING = "needs the study runs"


Names = Sequence[str]
Scores = pd.DataFrame | None
Finding = tuple[Verdict, str]


def paper_scores() -> pd.DataFrame:
    """The paper's own tables in the form of ``scores``; where two disagree, the first that has the number."""
    rows = [{"network": ALIASES.get(row.network, row.network), **{m: getattr(row, m) for m in OVERLAPS}}
            for table in TABLES for row in table]
    return pd.DataFrame(rows).groupby("network", sort=False).first().reset_index()


def means(scores: pd.DataFrame) -> Scores:
    """Means over cases and seeds of scores by case; None where the cases are few."""
    if scores["case"].nunique() < LEAST_CASES:
        return None
    return (100 * scores.groupby("network", sort=False)[list(OVERLAPS)].mean()).reset_index()


def by_network(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores with one index for each network, whichever of its names they have."""
    return scores.assign(network=scores["network"].replace(ALIASES)).set_index("network")


def leads(scores: pd.DataFrame, better: Names, worse: Names, measures: Names) -> pd.Series:
    """Every lead that a claim needs, in points, named like "dice of +DA over +SE"."""
    table = by_network(scores)
    pairs = [(ALIASES.get(b, b), ALIASES.get(w, w)) for b in better for w in worse]
    return pd.Series({f"{measure} of {b} over {w}": table.loc[b, measure] - table.loc[w, measure]
                      for b, w in pairs for measure in measures})


def unscored(scores: Scores, networks: Names, measures: Names) -> list[str]:
    """Networks that have no mean of one of the measures."""
    known = () if scores is None else by_network(scores).dropna(subset=list(measures)).index
    return [name for name in networks if ALIASES.get(name, name) not in known]


def beats(scores: Scores, better: Names, worse: Names, measures: Names) -> Finding:
    """HOLDS where all leads are above 0, else FAILS; PENDING while a network has no scores."""
    own = leads(paper_scores(), better, worse, measures)
    text = f"in the paper's tables {(own > 0).sum()} of {len(own)} comparisons say so"
    if missing := unscored(scores, (*better, *worse), measures):
        more = f" and {len(missing) - 2} more" if missing[2:] else ""
        return Verdict.PENDING, f"{text}; no scores of {', '.join(missing[:2])}{more}"
    ours = leads(scores, better, worse, measures)
    verdict = Verdict.HOLDS if ours.min() > 0 else Verdict.FAILS
    return verdict, f"least lead {ours.min():+.1f}: {ours.idxmin()}; {text}"


def beats_all(scores: Scores, name: str, table: Sequence[Row], measures: Names) -> Finding:
    """Whether a network beats every other one of a table."""
    return beats(scores, (name,), [row.network for row in table if row.network != name], measures)


def beyond_the_sum(scores: Scores, measure: str, parts: Names = MODULES, whole: str = "MAG-UNet") -> float:
    """By how many points the gain of the whole over the 3D U-Net exceeds the gains of its parts together."""
    *gains, gain = leads(scores, (*parts, whole), ("3D U-Net",), (measure,))
    return gain - sum(gains)


def synergy(scores: Scores) -> Finding:
    """Whether the three modules together gain more than one by one, in Dice and IoU."""
    own = paper_scores()
    pairs = [beyond_the_sum(own, "iou", ("+DA", other), f"+DA{other}") for other in ("+MFF", "+LGAG")]
    text = (f"in Table 4 all three gain {beyond_the_sum(own, 'iou'):+.1f} IoU beyond their sum, "
            f"the two pairs {pairs[0]:+.1f} and {pairs[1]:+.1f}")
    if unscored(scores, (*MODULES, "MAG-UNet", "3D U-Net"), ("dice", "iou")):
        return Verdict.PENDING, f"{text}; no scores yet"
    dice, iou = (beyond_the_sum(scores, measure) for measure in ("dice", "iou"))
    verdict = Verdict.HOLDS if min(dice, iou) > 0 else Verdict.FAILS
    return verdict, f"beyond the sum: dice {dice:+.1f}, iou {iou:+.1f}; {text}"


JUDGES = {
    "best": lambda scores: beats_all(scores, "MAG-UNet", TABLE_1, RANKED),
    "eca": lambda scores: beats(scores, ("3D U-Net",), ("+ECA",), RANKED),
    "da": lambda scores: beats_all(scores, "+DA", TABLE_2, RANKED),
    "kernel_iou": lambda scores: beats_all(scores, "[1,3,5]", TABLE_3, ("iou",)),
    "modules": lambda scores: beats(scores, MODULES, ("3D U-Net",), ("dice", "iou")),
    "synergy": synergy,
}
"""Key of a claim about trained networks -> its judge, scores -> verdict and the reason in a line."""
