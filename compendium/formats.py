"""What people read: a report of tables as text, CSV, Markdown or LaTeX."""

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from compendium.grid import REFERENCE
from compendium.statistics import LEVEL, smallest_p
from compendium.tables import ALL, MEASURES, TRAINED
from magunet.base.provenance import whole_file

TITLES = {1: "Table 1: comparison with other networks (Sec. 2.2)", 2: "Table 2: attention modules (Sec. 2.3)",
          3: "Table 3: kernel sizes of MFF (Sec. 2.4)", 4: "Table 4: ablation (Sec. 2.5)"}
"""Of the paper's tables."""
COSTS = {"parameters": "parameters, Mi", "TFLOP": "TFLOP", "seconds a case": "seconds a case",
         "peak memory": "peak memory, GB"}
"""Measure -> heading."""
LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "^": r"\^{}", "~": r"\~{}", "²": r"\textsuperscript{2}",
         **{c: f"\\{c}" for c in "&%$#_{}"}}
"""Character -> what LaTeX prints it for."""


@dataclass(frozen=True)
class Report:
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
            escaped = table.astype(str).map(_latex).rename(index=_latex, columns=_latex)
            aligned = "l" + "r" * len(table.columns)
            parts.append(escaped.to_latex(caption=_latex(title), column_format=aligned).rstrip("\n"))
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
    title = TITLES[int(numbers["table"].iloc[0])]
    return Report(title, study_blocks(numbers), numbers, [*study_notes(numbers), *notes])


def study_blocks(numbers: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The table cut into what fits a page: title -> one line a row of the paper; empty ones are left out."""
    whole, groups = numbers[numbers["group"] == ALL], numbers[numbers["group"] != ALL]
    names, titles = list(dict.fromkeys(groups["group"])), [measure.title for measure in MEASURES]
    costs, paper = whole[whole["measure"].isin(COSTS) & whole["value"].notna()], whole[whole["paper"].notna()]
    cut = {
        "Overlap with the truth": _spread(whole[whole["measure"].isin(titles[:4])], _interval),
        "Surfaces": _spread(whole[whole["measure"].isin(titles[4:])], _interval),
        "Ours minus the paper's number, which is in brackets": _spread(paper, _beside),
        "Cost": _spread(costs, lambda n: f"{n.value:.2f}").rename(columns=COSTS),
        f"Against {REFERENCE}: p (effect size)": _spread(whole[whole["p"].notna()], _test),
        "Counted": _spread(whole[whole["unit"] == "count"], lambda n: f"{n.value:.0f}"),
    }
    for title, unit in (("Dice", "%"), ("HD95", "mm")):
        cells = groups[groups["measure"] == title]
        cut[f"{title} of single joints, {unit}"] = _spread(cells, _interval, "group", names)
    counts = groups[groups["measure"].isin(["missed joints", "joints"])]
    pairs = counts.pivot_table(index=["row", "group"], columns="measure", values="value", sort=False)
    cut["Missed of all joints"] = _spread(pairs.reset_index(), _missed, "group", names)
    status = numbers.drop_duplicates("row").set_index("row")["status"].replace(TRAINED, "-")
    return {title: _with_missing(table, status) for title, table in cut.items() if not table.empty}


def study_notes(numbers: pd.DataFrame) -> list[str]:
    """What the reader must know to read the numbers: units, policies, and what the tests cannot show."""
    lines = ["Parameters, and TFLOP of one forward pass of 50 x 256 x 256 voxels (Mi = 2^20; a multiply-add "
             "is 2), are those of the paper's widths; seconds (median) and memory (most) are of the "
             "predictions here. The paper scored CTs that nobody else has: a difference from its numbers is "
             "one of data, too."]
    whole = numbers[(numbers["group"] == ALL) & (numbers["status"] == TRAINED)]
    if whole.empty:
        return lines
    patients = int(whole["patients"].max())
    over = f"{patients} patient{'s'[:patients > 1]}"
    lines = [f"Mean over {over} [{100 * LEVEL:.0f} % bootstrap interval over patients], then ± SD over seeds "
             "if there are several. Scored on each scan's own grid; overlaps and NSD (within 1 mm) in %, "
             "HD95 and ASSD in mm.", *lines,
             "Nothing is left out. Overlaps of two empty masks count 100 %, of one 0. Surface distances of "
             "two empty masks are 0; of one they are undefined: the scan's diagonal is taken, and NSD 0. A "
             "joint is missed where no voxel of it was found. Counts are over all seeds."]
    if compared := int(numbers["p"].notna().sum() / len(MEASURES)):
        lines.append(f"p: two-sided Wilcoxon signed-rank test over patients against {REFERENCE}, adjusted "
                     f"after Holm for {compared} comparison{'s'[:compared > 1]} by each measure; effect: "
                     f"rank-biserial correlation, positive where the row is higher than {REFERENCE} (for "
                     "HD95 and ASSD: worse).")
        if (adjusted := (least := smallest_p(patients)) * compared) > 1 - LEVEL:
            lines.append(f"{over} cannot give a p below {least:.2g}, nor after Holm one below "
                         f"{min(1.0, adjusted):.2g}: this table cannot show that a difference is more than "
                         "chance.")
    elif (numbers["network"] != REFERENCE).any():
        lines.append(f"No tests: {REFERENCE} or all others are not trained.")
    if (numbers["group"] != ALL).any():
        lines.append("Single joints: those that the truth has, parted at the middle of the gap between "
                     "them; left is the patient's. Sides on which it has none are counted as empty, and as "
                     "false joints where one was found.")
    return lines


def _latex(text: str) -> str:
    """Escaped for LaTeX; a cell that starts with [ is braced, since a line break before it would take it."""
    escaped = re.sub(r"[\\±^~²&%$#_{}]", lambda match: LATEX[match.group()], str(text))
    return f"{{{escaped}}}" if escaped.startswith("[") else escaped


def _spread(numbers: pd.DataFrame, cell: Callable, column: str = "measure",
            order: Sequence[str] | None = None) -> pd.DataFrame:
    """Long to wide: a line a row of the paper, a column a measure (or group)."""
    if numbers.empty:
        return pd.DataFrame()
    names = order or list(dict.fromkeys(numbers[column]))
    cells = numbers.assign(cell=numbers.apply(cell, axis=1))
    return cells.pivot(index="row", columns=column, values="cell").reindex(columns=names).fillna("")


def _with_missing(table: pd.DataFrame, status: pd.Series) -> pd.DataFrame:
    """All rows of the paper in its order; those without a number have their status in the first column."""
    table = table.reindex(status.index).fillna("").rename_axis(index=None, columns=None)
    empty = ~table.any(axis=1)
    table.loc[empty, table.columns[0]] = status[empty]
    return table


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


def _missed(number: pd.Series) -> str:
    return f"{number['missed joints']:.0f} of {number.joints:.0f}"


def _test(number: pd.Series) -> str:
    p = "<0.001" if number.p_holm < 0.001 else f"{number.p_holm:.3f}"
    return f"{p} ({number.effect:+.2f})"
