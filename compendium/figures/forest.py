"""A table's networks at a glance, means with the paper's numbers beside them, and effects of the modules."""

import pandas as pd
from matplotlib.figure import Figure

from compendium.effects import MAIN, MARGIN
from compendium.figures.page import SMALLEST_FONT
from compendium.figures.planes import FIGURE_WIDTH, PREDICTION_COLOUR
from compendium.tables import ALL, extent


def forest(numbers: pd.DataFrame) -> Figure:
    """One line a network, in the table's order; hollow marks: the paper's.

    numbers: of `compendium.tables.study_table`. A network without scores keeps its line, and says so.
    """
    numbers = numbers[numbers["group"] == ALL]
    names = list(dict.fromkeys(numbers["row"]))[::-1]
    figure, y = Figure(figsize=(8.5, 1.3 + 0.32 * len(names)), layout="constrained"), range(len(names))
    figure.suptitle(extent(numbers), fontsize=9)
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), ("Dice", "IoU")):
        table = numbers[numbers["measure"] == measure].set_index("row").loc[names]
        axes.plot(table["paper"], y, "D", mfc="none", color="black", ms=5, label="paper (hospital data)")
        errors = table[["low", "high"]].sub(table["value"], axis=0).abs().fillna(0)
        axes.errorbar(table["value"], y, xerr=errors.T, fmt="o", color=PREDICTION_COLOUR, ms=6, capsize=3,
                      label="here, 95 % interval")
        for place in table["value"].isna().to_numpy().nonzero()[0]:
            axes.text(0.02, place, "not trained", fontsize=8, va="center", color="0.4",
                      transform=axes.get_yaxis_transform())
        axes.set(title=f"{measure}, %", ylim=(-0.6, len(names) - 0.4))
        axes.set_yticks(y, names)
        axes.locator_params(axis="x", nbins=6)
        axes.grid(axis="x", color="0.9")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8,
                  frameon=False)
    return figure


def effects_forest(effects: pd.DataFrame) -> Figure:
    """Paired differences in points of Dice with 95 % intervals; main effects on top, with their verdicts.

    effects: of `compendium.effects.module_effects` or `differences`. A row whose networks are not all trained
    says so.
    """
    names = (effects["module"] + ", " + effects["comparison"] + "\n" + effects["verdict"]).str.strip()
    main, height = effects["comparison"] == MAIN, 1.2 + 0.26 * len(effects)
    figure = Figure((FIGURE_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-MARGIN, MARGIN, color="0.92", label=f"within {MARGIN:g} point: taken for none")
    axes.axvline(0, color="0.4", linewidth=0.8)
    kinds = ("main effect", effects[main], "o"), ("difference, not tested", effects[~main], "s")
    for label, rows, look in (kind for kind in kinds if len(kind[1])):
        axes.errorbar(rows["mean"], rows.index, xerr=(rows["high"] - rows["mean"]).fillna(0), fmt=look,
                      color=PREDICTION_COLOUR if look == "o" else "0.4", capsize=3, label=label)
    for place in effects.index[effects["mean"].isna()]:
        axes.text(0, place, "not trained", fontsize=SMALLEST_FONT, va="center", ha="center", color="0.4")
    axes.set_yticks(effects.index, names, fontsize=SMALLEST_FONT)
    over = "patients alone: 1 seed" if effects["seeds"].max() == 1 else "seeds and patients"
    axes.set(xlabel=f"difference in Dice, points, 95 % interval over {over}", ylim=(len(effects) - 0.4, -0.6))
    axes.grid(axis="x", color="0.9")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure
