"""What the modules of MAG-UNet add, and the cases that a network finds hardest, from scores by case."""

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from math import prod

import numpy as np
import pandas as pd

from compendium.formats import WORDS, Report
from compendium.grid import REFERENCE
from compendium.statistics import DIGITS, LEAST_SEEDS, LEVEL, Estimate, crossed, holm, pooled
from magunet.base.errors import require
from magunet.studies import checked

BASE = "3D U-Net"
"""The network without any of the modules."""
MODULES = ("DA", "MFF", "LGAG")
"""Of MAG-UNet, in the order of the networks' names."""
NETWORKS = {subset: "+" + "+".join(subset) if subset else BASE
            for size in range(3) for subset in combinations(MODULES, size)} | {MODULES: REFERENCE}
"""Modules -> the network that has just these: Table 4 and the row that it leaves out."""
MAIN = "main effect"
"""A module added beside none, either and both of the others, averaged."""
PAIRS = (("+DA", "+DA placebo"), ("+DA placebo", BASE), (REFERENCE, "Wide 3D U-Net"), ("Wide 3D U-Net", BASE),
         (REFERENCE, BASE))
"""Networks that are compared as they are: a placebo has DA's last convolution only, "Wide" is as large."""
MARGIN = 1.0
"""Points of Dice below which an effect is taken for none, set before the study was run."""


def factorial(*modules: str) -> dict[str, float]:
    """Network -> its weight in a contrast of the 2 x 2 x 2 factorial (Yates 1937).

    Of one module: its main effect, the mean of its four differences with and without it. Of two: half of what
    the one adds beside the other minus what it adds without. Of three: half of such an interaction with the
    third minus that without.
    """
    return {name: prod(1 if module in subset else -1 for module in modules) / 4
            for subset, name in NETWORKS.items()}


def contrast(table: pd.DataFrame, weights: Mapping[str, float]) -> Estimate:
    """A weighted sum of networks, pooled over patients and the seeds that all of them have.

    table: of `compendium.statistics.crossed`. No more degrees of freedom than the seeds have, since patients
    may respond to a network and not to another, which the model leaves out. NaN where no seed is common.
    """
    seeds = set.intersection(*({seed for name, seed in table if name == network} for network in weights))
    cells = table[[*product(weights, sorted(seeds))]].to_numpy()
    cells = cells.reshape(len(table), len(weights), len(seeds))
    most = len(seeds) - 1 if len(seeds) > 1 else np.inf
    return pooled(np.tensordot(cells, list(weights.values()), (1, 0)), most)


def verdict(effect: pd.Series) -> str:
    """What an effect allows to say, by its p after Holm, its interval, MARGIN and LEAST_SEEDS.

    Of simulated studies without any effect at most 5 % call one of the three modules by mistake.
    """
    if effect["seeds"] < LEAST_SEEDS:
        return f"no verdict: {effect['seeds']:.0f} seed{'s'[:effect['seeds'] != 1]}"
    small = -MARGIN < effect["low"] and effect["high"] < MARGIN
    if effect["p_holm"] < 1 - LEVEL:
        return ("helps" if effect["mean"] > 0 else "hurts") + f", by less than {MARGIN:g} point" * small
    return "equivalent" if small else "cannot be told"


def module_effects(scores: pd.DataFrame) -> pd.DataFrame:
    """What the modules change in the Dice, in points, paired by seed and patient: one row a comparison.

    The main effects are a family of three tests, corrected after Holm, and have a ``verdict``. All else
    describes: interactions (`factorial`), a module beside none and as the last step, PAIRS. ``missing`` names
    networks without scores. Raises InputError where there are no scores, or as `crossed`.
    """
    comparisons = []
    for size, comparison in enumerate((MAIN, "interaction", "interaction"), 1):
        comparisons += [(" x ".join(subset), comparison, factorial(*subset))
                        for subset in combinations(MODULES, size)]
    for module in MODULES:
        others = tuple(other for other in MODULES if other != module)
        comparisons += [(module, "beside none", {NETWORKS[module,]: 1, BASE: -1}),
                        (module, f"last step to {REFERENCE}", {REFERENCE: 1, NETWORKS[others]: -1})]
    comparisons += [(more, f"minus {less}", {more: 1, less: -1}) for more, less in PAIRS]
    effects = _described(scores, comparisons)
    effects["p"] = effects["p"].where((effects["comparison"] == MAIN) & (effects["seeds"] >= LEAST_SEEDS))
    main = effects.index[(effects["comparison"] == MAIN) & (effects["missing"] == "")]
    effects.loc[main, "p_holm"] = holm(effects.loc[main, "p"])
    effects.loc[main, "verdict"] = [verdict(row) for _, row in effects.loc[main].iterrows()]
    return effects


def differences(scores: pd.DataFrame, rows: Mapping[str, str], references: Sequence[str]) -> pd.DataFrame:
    """Dice of a table's rows minus that of reference rows, in points: columns as of `module_effects`.

    rows: name in the table -> network. Nothing is tested: no p, no verdict. Raises as `module_effects` does.
    """
    networks = {name: checked(network) for name, network in rows.items()}
    pairs = [(name, f"minus {reference}", {networks[name]: 1, networks[reference]: -1})
             for place, reference in enumerate(references) for name in rows
             if name not in references[:place + 1]]
    return _described(scores, pairs).assign(p=np.nan)


def _described(scores: pd.DataFrame,
               comparisons: Sequence[tuple[str, str, dict[str, float]]]) -> pd.DataFrame:
    """A row a comparison: module, comparison, its `contrast`, and which of its networks have no scores."""
    require(len(scores), "there are no scores yet; train networks and score them")
    table, rows = 100 * crossed(scores, "dice"), []
    for module, comparison, weights in comparisons:
        missing = ", ".join(network for network in weights if network not in table)
        row = {} if missing else contrast(table, weights)._asdict()
        rows.append({"module": module, "comparison": comparison, "missing": missing, "verdict": ""} | row)
    numbers = [*Estimate._fields, "p_holm"]
    effects = pd.DataFrame(rows, columns=["module", "comparison", *numbers, "verdict", "missing"])
    return effects.astype(dict.fromkeys(numbers, float))


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
    note = WORDS["notes"]["modules"].format(level=100 * LEVEL, seeds=LEAST_SEEDS, margin=MARGIN)
    return Report("Effects of the modules, and worst cases", cells, numbers, [note])
