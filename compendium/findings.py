"""What a profile's scores say, in sentences chosen by written rules, so that nobody reads into a table what is not in it.

Functions take scores by case as `compendium.scores.read_scores` returns them, of any networks and seeds: one row a
case, with the columns network, seed, case, patient, dice, iou, hd95, missed and, where known, grade_left and grade_right.
They raise InputError when there are none, or when two networks were scored on different patients.
"""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from compendium import paper
from compendium.audit.rankings import LEAST_CASES
from compendium.statistics import DIGITS, LEVEL, bootstrap_interval, by_patient, holm, signed_rank, smallest_p
from compendium.tables import MEASURES, REFERENCE, trained_as
from magunet.base.errors import InputError
from magunet.joints import SIDES

MODULES, BASE = ("DA", "MFF", "LGAG"), "3D U-Net"
FACTORIAL = {frozenset(parts): "".join(f"+{part}" for part in parts) for n in range(4) for parts in combinations(MODULES, n)}
FACTORIAL |= {frozenset(): BASE, frozenset(MODULES): REFERENCE}
"""Modules -> the network that has just these, from none to all: Table 4 and the row that it leaves out."""
MAIN, FIRST, LAST = "mean of its four surroundings", f"added to the {BASE}", f"last step to {REFERENCE}"
"""Where a module is added: beside none, either and both of the other two, averaged; beside none; beside both."""
HELPS, HURTS, OPEN = "{} helps here", "{} hurts here", "Whether {} helps or hurts cannot be told"
"""How a module's sentence begins. HELPS: the interval of its main effect lies above 0 and p after Holm is at most 5 %; HURTS:
the same below 0; OPEN: neither."""
TOLERANCE = 1e-9
"""Of p at its limit."""
TITLES = {measure.column: measure.title for measure in MEASURES}


def module_effects(scores: pd.DataFrame) -> pd.DataFrame:
    """What each module adds to the Dice, in points: one row a module and comparison (MAIN, FIRST, LAST).

    ``points`` is with the module minus without it: for each patient the mean over seeds and surroundings, then the mean
    over patients; ``low`` and ``high`` are its 95 % bootstrap interval over patients. ``sd_seeds`` is the SD of
    ``points`` over the ``seeds`` that all networks of the comparison have, NaN for fewer than two. ``p`` is that of an
    exact signed-rank test of MAIN against 0, ``p_holm`` adjusted over the modules. Where networks have no scores,
    ``missing`` names them, and the numbers are NaN.
    """
    means, by_seed = _means(scores, "dice")
    rows = []
    for module in MODULES:
        steps = [(FACTORIAL[others | {module}], name) for others, name in FACTORIAL.items() if module not in others]
        for comparison, pairs in ((MAIN, steps), (FIRST, steps[:1]), (LAST, steps[-1:])):
            having, lacking = map(list, zip(*pairs))
            missing = [name for name in FACTORIAL.values() if name in having + lacking and name not in means]
            row = {"module": module, "comparison": comparison, "missing": ", ".join(missing)}
            if not missing:
                change = 100 * (means[having].to_numpy() - means[lacking].to_numpy()).mean(axis=1)
                change = pd.Series(change.round(DIGITS), means.index)
                of_seed = pd.Series(100 * (by_seed.loc[having].to_numpy() - by_seed.loc[lacking].to_numpy()).mean(axis=0))
                low, high = bootstrap_interval(change)
                row |= {"points": change.mean(), "low": low, "high": high, "sd_seeds": of_seed.std(), "seeds": of_seed.count(),
                        "patients": len(change), "p": signed_rank(change, 0 * change).p if comparison == MAIN else np.nan}
            rows.append(row)
    numbers = ("points", "low", "high", "p", "p_holm", "sd_seeds", "patients", "seeds")
    table = pd.DataFrame(rows, columns=("module", "comparison", *numbers, "missing")).astype(dict.fromkeys(numbers, float))
    tested = table["p"].notna()
    table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"].tolist())
    return table


def orderings(scores: pd.DataFrame) -> pd.DataFrame:
    """How far the order of the paper's rows is their order here: one row for each of Tables 1 to 4.

    By ``measure``: Dice, or IoU where the paper's table has no Dice. Of the ``ordered`` pairs of rows that differ in
    print, ``pairs`` have scores here, and ``same`` of these have the same order of means over patients; ``equal`` more
    pairs with scores are equal in print. ``certain`` of the pairs differ in the paper's direction, and ``opposed`` in the
    other, so that the 95 % bootstrap interval of their difference over patients leaves out 0. ``tau`` is Kendall's tau-b
    of all rows with scores (Kendall 1945), NaN for fewer than two. ``missing`` names the rows without scores.
    """
    found = []
    for number, rows in enumerate(paper.TABLES, 1):
        measure = "dice" if rows[0].dice is not None else "iou"
        means, _ = _means(scores, measure)
        printed = {row.name: getattr(row, measure) for row in rows}
        here = {row.name: means[trained_as(row.network)] for row in rows if trained_as(row.network) in means}
        ordered = [sorted(pair, key=printed.get) for pair in combinations(printed, 2) if printed[pair[0]] != printed[pair[1]]]
        leads = [(here[better] - here[worse]).round(DIGITS) for worse, better in ordered if {worse, better} <= set(here)]
        ends = [bootstrap_interval(lead) for lead in leads]
        ranked = [printed[name] for name in here], [column.mean().round(DIGITS) for column in here.values()]
        found.append({"table": number, "measure": measure, "ordered": len(ordered), "pairs": len(leads),
                      "equal": len(here) * (len(here) - 1) // 2 - len(leads),
                      "same": sum(lead.mean().round(DIGITS) > 0 for lead in leads),
                      "certain": sum(low > 0 for low, _ in ends), "opposed": sum(high < 0 for _, high in ends),
                      "tau": kendalltau(*ranked).statistic if len(here) > 1 else np.nan,
                      "missing": ", ".join(name for name in printed if name not in here)})
    return pd.DataFrame(found)


def worst_cases(scores: pd.DataFrame, network: str, count: int = 3) -> list[str]:
    """Names of the cases with a network's lowest Dice, mean over seeds: the lowest first, equal ones by name.

    Fewer where it has fewer cases. Raises InputError when the network has no scores.
    """
    mine = scores[scores["network"] == network]
    if mine.empty:
        raise InputError(f"{network} has no scores, and so no worst case; train and score it")
    return _lowest(mine.groupby("case")["dice"].mean(), count)


def wording(low: float, high: float, p_holm: float) -> str:
    """HELPS, HURTS or OPEN, given the ends of the interval of a module's main effect, an end at 0 being inside, and its p."""
    if p_holm > 1 - LEVEL + TOLERANCE:
        return OPEN
    return HELPS if low > 0 else HURTS if high < 0 else OPEN


def findings(scores: pd.DataFrame) -> str:
    """All of it in Markdown, in percent, points of percent and mm.

    With fewer than LEAST_CASES patients it has the numbers only; else `wording` chooses how a module's sentence begins.
    """
    patients, seeds = scores["patient"].nunique(), scores.groupby("network")["seed"].nunique()
    ranks, once = patients >= LEAST_CASES, (seeds == 1).sum()
    each = " to ".join(map(str, sorted({seeds.min(), seeds.max()})))
    said = f"Patients: {patients}. Networks: {len(seeds)}. Seeds of each: {each}."
    intervals = f"Intervals are {100 * LEVEL:.0f} % bootstrap intervals over patients; few patients make them too narrow. "
    intervals += (f"Trained only once: {once} of {len(seeds)} networks. How far a second training of the same network would lie "
                  "from the first is in no interval: a difference can be an accident of one training." if once else
                  "How far apart trainings lie is not in them; the SD over seeds says that.")
    return "\n\n".join([
        "# What the scores say",
        said if ranks else f"{said} Fewer than {LEAST_CASES} patients rank nothing: here are the numbers, without verdicts.",
        intervals,
        "## Does each module help?", *_modules(module_effects(scores), ranks),
        "## Which of the paper's orderings hold?", *_orders(orderings(scores), ranks),
        f"## Where does {REFERENCE} fail?", *_failures(scores, ranks)]) + "\n"


def _means(scores: pd.DataFrame, measure: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means over seeds, a row a patient and a column a network; and over patients, a row a network and a column a seed."""
    if scores.empty:
        raise InputError("there are no scores yet; train networks and score them")
    table = pd.concat({name: by_patient(mine, measure) for name, mine in scores.groupby("network")}, axis=1)
    if (gaps := table.isna()).any(axis=None):
        patient = gaps.any(axis=1).idxmax()
        network, seed = gaps.loc[patient].idxmax()
        raise InputError(f"{network}, seed {seed}, has no score of {patient}, which others have; score all on one cohort")
    return table.T.groupby(level=0).mean().T, table.mean().unstack()


def _lowest(values: pd.Series, count: int) -> list[str]:
    return values.round(DIGITS).sort_index().sort_values(kind="stable").index[:count].tolist()


def _modules(effects: pd.DataFrame, ranks: bool) -> list[str]:
    parts, main, there = [], effects[effects["comparison"] == MAIN], effects[effects["missing"] == ""]
    if missing := main["missing"].iloc[0]:
        parts.append(f"Not scored: {missing}. The {MAIN} needs all eight networks, so no module has a verdict. Single steps that "
                     f"can be computed: {len(there)} of {len(effects) - len(main)}.")
    elif ranks:
        lines = []
        for row in main.itertuples():
            begins = wording(row.low, row.high, row.p_holm)
            lines.append(f"* **{begins.format(row.module)}**: {_interval(row)} points of Dice in the {MAIN}"
                         + (f", SD {row.sd_seeds:.2f} over {row.seeds:.0f} seeds" if row.seeds > 1 else "")
                         + f"; p {row.p_holm:.2g} after Holm.")
        parts.append("\n".join(lines))
        if (least := len(main) * smallest_p(int(main["patients"].max()))) > 1 - LEVEL:
            parts.append(f"So few patients cannot give a p below {min(1, least):.2g} after Holm, however large an effect is.")
    rows = [{"module": row.module, "comparison": row.comparison, "Dice with minus without, points": _interval(row),
             "p": _shown(row.p, ".2g"), "p after Holm": _shown(row.p_holm, ".2g"), "SD over seeds": _shown(row.sd_seeds, ".2f")}
            for row in there.itertuples()]
    return [*parts, _table(rows)] if rows else parts


def _orders(orders: pd.DataFrame, ranks: bool) -> list[str]:
    if not ranks:
        return [_table([{"table": row.table, "by": TITLES[row.measure], "pairs that the paper orders": row.ordered,
                         "scored": row.pairs, "same order here": row.same, "equal in print": row.equal,
                         "Kendall's tau-b": _shown(row.tau, "+.2f"), "not scored": row.missing} for row in orders.itertuples()])]
    lines = []
    for row in orders.itertuples():
        line = (f"{row.same} of {row.pairs} pairs have the paper's order here (tau {_shown(row.tau, '+.2f')}); with certainty "
                f"{row.certain} differ in the paper's direction, {row.opposed} in the opposite one.")
        line += f" Equal in print, and left out: {row.equal}." if row.equal else ""
        line += f" Not scored: {row.missing}, and so {row.ordered - row.pairs} more pairs." if row.missing else ""
        lines.append(f"* **Table {row.table}, {TITLES[row.measure]}**: {line}")
    return ["Chance alone would give half of the pairs, and a tau (Kendall's tau-b) of 0. A pair differs with certainty where "
            "the interval of its difference leaves out 0: certainty about patients, not about trainings, and not corrected for "
            "the number of pairs.", "\n".join(lines)]


def _failures(scores: pd.DataFrame, ranks: bool) -> list[str]:
    mine, rest = (scores[(scores["network"] == REFERENCE) == its].set_index("case") for its in (True, False))
    if mine.empty:
        return [f"{REFERENCE} has no scores."]
    grades = [f"grade_{side}" for side in SIDES if f"grade_{side}" in scores]
    cases = mine[["dice", "hd95", "missed", *grades]].apply(pd.to_numeric, errors="coerce").groupby("case").mean()
    median = rest.groupby(["network", "case"])["dice"].mean().groupby("case").median().reindex(cases.index)
    worst = worst_cases(scores, REFERENCE)
    parts = [_table([{"case": name, "Dice, %": _shown(100 * cases.dice[name], ".1f"), "HD95, mm": _shown(cases.hd95[name], ".1f"),
                      "missed joints": _shown(cases.missed[name], ".2g"),
                      **{grade.replace("_", " "): _shown(cases[grade][name], "g") for grade in grades},
                      "median Dice of the other networks, %": _shown(100 * median[name], ".1f")} for name in worst])]
    if ranks and median.notna().any():
        hard = [name for name in worst if name in _lowest(median, len(worst))]
        parts.append(f"Among the {len(worst)} cases where that median is lowest, too, and so hard for everybody: "
                     f"{', '.join(hard) or 'none'}.")
    if not grades:
        return [*parts, "The scores have no grades."]
    return [*parts, _table([{"higher grade of the case": _shown(grade, "g"), "cases": len(dice),
                             f"Dice of {REFERENCE}, %": f"{100 * dice.mean():.1f}"}
                            for grade, dice in cases["dice"].groupby(cases[grades].max(axis=1), dropna=False)])]


def _table(rows: list[dict]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _shown(value: float, form: str) -> str:
    return "-" if pd.isna(value) else f"{value:{form}}"


def _interval(row: object) -> str:
    points, low, high = (f"{round(value, 2) + 0.0:+.2f}" for value in (row.points, row.low, row.high))      # no -0.00
    return points if pd.isna(row.low) else f"{points} [{low}, {high}]"
