"""What the modules of MAG-UNet add, and the cases that a network finds hardest.

Functions take scores by case, of `compendium.scores.read_scores`, of any networks and seeds. They raise
InputError when there are none, or when two networks were scored on different patients.
"""

import pandas as pd

from compendium.formats import Report
from compendium.grid import REFERENCE
from compendium.statistics import DIGITS, bootstrap_interval, by_patient, holm, signed_rank
from magunet.base.errors import InputError

STEPS = {
    "DA": (("+DA", "3D U-Net"), ("+DA+MFF", "+MFF"), ("+DA+LGAG", "+LGAG"), (REFERENCE, "+MFF+LGAG")),
    "MFF": (("+MFF", "3D U-Net"), ("+DA+MFF", "+DA"), ("+MFF+LGAG", "+LGAG"), (REFERENCE, "+DA+LGAG")),
    "LGAG": (("+LGAG", "3D U-Net"), ("+DA+LGAG", "+DA"), ("+MFF+LGAG", "+MFF"), (REFERENCE, "+DA+MFF")),
}
"""Module -> its four pairs of networks with and without it, of Table 4 and the row that it leaves out."""
MAIN = "mean of its four surroundings"
"""A module's main effect: added beside none, either and both of the other two, averaged."""
COMPARISONS = {MAIN: slice(None), "added to the 3D U-Net": slice(1), "last step to MAG-UNet": slice(-1, None)}
"""Comparison -> which of the four pairs it takes: all, the one beside neither of the others, beside both."""
NUMBERS = ("points", "low", "high", "p", "p_holm", "sd_seeds", "patients", "seeds")
"""Columns of the effects that hold numbers."""
NOTE = ("Points: mean over patients, with its 95 % bootstrap interval from low to high; p: exact signed-rank "
        f"test of the {MAIN} against 0, adjusted after Holm over the modules. How far trainings of one "
        "network lie apart is in no interval; sd_seeds says that where there are several.")
"""What a reader of the report must know."""


def module_effects(scores: pd.DataFrame) -> pd.DataFrame:
    """What each module adds to the Dice, in points: one row a module and comparison.

    ``points`` is with the module minus without it: for each patient the mean over seeds and pairs, then over
    patients; ``low`` and ``high`` are its 95 % bootstrap interval over patients. ``sd_seeds`` is the SD of
    ``points`` over the ``seeds`` that all networks of the comparison have. ``p`` is of an exact signed-rank
    test of MAIN against 0, ``p_holm`` adjusted over the modules. ``missing`` names networks without scores.
    """
    dice, rows = _dice(scores), []
    of_patient, of_seed = dice.T.groupby(level=0).mean().T, dice.mean().unstack()
    for module, steps in STEPS.items():
        for comparison, chosen in COMPARISONS.items():
            having, lacking = map(list, zip(*steps[chosen]))
            missing = [name for name in dict.fromkeys(lacking + having) if name not in of_patient]
            row = {"module": module, "comparison": comparison, "missing": ", ".join(missing)}
            if not missing:
                change = (of_patient[having].to_numpy() - of_patient[lacking].to_numpy()).mean(axis=1)
                change = pd.Series((100 * change).round(DIGITS), of_patient.index)
                changes = of_seed.loc[having].to_numpy() - of_seed.loc[lacking].to_numpy()
                seeds = pd.Series(100 * changes.mean(axis=0))
                p = signed_rank(change, 0 * change).p if comparison == MAIN else None
                row |= dict(zip(NUMBERS, (change.mean(), *bootstrap_interval(change), p, None, seeds.std(),
                                          len(change), seeds.count())))
            rows.append(row)
    table = pd.DataFrame(rows, columns=("module", "comparison", *NUMBERS, "missing"))
    table = table.astype(dict.fromkeys(NUMBERS, float))
    tested = table["p"].notna()
    table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"].tolist())
    return table


def _dice(scores: pd.DataFrame) -> pd.DataFrame:
    """Dice, a row a patient and a column a network and seed."""
    if scores.empty:
        raise InputError("there are no scores yet; train networks and score them")
    table = pd.concat({name: by_patient(mine, "dice") for name, mine in scores.groupby("network")}, axis=1)
    if (gaps := table.isna().unstack()).any():
        network, seed, patient = gaps.idxmax()
        raise InputError(f"{network}, seed {seed}, has no score of {patient}, which others have; "
                         "score all on one cohort")
    return table


def worst_cases(scores: pd.DataFrame, network: str, count: int = 3) -> list[str]:
    """Names of the cases with a network's lowest Dice, mean over seeds: the lowest first, equal ones by name.

    Raises InputError when the network has no scores.
    """
    mine = scores[scores["network"] == network]
    if mine.empty:
        raise InputError(f"{network} has no scores, and so no worst case; train and score it")
    dice = mine.groupby("case")["dice"].mean().round(DIGITS)
    return dice.sort_values(kind="stable").index[:count].tolist()


def effects_report(scores: pd.DataFrame) -> Report:
    """Module effects and, where MAG-UNet has scores, the cases with its lowest Dice."""
    effects, mine = module_effects(scores), scores["network"] == REFERENCE
    tables = {"Dice with the module minus without it, points": effects.set_index("module").rename_axis(None)}
    columns = [name for name in ("dice", "hd95", "missed", "grade_left", "grade_right") if name in scores]
    worst = scores[mine].groupby("case")[columns].mean()
    others = scores[~mine].groupby(["network", "case"])["dice"].mean().groupby("case").median()
    worst = worst.assign(dice=100 * worst["dice"], others=100 * others.reindex(worst.index))
    if len(worst):
        worst = worst.loc[worst_cases(scores, REFERENCE)].rename_axis(None)
        tables[f"Lowest Dice of {REFERENCE} and the others' median, %; HD95 in mm"] = worst
    numbers = pd.concat([effects, worst.rename_axis("case").reset_index()])
    cells = {title: table.map(_shown) for title, table in tables.items()}
    return Report("Effects of the modules, and worst cases", cells, numbers, [NOTE])


def _shown(value: object) -> str:
    return value if isinstance(value, str) else "-" if pd.isna(value) else f"{value:.3g}"
