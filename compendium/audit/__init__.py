"""The paper's numbers against each other, its text, and the networks it describes: what notebook 11 shows."""

from importlib.resources import files

import pandas as pd


def read_table(name: str) -> pd.DataFrame:
    """``claims``, ``errata`` or ``quotes`` of the paper, in its order, numbered from 1."""
    with (files("compendium.audit") / f"{name}.csv").open(encoding="utf-8") as stream:
        table = pd.read_csv(stream, keep_default_na=False)
    return table.set_index(pd.RangeIndex(1, len(table) + 1))
