"""The paper's parameter counts beside those of the networks here."""

import pandas as pd

from magunet.nets.magunet import count_parameters
from magunet.nets.studies import build_on_meta
from magunet.paper import MI, TABLES


def parameter_audit() -> pd.DataFrame:
    """One row for each row of Tables 1 to 4: the paper's count in Mi, ours exactly and in Mi, the difference."""
    rows = []
    for row in (row for table in TABLES for row in table):
        ours = count_parameters(build_on_meta(row.network))
        difference = ours / MI - row.params_mi if row.params_mi else None
        rows.append({"table": row.table, "row": row.name, "paper Mi": row.params_mi, "parameters": ours,
                     "Mi": ours / MI, "difference": difference})
    return pd.DataFrame(rows)


def as_text(table: pd.DataFrame) -> str:
    """The audit as a plain table; "-" where the paper gives no count."""
    shown = table.copy().astype(object)
    for name, form in (("paper Mi", "{:.2f}"), ("parameters", "{:,}"), ("Mi", "{:.3f}"), ("difference", "{:+.3f}")):
        shown[name] = [("-" if pd.isna(v) else form.format(v)) for v in table[name]]
    return shown.to_string(index=False)
