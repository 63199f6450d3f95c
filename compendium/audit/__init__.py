"""The paper's numbers against each other, its text, and the networks it describes: what notebook 11 shows."""

from pathlib import Path

import pandas as pd

from compendium.paper import TABLES
from magunet.studies import checked


def read_table(name: str) -> pd.DataFrame:
    """``claims``, ``errata`` or ``quotes`` of the paper, in its order, numbered from 1."""
    table = pd.read_csv(Path(__file__).with_name(f"{name}.csv"), keep_default_na=False)
    return table.set_index(pd.RangeIndex(1, len(table) + 1))


def paper_rows() -> pd.DataFrame:
    """Every row of Tables 1 to 4, NaN where it has no number; networks are named as they are trained."""
    rows = pd.DataFrame([row for table in TABLES for row in table])
    return rows.assign(network=rows["network"].map(checked))
