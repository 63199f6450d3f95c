"""What the modules of MAG-UNet add, and the cases that a network finds hardest.

Functions take scores by case, as `compendium.scores.read_scores` has them, of any networks and seeds. They raise
InputError when there are none, or when two networks were scored on different patients.
"""

from itertools import combinations

import pandas as pd

from compendium.formats import Report
from compendium.grid import REFERENCE
from compendium.statistics import DIGITS, bootstrap_interval, by_patient, holm, signed_rank
from magunet.base.errors import InputError

MODULES = ("DA", "MFF", "LGAG")
"""What Table 4 adds to the 3D U-Net."""
NETWORK_OF = {frozenset(parts): "".join(f"+{part}" for part in parts)
              for n in range(4) for parts in combinations(MODULES, n)}
NETWORK_OF |= {frozenset(): "3D U-Net", frozenset(MODULES): REFERENCE}
"""Modules -> the network that has just these: Table 4 and the row that it leaves out."""
MAIN = "mean of its four surroundings"
"""A module's main effect: added beside none, either and both of the other two, averaged."""
FIRST = "added to the 3D U-Net"
"""A module beside none."""
LAST = f"last step to {REFERENCE}"
"""A module beside both others."""
NOTE = ("Points: mean over patients, with its 95 % bootstrap interval from low to high; p: exact "
        f"signed-rank test of the {MAIN} against 0, adjusted after Holm over the modules. How far trainings "
        "of one network lie apart is in no interval; sd_seeds says that where there are several.")
"""What a reader of the report must know."""


def module_effects(scores: pd.DataFrame) -> pd.DataFrame:
    """What each module adds to the Dice, in points: one row a module and comparison (MAIN, FIRST, LAST).

    ``points`` is with the module minus without it: for each patient the mean over seeds and surroundings, then
    over patients; ``low`` and ``high`` are its 95 % bootstrap interval over patients. ``sd_seeds`` is the SD
    of ``points`` over the ``seeds`` that all networks of the comparison have, NaN for fewer than two. ``p`` is
    of an exact signed-rank test of MAIN against 0, ``p_holm`` adjusted over the modules. ``missing`` names
    networks without scores; then the numbers are NaN.
    """
    dice, rows = _dice(scores), []
    of_patient, of_seed = dice.T.groupby(level=0).mean().T, dice.mean().unstack()
    for module in MODULES:
        steps = [(NETWORK_OF[others | {module}], name)
                 for others, name in NETWORK_OF.items() if module not in others]
        for comparison, pairs in ((MAIN, steps), (FIRST, steps[:1]), (LAST, steps[-1:])):
            having, lacking = map(list, zip(*pairs))
            missing = [name for name in NETWORK_OF.values()
                       if name in having + lacking and name not in of_patient]
            row = {"module": module, "comparison": comparison, "missing": ", ".join(missing)}
            if not missing:
                change = 100 * (of_patient[having].to_numpy() - of_patient[lacking].to_numpy()).mean(axis=1)
                change = pd.Series(change.round(DIGITS), of_patient.index)
                changes = of_seed.loc[having].to_numpy() - of_seed.loc[lacking].to_numpy()
                seeds = pd.Series(100 * changes.mean(axis=0))
                low, high = bootstrap_interval(change)
                row |= {"points": change.mean(), "low": low, "high": high, "sd_seeds": seeds.std(),
                        "seeds": seeds.count(), "patients": len(change)}
                row |= {"p": signed_rank(change, 0 * change).p} if comparison == MAIN else {}
            rows.append(row)
    numbers = ("points", "low", "high", "p", "p_holm", "sd_seeds", "patients", "seeds")
    columns = ("module", "comparison", *numbers, "missing")
    table = pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(numbers, float))
    tested = table["p"].notna()
    table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"].tolist())
    return table


def _dice(scores: pd.DataFrame) -> pd.DataFrame:
    """Dice, a row a patient and a column a network and seed."""
    if scores.empty:
        raise InputError("there are no scores yet; train networks and score them")
    table = pd.concat({name: by_patient(mine, "dice") for name, mine in scores.groupby("network")}, axis=1)
    if (gaps := table.isna()).any(axis=None):
        patient = gaps.any(axis=1).idxmax()
        network, seed = gaps.loc[patient].idxmax()
        raise InputError(f"{network}, seed {seed}, has no score of {patient}, which others have; score all "
                         "on one cohort")
    return table


def worst_cases(scores: pd.DataFrame, network: str, count: int = 3) -> list[str]:
    """Names of the cases with a network's lowest Dice, mean over seeds: the lowest first, equal ones by name.

    Fewer where it has fewer cases. Raises InputError when the network has no scores.
    """
    mine = scores[scores["network"] == network]
    if mine.empty:
        raise InputError(f"{network} has no scores, and so no worst case; train and score it")
    dice = mine.groupby("case")["dice"].mean().round(DIGITS)
    return dice.sort_index().sort_values(kind="stable").index[:count].tolist()


def effects_report(scores: pd.DataFrame) -> Report:
    """Module effects and, where MAG-UNet has scores, the cases with its lowest Dice."""
    effects, mine = module_effects(scores), scores["network"] == REFERENCE
    tables = {"Dice with the module minus without it, points": effects.set_index("module").rename_axis(None)}
    grades = [name for name in ("grade_left", "grade_right") if name in scores]
    worst = scores[mine].groupby("case")[["dice", "hd95", "missed", *grades]].mean()
    others = scores[~mine].groupby(["network", "case"])["dice"].mean().groupby("case").median()
    worst["median dice of the others"] = others.reindex(worst.index)
    worst[["dice", "median dice of the others"]] *= 100
    if len(worst):
        worst = worst.loc[worst_cases(scores, REFERENCE)].rename_axis(None)
        tables[f"Cases with the lowest Dice of {REFERENCE}; dice in %, HD95 in mm"] = worst
    numbers = pd.concat([effects, worst.rename_axis("case").reset_index()])
    cells = {title: table.map(_shown) for title, table in tables.items()}
    return Report("Effects of the modules, and worst cases", cells, [NOTE], numbers)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else "-" if pd.isna(value) else f"{value:.3g}"
