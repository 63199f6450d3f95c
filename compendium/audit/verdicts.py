"""What the paper claims and misprints, in our words, and the verdicts: ``claims.csv`` and ``errata.csv``.

Verdicts that rest on the paper's numbers and on untrained networks stand in the file, since neither changes:
notebook 11 computes them under the heading in the column "shown". Other claims have a judge in ``rankings``.
"""

from pathlib import Path

import pandas as pd

from compendium.audit import read_table
from compendium.audit.rankings import JUDGES
from compendium.formats import to_markdown
from magunet.base import project
from magunet.base.provenance import git_revision, whole_file


def judged(scores: pd.DataFrame | None = None) -> pd.DataFrame:
    """One line a claim: place, claim, verdict, found, shown. scores: as in ``compendium.audit.rankings``."""
    table = read_table("claims")
    for number, key in table["key"].items():
        if key in JUDGES:
            verdict, table.loc[number, "found"] = JUDGES[key](scores)
            table.loc[number, "verdict"] = str(verdict)
    return table.drop(columns="key")


def link(heading: str, notebook: str = "") -> str:
    """A Markdown link to a heading of a notebook, or of this one, as JupyterLab and nbconvert name them."""
    return f"[{heading}]({notebook}#{heading.replace(' ', '-')})"


def as_markdown(table: pd.DataFrame, notebook: str = "") -> str:
    """The table in Markdown; its last column, ``shown``, as links into a notebook, or the same one."""
    return to_markdown(table.assign(shown=[link(heading, notebook) for heading in table["shown"]]))


def save_claims(table: pd.DataFrame, path: Path, source: str) -> None:
    """Write the table of `judged` beside a profile's figures, with what the verdicts rest on."""
    text = (f"{source}, git {git_revision(project.root())}. Links lead to notebook 11, which shows what "
            "was found. Of trained networks, higher means better here, however little; the tables have the "
            "intervals.")
    lines = as_markdown(table, "../../notebooks/11_paper_audit.ipynb")
    with whole_file(path) as part:
        part.write_text(f"# The paper's claims\n\n{text}\n\n{lines}\n")
