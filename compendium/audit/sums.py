"""Whether a column of parameter counts can be a sum of parts, by linear programmes over the printed digits.

A table is a design (rows x parts: how often each part is in the row) and the printed numbers. Parts cost 0 or
more; a printed number may be off by half of its last digit, both ends included.
"""

from itertools import combinations

import pandas as pd
from scipy.optimize import linprog

from compendium.audit.parameters import kernels_of
from compendium.paper import TABLE_3, TABLE_4

HALF = 0.005
"""Of the last printed digit: what rounding may have taken or given."""


def table_4() -> tuple[pd.DataFrame, pd.Series]:
    """Backbone, DA, MFF and LGAG: design and printed numbers of Table 4."""
    design = {row.name: {"backbone": 1} | {part: int(part in row.name or row.name == "all")
                                           for part in ("DA", "MFF", "LGAG")} for row in TABLE_4}
    return pd.DataFrame(design).T, pd.Series({row.name: row.params_mi for row in TABLE_4})


def table_3(any_price_for_branches: bool = False) -> tuple[pd.DataFrame, pd.Series]:
    """Branches of equal width, a larger kernel costing no less: design and printed numbers of Table 3.

    Parts: a backbone, every branch, and what kernels from 3, 5 and 7 on cost more. any_price_for_branches:
    one, two and three branches may cost anything, whatever is done to join them.
    """
    design = {}
    for row in TABLE_3:
        kernels = kernels_of(row.name)
        branches = {f"{n} branches": int(len(kernels) == n) for n in (1, 2, 3)}
        larger = {f"from {k}": sum(side >= k for side in kernels) for k in (3, 5, 7)}
        parts = branches if any_price_for_branches else {"backbone": 1, "branch": len(kernels)}
        design[row.name] = parts | larger
    return pd.DataFrame(design).T, pd.Series({row.name: row.params_mi for row in TABLE_3})


def needed_rounding(design: pd.DataFrame, values: pd.Series) -> tuple[float, pd.Series, pd.Series]:
    """How far off the numbers must be for a sum of parts to exist, such costs, and the certificate.

    Returns the smallest half-width h with costs c >= 0 and |design c - values| <= h; c; and multipliers y of
    the rows with sum |y| = 1: y . design <= 0 in every part while y . values = h, so no costs can do better.
    """
    rows, parts = design.to_numpy(float), list(design.columns)
    upper = [[*row, -1] for row in rows] + [[*(-row), -1] for row in rows]
    best = linprog([0] * len(parts) + [1], A_ub=upper, b_ub=[*values, *(-values)], bounds=(0, None))
    above, below = best.ineqlin.marginals[:len(rows)], best.ineqlin.marginals[len(rows):]
    return float(best.x[-1]), pd.Series(best.x[:-1], parts), pd.Series(above - below, values.index)


def largest_sums(design: pd.DataFrame, values: pd.Series) -> list[tuple[str, ...]]:
    """The largest sets of rows that can be a sum of parts together."""
    clashes = conflicts(design, values)
    sums = [rows for size in range(len(values) + 1) for rows in combinations(values.index, size)
            if not any(set(clash) <= set(rows) for clash in clashes)]
    return [rows for rows in sums if len(rows) == len(sums[-1])]


def conflicts(design: pd.DataFrame, values: pd.Series) -> dict[tuple[str, ...], float]:
    """Smallest sets of rows that cannot be a sum of parts, each with the half-width that it would take."""
    clashes: dict[tuple[str, ...], float] = {}
    for size in range(1, len(values) + 1):
        for rows in combinations(values.index, size):
            if not any(set(clash) <= set(rows) for clash in clashes):
                needed = needed_rounding(design.loc[list(rows)], values[list(rows)])[0]
                if needed > HALF + 1e-9:                   # of the linear programme
                    clashes[rows] = needed
    return clashes
