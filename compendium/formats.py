"""What people read: a report of tables as text, CSV, Markdown or LaTeX. Their words: ``tables.toml``."""

import re
import textwrap
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tabulate import tabulate

from compendium.statistics import LEVEL
from compendium.tables import ALL, MEASURES, TRAINED
from magunet.base.provenance import whole_file

WORDS = tomllib.loads(Path(__file__).with_name("tables.toml").read_text(encoding="utf-8"))
"""Titles of the paper's tables, headings of costs, and notes, whose braces stand for numbers."""


class Report(NamedTuple):
    """Tables of text under a title, with notes below them, and the numbers behind them in one long table."""

    title: str
    tables: dict[str, pd.DataFrame]
    numbers: pd.DataFrame
    notes: Sequence[str] = ()

    def text(self) -> str:
        """Plain tables for the terminal."""
        tables = [f"{title}\n{table.to_string()}" for title, table in self.tables.items()]
        notes = "\n".join(textwrap.fill(line, 120) for line in self.notes)
        return "\n\n".join([self.title, *tables, *filter(None, [notes])])

    def csv(self) -> str:
        """Every number in one file, a row each; without notes, which CSV has no place for."""
        return self.numbers.to_csv(index=False, float_format="%.6g").rstrip("\n")

    def markdown(self) -> str:
        """Tables for a README."""
        tables = [f"**{title}**\n\n{to_markdown(table)}" for title, table in self.tables.items()]
        return "\n\n".join([f"## {self.title}", *tables, *self.notes])

    def latex(self) -> str:
        r"""One ``table`` for each table, for ``\usepackage{booktabs}``; notes as comments."""
        parts = [f"% {self.title}; needs \\usepackage{{booktabs}}"]
        for title, table in self.tables.items():
            caption, aligned = re.sub("([%&#_])", r"\\\1", title), "l" + "r" * len(table.columns)
            latex = table.astype(str).to_latex(escape=True, caption=caption, column_format=aligned)
            latex = re.sub(r"^(\[.*?\])", r"{\1}", latex, flags=re.MULTILINE)     # no length of a line break
            parts.append(latex.replace("±", r"$\pm$").rstrip("\n"))
        return "\n\n".join([*parts, "\n".join(f"% {line}" for line in self.notes)])

    def save(self, path: Path) -> list[Path]:
        """Write ``path`` with the ending .csv, with every number, and .md, to be read; return both files."""
        files = [path.with_suffix(".csv"), path.with_suffix(".md")]
        for file, content in zip(files, (self.csv(), self.markdown())):
            with whole_file(file) as part:
                part.write_text(content + "\n", encoding="utf-8")
        return files


FORMATS = {"text": Report.text, "csv": Report.csv, "md": Report.markdown, "latex": Report.latex}
"""Name on the command line -> what writes it."""


def to_markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, its index first; "|" in a cell is escaped."""
    rows = [[str(cell).replace("|", r"\|") for cell in row] for row in table.itertuples()]
    headers = ["", *(str(column).replace("|", r"\|") for column in table.columns)]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True, stralign=None)


def study_report(numbers: pd.DataFrame, notes: Sequence[str] = ()) -> Report:
    """One of the paper's tables. numbers: of `compendium.tables.study_table`; notes: lines below its own."""
    title = WORDS["titles"][str(numbers["table"].iloc[0])]
    return Report(title, study_blocks(numbers), numbers, [*study_notes(numbers), *notes])


def study_blocks(numbers: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The table cut into what fits a page: title -> one line a row of the paper; empty ones are left out."""
    whole, groups = numbers[numbers["group"] == ALL], numbers[numbers["group"] != ALL]
    titles, headings = [title for title, _ in MEASURES.values()], whole["measure"].map(WORDS["costs"])
    counts = groups[groups["measure"].isin(["missed joints", "joints"])]
    pairs = counts.pivot_table(index=["row", "group"], columns="measure", values="value", sort=False)
    cut = {
        "Overlap with the truth": (whole[whole["measure"].isin(titles[:4])], _interval),
        "Surfaces": (whole[whole["measure"].isin(titles[4:7])], _interval),
        "Without the slices that hold no target": (whole[whole["measure"].isin(titles[7:])], _interval),
        "Ours minus the paper's number, which is in brackets": (whole[whole["paper"].notna()], _beside),
        "Cost": (whole.assign(measure=headings)[headings.notna() & whole["value"].notna()],
                 lambda number: f"{number.value:.2f}"),
        "Counted": (whole[whole["unit"] == "count"], lambda number: f"{number.value:.0f}"),
        "Dice of single joints, %": (groups[groups["measure"] == "Dice"], _interval),
        "HD95 of single joints, mm": (groups[groups["measure"] == "HD95"], _interval),
        "Missed of all joints": (
            pairs.reset_index(), lambda number: f"{number['missed joints']:.0f} of {number.joints:.0f}"),
    }
    status = numbers.drop_duplicates("row").set_index("row")["status"].replace(TRAINED, "-")
    return {title: _spread(part, cell, status) for title, (part, cell) in cut.items() if not part.empty}


def study_notes(numbers: pd.DataFrame) -> list[str]:
    """What the reader must know to read the numbers: units, policies, and what the intervals hold."""
    whole = numbers[(numbers["group"] == ALL) & (numbers["status"] == TRAINED)]
    trained, patients = len(whole) > 0, 0 if whole.empty else int(whole["patients"].max())
    words = {"patients": f"{patients} patient{'s'[:patients > 1]}", "level": 100 * LEVEL}
    notes = {"means": trained, "one seed": whole["seeds"].min() == 1, "costs": True, "paper": True,
             "policies": trained, "joints": (numbers["group"] != ALL).any(),
             "effects": trained and numbers["table"].iloc[0] == 4}
    return [WORDS["notes"][name].format(**words) for name, needed in notes.items() if needed]


def _spread(numbers: pd.DataFrame, cell: Callable, status: pd.Series) -> pd.DataFrame:
    """Long to wide: all rows of the paper in its order, or else their status; a column a measure or group."""
    column = "group" if numbers["group"].iloc[0] != ALL else "measure"
    table = numbers.assign(cell=numbers.apply(cell, axis=1)).pivot(index="row", columns=column, values="cell")
    table = table.reindex(index=status.index, columns=numbers[column].unique()).fillna("")
    table.iloc[:, 0] = table.iloc[:, 0].where(table.any(axis=1), status)
    return table.rename_axis(index=None, columns=None)


def _interval(number: pd.Series) -> str:
    if pd.isna(number.value):
        return ""
    digits = 2 if number.unit == "mm" else 1
    text = f"{number.value:.{digits}f}"
    if pd.notna(number.low):
        text += f" [{number.low:.{digits}f}, {number.high:.{digits}f}]"
    return text + (f" ± {number.sd_seeds:.{digits}f}" if pd.notna(number.sd_seeds) else "")


def _beside(number: pd.Series) -> str:
    digits = 2 if number.unit == "Mi" else 1
    if pd.isna(number.difference):
        return f"({number.paper:.{digits}f})"
    return f"{round(number.difference, digits) + 0.0:+.{digits}f} ({number.paper:.{digits}f})"      # no -0.00

