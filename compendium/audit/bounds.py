"""Which scores can stand in one row, and whether the text repeats what the tables say. Scores in percent.

For a single case Dice D, IoU I, precision P and recall R satisfy

    I = D / (2 - D),    D = 2 P R / (P + R) = H(P, R).

I is a convex function of D, and H is a concave function of (P, R). So, by Jensen's inequality, for means over
any cases with any weights, the same for all four scores:

    D / (2 - D) <= I <= D,    max(0, P + R - 1) <= D <= H(P, R).

The lower bound of I and the upper bound of D are reached where all cases are alike, and by scores of pooled
voxel counts; the other two where each case is either perfect or worthless. I - D / (2 - D) is
(2 / (2 - D)^2) mean of (d - D)^2 / (2 - d) over the cases' Dice d, so that the gap bounds their spread, too.

The bounds need masks, not probabilities, and the same cases in all four means. A constant on both sides of
Dice and IoU for empty masks only widens the gap. A case left out of mean precision because nothing was
predicted, or empty slices that count as 1 for Dice and 0 for precision, can break the second line.
"""

import math

import pandas as pd
from scipy.optimize import brentq

from compendium.audit import read_table
from compendium.paper import TABLE_1, TABLES, Row

HALF = 0.05
"""Of the last printed digit of a score, in percent."""


def least_iou(dice: float) -> float:
    """The lowest mean IoU that a mean Dice allows, and the IoU of a single case or of pooled counts."""
    return 100 * dice / (200 - dice)


def most_dice(precision: float, recall: float) -> float:
    """The highest mean Dice that mean precision and recall allow, and the Dice of a single case."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def least_recall(dice: float, precision: float) -> float:
    """The lowest mean recall that mean Dice and precision allow; above 100 where there is none."""
    if dice == 0:
        return 0.0
    return dice * precision / (2 * precision - dice) if 2 * precision > dice else math.inf


def dice_spread(dice: float, iou: float, half: float = HALF) -> tuple[float, float]:
    """Smallest and largest standard deviation of Dice over cases with means off by up to ``half``, in points.

    From the gap formula with 1 <= 2 - d <= 2. The largest is NaN where no cases have these means.
    """
    low, high = dice - half, dice + half
    least, most = (iou - half - least_iou(high)) / 100, (iou + half - least_iou(low)) / 100
    largest = (200 - low) * math.sqrt(most) if most >= 0 else math.nan
    return (200 - high) * math.sqrt(max(0, least) / 2), largest


def needed_rounding(dice: float, iou: float | None = None, precision: float | None = None,
                    recall: float | None = None) -> float:
    """How far off each printed mean must be, in points, for any cases at all to have such means."""
    rules = []                                          # each falls with the half-width h and must reach 0
    if iou is not None:
        rules += [lambda h: least_iou(dice - h) - (iou + h), lambda h: (iou - h) - (dice + h)]
    if precision is not None and recall is not None:
        rules += [lambda h: (dice - h) - most_dice(precision + h, recall + h),
                  lambda h: (precision + recall - 2 * h - 100) - (dice + h)]
    return max((brentq(rule, 0, dice) for rule in rules if rule(0) > 0), default=0.0)


def could_be_pooled(dice: float, iou: float, precision: float | None, recall: float | None) -> bool:
    """Whether one set of voxel counts, summed over all cases, has these scores to the printed digit."""
    lows, highs = ([dice + half, 200 * (iou + half) / (100 + iou + half)] for half in (-HALF, HALF))
    if precision is not None and recall is not None:
        lows.append(most_dice(precision - HALF, recall - HALF))
        highs.append(most_dice(precision + HALF, recall + HALF))
    return max(lows) <= min(highs)


def score_audit() -> pd.DataFrame:
    """One line for every row of Tables 1, 2 and 4: printed means, what they allow, and whether they can be.

    Tables 2 and 4 have no recall; where Table 1 has the same network, its recall is taken.
    """
    recalls = {row.network: row.recall for row in TABLE_1}
    rows = [row for table in TABLES for row in table if row.dice]
    return pd.DataFrame([_bounds_of(row, recalls.get(row.network)) for row in rows])


def _bounds_of(row: Row, recall: float | None) -> dict:
    needed = needed_rounding(row.dice, row.iou, row.precision, recall)
    low, high = dice_spread(row.dice, row.iou)
    return {"table": row.table, "row": row.name, "dice": row.dice, "iou": row.iou,
            "least iou": least_iou(row.dice), "precision": row.precision, "recall": recall,
            "most dice": most_dice(row.precision, recall) if recall else math.nan,
            "least recall": least_recall(row.dice - HALF, row.precision + HALF),
            "needed": needed, "possible": needed <= HALF,
            "pooled": could_be_pooled(row.dice, row.iou, row.precision, recall),
            "least SD": low, "most SD": high}


def values(network: str, measure: str) -> dict[int, float]:
    """Table -> what it prints for a network; "[1,3,5]" of Table 3 and "+MFF" of Table 4 are one."""
    names = {"[1,3,5]", "+MFF"} if network in ("[1,3,5]", "+MFF") else {network}
    numbers = {row.table: getattr(row, measure) for table in TABLES for row in table if row.network in names}
    return {table: number for table, number in numbers.items() if number is not None}


def quote_audit() -> pd.DataFrame:
    """Every number that the text quotes, beside the tables; "agrees" with all, some or none of them."""
    lines = []
    for quote in read_table("quotes").itertuples():
        tables = values(quote.network, quote.measure)
        if quote.over:
            base = values(quote.over, quote.measure)
            tables = {t: round(value - base[t], 2) for t, value in tables.items() if t in base}
        hits = sum(value == quote.value for value in tables.values())
        over = f" over {quote.over}" if quote.over else ""
        lines.append({"place": quote.place, "number": f"{quote.measure} of {quote.network}{over}",
                      "text": quote.value,
                      "tables": ", ".join(f"{value:g} (Table {t})" for t, value in tables.items()),
                      "agrees": "all" if hits == len(tables) else "some" if hits else "none"})
    return pd.DataFrame(lines)
