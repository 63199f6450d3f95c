"""What the modules of MAG-UNet add, and the cases that a network finds hardest, from scores by case."""

import pandas as pd

from compendium.formats import Report
from compendium.grid import REFERENCE
from compendium.statistics import DIGITS, bootstrap_interval, holm, signed_rank
from magunet.base.errors import InputError, require

STEPS = {"DA": (("+DA", "3D U-Net"), ("+DA+MFF", "+MFF"), ("+DA+LGAG", "+LGAG"), (REFERENCE, "+MFF+LGAG")),
         "MFF": (("+MFF", "3D U-Net"), ("+DA+MFF", "+DA"), ("+MFF+LGAG", "+LGAG"), (REFERENCE, "+DA+LGAG")),
         "LGAG": (("+LGAG", "3D U-Net"), ("+DA+LGAG", "+DA"), ("+MFF+LGAG", "+MFF"), (REFERENCE, "+DA+MFF"))}
"""Module -> its four pairs of networks with and without it, of Table 4 and the row that it leaves out."""
MAIN = "mean of its four surroundings"
"""A module's main effect: added beside none, either and both of the other two, averaged."""
COMPARISONS = {MAIN: slice(None), "added to the 3D U-Net": slice(1), "last step to MAG-UNet": slice(-1, None)}
"""Comparison -> which of the four pairs it takes: all, the one beside neither of the others, beside both."""
NUMBERS = ["points", "low", "high", "p", "p_holm", "sd_seeds", "patients", "seeds"]
"""Columns of the effects that hold numbers."""


def module_effects(scores: pd.DataFrame) -> pd.DataFrame:
    """What each module adds to the Dice, in points: one row a module and comparison.

    Seeds and pairs are averaged before patients; ``sd_seeds`` is over the ``seeds`` of all networks compared.
    ``missing`` names networks without scores. Raises InputError without any, or where patients differ.
    """
    require(len(scores), "there are no scores yet; train networks and score them")
    dice, rows = 100 * scores.pivot_table(index="patient", columns=["network", "seed"], values="dice"), []
    if (gaps := dice.isna().unstack()).any():
        network, seed, patient = gaps.idxmax()
        raise InputError(f"{network}, seed {seed}, has no score of {patient}; score all on one cohort")
    of_patient, of_seed = dice.T.groupby(level=0).mean().T, dice.mean().unstack("network")
    for module, steps in STEPS.items():
        for comparison, chosen in COMPARISONS.items():
            having, lacking = map(list, zip(*steps[chosen]))
            missing = [name for name in dict.fromkeys(lacking + having) if name not in of_patient]
            row = {"module": module, "comparison": comparison, "missing": ", ".join(missing)}
            if not missing:
                change = (of_patient[having].to_numpy() - of_patient[lacking]).mean(axis=1).round(DIGITS)
                seeds = (of_seed[having].to_numpy() - of_seed[lacking]).mean(axis=1, skipna=False)
                p = signed_rank(change, 0 * change).p if comparison == MAIN else None
                row |= dict(zip(NUMBERS, (change.mean(), *bootstrap_interval(change), p, None, seeds.std(),
                                          len(change), seeds.count())))
            rows.append(row)
    table = pd.DataFrame(rows, columns=["module", "comparison", *NUMBERS, "missing"])
    tests = table["p"].dropna()
    table.loc[tests.index, "p_holm"] = holm(tests.tolist())
    return table.astype(dict.fromkeys(NUMBERS, float))


def worst_cases(scores: pd.DataFrame, network: str, count: int = 3) -> list[str]:
    """Cases with a network's lowest Dice over seeds, the lowest first; InputError when it has no scores."""
    dice = scores[scores["network"] == network].groupby("case")["dice"].mean().round(DIGITS)
    require(len(dice), f"{network} has no scores, and so no worst case; train and score it")
    return dice.nsmallest(count).index.tolist()


def effects_report(scores: pd.DataFrame) -> Report:
    """Module effects and, where MAG-UNet has scores, the cases with its lowest Dice."""
    effects, mine = module_effects(scores), scores["network"] == REFERENCE
    tables = {"Dice with the module minus without it, points": effects.set_index("module").rename_axis(None)}
    columns = [name for name in ("dice", "hd95", "missed", "grade_left", "grade_right") if name in scores]
    percent = scores.assign(dice=100 * scores["dice"])
    others = percent[~mine].groupby(["network", "case"])["dice"].mean().groupby("case").median()
    worst = percent[mine].groupby("case")[columns].mean().join(others.rename("others"))
    if len(worst):
        worst = worst.loc[worst_cases(scores, REFERENCE)]
        tables[f"Lowest Dice of {REFERENCE} and the others' median, %; HD95 in mm"] = worst.rename_axis(None)
    cells = {title: table.map(lambda cell: cell if isinstance(cell, str)
                              else f"{cell:.3g}".replace("nan", "-")) for title, table in tables.items()}
    numbers = pd.concat([effects, worst.reset_index()])
    note = ("Points: mean over patients, with its 95 % bootstrap interval from low to high; p: exact "
            f"signed-rank test of the {MAIN} against 0, adjusted after Holm over the modules. How far "
            "trainings of one network lie apart is in no interval; sd_seeds says that where "
            "there are several.")
    return Report("Effects of the modules, and worst cases", cells, numbers, [note])
