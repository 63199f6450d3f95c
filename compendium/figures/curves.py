"""Learning curves of stored runs: read back whole or not at all, and drawn so that networks stay apart."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from compendium.figures.page import SMALLEST_FONT
from compendium.figures.planes import FIGURE_WIDTH
from compendium.results import CURVES_FILE, RUNS_FILE, Results
from magunet.base.errors import InputError

PANELS = {"loss": "training loss,\nDice + cross-entropy", "val_dice": "Dice of the\nvalidation cases"}
"""Column -> what its axis says."""


def read_curves(stored: Results) -> pd.DataFrame:
    """One row an epoch of every stored run: network, seed, epoch from 1, loss, val_dice in [0, 1].

    Raises InputError when the file is missing or damaged, or has not each epoch of each stored run once.
    """
    path = stored.folder / CURVES_FILE
    types = {"network": str, "seed": int, "epoch": int, "loss": float, "val_dice": float}
    try:
        curves = pd.read_csv(path, dtype=types, usecols=list(types))
        epochs = {(run["network"], run["seed"]): list(range(1, 1 + run["epochs"])) for run in stored.runs}
        if curves.groupby(["network", "seed"])["epoch"].agg(list).to_dict() != epochs:
            raise ValueError(f"its epochs are not those of the runs in {RUNS_FILE}")
        if not np.isfinite(curves[list(PANELS)]).all(axis=None):
            raise ValueError("numbers are missing")
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: missing or damaged ({reason}); store the results again") from error
    return curves


def learning_curves(curves: pd.DataFrame, tables: Mapping[str, Sequence[str]]) -> Figure:
    """Training loss, and Dice of the validation cases, by epoch: a row a table, a line a network.

    tables: title -> networks. A line is the mean over seeds as far as all go; networks without a curve are
    left out, and so is a table that has none. This Dice is of prepared scans around the joints
    (`magunet.train.validation_dice`), the tables' of whole scans on their own grids.
    """
    styles = {"color": ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "black"),
              "linestyle": ("solid", (0, (4, 1.2)), (0, (1.2, 1))), "marker": ("o", "s", "^", "D", "v")}
    known = set(curves["network"])
    tables = {title: own for title, names in tables.items() if (own := [n for n in names if n in known])}
    heights = [2.3 + 0.16 * -(-len(names) // 4) for names in tables.values()]
    figure = Figure(figsize=(FIGURE_WIDTH, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(tables), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (title, names) in zip(parts, tables.items()):
        for axes, (column, label) in zip(part.subplots(1, 2), PANELS.items()):
            for name, *style in zip(names, *map(itertools.cycle, styles.values())):
                seeds = curves[curves["network"] == name].pivot(index="epoch", columns="seed", values=column)
                mean, count = seeds.dropna().mean(axis=1), seeds.shape[1]
                axes.plot(mean.index, mean, label=f"{name}, {count} seed{'s'[:count > 1]}", linewidth=1.2,
                          markersize=4, markeredgecolor="white", markeredgewidth=0.5,
                          markevery=max(1, len(mean) // 10), **dict(zip(styles, style)))
            axes.set(xlabel="epoch", ylabel=label, ylim=(0, 1 if column == "val_dice" else None))
            axes.xaxis.set_major_locator(
                MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
            axes.grid(color="0.9")
        part.suptitle(title, fontsize=10)
        part.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False,
                    fontsize=SMALLEST_FONT, handlelength=3)
    return figure
