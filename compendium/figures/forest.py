"""Scores of a table's networks at a glance: means with their intervals, and the paper's numbers beside them."""

import pandas as pd
from matplotlib.figure import Figure

from compendium.figures.planes import PREDICTION_COLOUR, TRUTH_COLOUR
from compendium.grid import REFERENCE
from compendium.tables import ALL

MEASURES = ("Dice", "IoU")


def forest(numbers: pd.DataFrame) -> Figure:
    """One line a network, in the table's order; hollow marks are the paper's, a dotted line is MAG-UNet's mean.

    numbers: of `compendium.tables.study_table`. A network without scores keeps its line, and says so.
    """
    numbers = numbers[numbers["group"] == ALL]
    names = list(dict.fromkeys(numbers["row"]))[::-1]
    figure = Figure(figsize=(8.5, 1.3 + 0.32 * len(names)), layout="constrained")
    for axes, measure in zip(figure.subplots(1, len(MEASURES), sharey=True), MEASURES):
        table = numbers[numbers["measure"] == measure].set_index("row").loc[names]
        height = range(len(names))
        axes.plot(table["paper"], height, "D", mfc="none", color="black", markersize=5, label="paper (hospital data)")
        errors = [(table["value"] - table["low"]).fillna(0), (table["high"] - table["value"]).fillna(0)]
        axes.errorbar(table["value"], height, xerr=errors, fmt="o", color=PREDICTION_COLOUR, ecolor=PREDICTION_COLOUR,
                      markersize=6, capsize=3, label="here, 95 % interval")
        reference = table.loc[table["network"] == REFERENCE, "value"]
        if reference.notna().any():
            axes.axvline(reference.iloc[0], color=TRUTH_COLOUR, linestyle=":", linewidth=1.5, zorder=0)
        for y, value in zip(height, table["value"]):
            if pd.isna(value):
                axes.text(50, y, "not trained", fontsize=8, va="center", ha="center", color="0.4")
        axes.set(title=f"{measure}, %", xlim=(-2, 102), yticks=list(height), yticklabels=names, ylim=(-0.6, len(names) - 0.4))
        axes.grid(axis="x", color="0.9")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure
