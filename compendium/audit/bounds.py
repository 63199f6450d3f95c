"""Which scores can stand in one row, and whether the text repeats what the tables say. Scores in percent.

For means of Dice D, IoU I, precision P and recall R over the same cases, whatever their weights,

    D / (2 - D) <= I <= D,    max(0, P + R - 1) <= D <= 2 P R / (P + R),

by Jensen's inequality, as notebook 11 shows. One case, alike ones and pooled voxel counts reach the lowest I
and the highest D. I - D / (2 - D) is (2 / (2 - D)^2) mean of (d - D)^2 / (2 - d) over the cases' Dice d, so
that the gap bounds their spread, too.

The bounds need masks, not probabilities. A constant on both sides of Dice and IoU for empty masks only widens
the gap. A case left out of mean precision because nothing was predicted, or empty slices that count as 1 for
Dice and 0 for precision, can break the second line.
"""

import math
from itertools import product

import pandas as pd
from scipy.optimize import brentq

from compendium.audit import paper_rows, read_table
from magunet.studies import checked

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
    return dice * precision / (2 * precision - dice) if 2 * precision > dice else math.inf if dice else 0.0


def dice_spread(dice: float, iou: float, half: float = HALF) -> tuple[float, float]:
    """Smallest and largest standard deviation of Dice over cases with means off by up to ``half``, in points.

    From the gap formula with 1 <= 2 - d <= 2. The largest is NaN where no cases have these means.
    """
    low, high = dice - half, dice + half
    least, most = (iou - half - least_iou(high)) / 100, (iou + half - least_iou(low)) / 100
    largest = (200 - low) * math.sqrt(most) if most >= 0 else math.nan
    return (200 - high) * math.sqrt(max(0, least) / 2), largest


def needed_rounding(dice: float, iou: float = math.nan, precision: float = math.nan,
                    recall: float = math.nan) -> float:
    """How far off each printed mean must be, in points, for any cases at all to have such means."""
    rules = (lambda h: least_iou(dice - h) - (iou + h), lambda h: (iou - h) - (dice + h),
             lambda h: (dice - h) - most_dice(precision + h, recall + h),
             lambda h: (precision + recall - 2 * h - 100) - (dice + h))
    # Each falls with the half-width h and must reach 0. A mean that is NaN breaks none.
    return max((brentq(rule, 0, 100) for rule in rules if rule(0) > 0), default=0.0)


def could_be_pooled(dice: float, iou: float, precision: float = math.nan, recall: float = math.nan) -> bool:
    """Whether one set of voxel counts, summed over all cases, has these scores to the printed digit."""
    lows, highs = ((dice + half, 200 * (iou + half) / (100 + iou + half),
                    most_dice(precision + half, recall + half)) for half in (-HALF, HALF))
    return not any(low > high for low, high in product(lows, highs))


def score_audit() -> pd.DataFrame:
    """One line for every row of Tables 1, 2 and 4: printed means, what they allow, and whether they can be.

    Tables 2 and 4 have no recall; where Table 1 has the same network, its recall is taken.
    """
    rows, lines = paper_rows().dropna(subset="dice"), []
    recalls = rows.dropna(subset="recall").set_index("network")["recall"]
    for row in rows.itertuples():
        means = row.dice, row.iou, row.precision, recalls.get(row.network, math.nan)
        needed = needed_rounding(*means)
        low, high = dice_spread(row.dice, row.iou)
        lines.append({"table": row.table, "row": row.name, "dice": row.dice, "iou": row.iou,
                      "least iou": least_iou(row.dice), "precision": row.precision, "recall": means[-1],
                      "most dice": most_dice(*means[2:]),
                      "least recall": least_recall(row.dice - HALF, row.precision + HALF),
                      "needed": needed, "possible": needed <= HALF, "pooled": could_be_pooled(*means),
                      "least SD": low, "most SD": high})
    return pd.DataFrame(lines)


def values(network: str, measure: str) -> dict[int, float]:
    """Table -> what it prints for a network; "[1,3,5]" of Table 3 and "+MFF" of Table 4 are one."""
    rows = paper_rows().set_index("table")
    return rows[rows["network"] == checked(network)][measure].dropna().to_dict()


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
