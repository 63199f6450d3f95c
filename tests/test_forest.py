"""The figure of a table: every network has its line, with what was measured."""

import numpy as np
import pandas as pd
import pytest

from compendium.figures.forest import forest
from compendium.tables import COLUMNS, study_table

ROWS = ["base", "+DA"]


def numbers(**value):
    rows = [dict.fromkeys(COLUMNS, np.nan) | {"row": row, "network": row, "group": "all", "measure": measure}
            for row in ROWS for measure in ("Dice", "IoU")]
    means = pd.Series([value.get(row["row"], np.nan) for row in rows])
    return pd.DataFrame(rows).assign(paper=80.0, value=means, low=means - 3, high=means + 1)


def test_marks_stand_at_the_means_with_their_intervals_first_row_on_top():
    axes = forest(numbers(**{"base": 50.0, "+DA": 60.0})).axes[0]
    means, (low, high), _ = axes.containers[0]
    assert dict(zip(means.get_ydata(), means.get_xdata())) == {1: 50.0, 0: 60.0}
    assert axes.get_yticklabels()[1].get_text() == "base"
    assert [list(bar.get_xdata()) for bar in (low, high)] == [[57.0, 47.0], [61.0, 51.0]]


def test_a_network_without_scores_says_so():
    figure = forest(numbers(base=50.0))
    assert [[t.get_text() for t in axes.texts] for axes in figure.axes] == [["not trained"]] * 2


@pytest.mark.parametrize("table, extra", [(1, []), (2, []), (3, []), (4, ["+MFF+LGAG"])])
def test_tables_have_the_row_that_the_paper_leaves_out(table, extra):
    empty = pd.DataFrame(columns=["network"])
    rows = list(dict.fromkeys(study_table(table, empty, empty)["row"]))
    assert rows[len(rows) - len(extra):] == extra
