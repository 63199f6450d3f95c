"""A table of `compendium.tables` as text, CSV, Markdown or LaTeX."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from compendium.statistics import LEVEL, smallest_p
from compendium.tables import ALL, MEASURES, REFERENCE, TRAINED
from magunet.base.provenance import whole_file

TITLES = {1: "Table 1: comparison with other networks (Sec. 2.2)", 2: "Table 2: attention modules (Sec. 2.3)",
          3: "Table 3: kernel sizes of MFF (Sec. 2.4)", 4: "Table 4: ablation (Sec. 2.5)"}
OVERLAPS, SURFACES = ([m.title for m in MEASURES if (m.column in ("dice", "iou", "precision", "recall")) == overlap]
                      for overlap in (True, False))
COSTS = {"parameters": "parameters, Mi", "TFLOP": "TFLOP", "seconds a case": "seconds a case", "peak memory": "peak memory, GB"}
BY_JOINT = ("Dice", "HD95")
LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "^": r"\^{}", "~": r"\~{}", "²": r"\textsuperscript{2}",
         **{c: f"\\{c}" for c in "&%$#_{}"}}


def blocks(numbers: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The table cut into what fits a page: title -> one line a row of the paper, in words; empty ones left out.

    numbers: of `compendium.tables.study_table`.
    """
    whole = numbers[numbers["group"] == ALL]
    measured = whole[whole["measure"].isin([m.title for m in MEASURES])]
    groups = list(dict.fromkeys(numbers.loc[numbers["group"] != ALL, "group"]))
    paper = whole[whole["paper"].notna()]
    tested = whole[whole["p"].notna()]
    cut = {
        "Overlap with the truth": _spread(measured[measured["measure"].isin(OVERLAPS)], _interval),
        "Surfaces": _spread(measured[measured["measure"].isin(SURFACES)], _interval),
        "Ours minus the paper's number, which is in brackets": _spread(paper, _beside_paper),
        "Cost": _spread(whole[whole["measure"].isin(COSTS)], _plain).rename(columns=COSTS),
        f"Against {REFERENCE}: p (effect size)": _spread(tested, lambda n: f"{_p(n.p_holm)} ({n.effect:+.2f})"),
        "Counted": _spread(whole[whole["unit"] == "count"], lambda n: f"{n.value:.0f}"),
    }
    for measure in BY_JOINT:
        joints = numbers[numbers["group"].isin(groups) & (numbers["measure"] == measure)]
        cut[f"{measure} of single joints, {unit_of(measure)}"] = _spread(joints, _interval, "group", groups)
    missed = numbers[numbers["group"].isin(groups) & numbers["measure"].isin(["missed joints", "joints"])]
    pairs = missed.pivot_table(index=["row", "group", "status"], columns="measure", values="value", sort=False)
    if len(pairs):
        cut["Missed of all joints"] = _spread(pairs.reset_index(), lambda n: f"{n['missed joints']:.0f} of {n.joints:.0f}",
                                              "group", groups)
    order = list(dict.fromkeys(numbers["row"]))
    status = numbers.drop_duplicates("row").set_index("row")["status"]
    return {title: _with_missing(table, order, status) for title, table in cut.items() if not table.empty}


def unit_of(measure: str) -> str:
    """The unit a measure is shown in."""
    return next(m.unit for m in MEASURES if m.title == measure)


def notes(numbers: pd.DataFrame) -> list[str]:
    """What the reader must know to read the numbers: units, policies, and what the tests cannot show."""
    measured = numbers[(numbers["group"] == ALL) & (numbers["measure"] == MEASURES[0].title) & (numbers["status"] == TRAINED)]
    lines = ["Parameters, and TFLOP of one forward pass of 50 x 256 x 256 voxels (Mi = 2^20; a multiply-add is 2), are those of "
             "the paper's widths; seconds (median) and memory (most) are of the predictions here. The paper scored CTs that "
             "nobody else has: a difference from its numbers is one of data, too."]
    if measured.empty:
        return lines
    patients = int(measured["patients"].max())
    over = f"{patients} patient{'s'[:patients > 1]}"
    lines = [f"Mean over {over} [{100 * LEVEL:.0f} % bootstrap interval over patients], then ± SD over seeds if there are "
             "several. Scored on each scan's own grid; overlaps and NSD (within 1 mm) in %, HD95 and ASSD in mm.",
             *lines,
             "Nothing is left out. Overlaps of two empty masks count 100 %, of one 0. Surface distances of two empty masks are "
             "0; of one they are undefined: the scan's diagonal is taken, and NSD 0. A joint is missed where no voxel of it "
             "was found. Counts are over all seeds."]
    compared = int(numbers["p"].notna().sum() / len(MEASURES))
    if compared:
        least = smallest_p(patients)
        lines.append(f"p: two-sided Wilcoxon signed-rank test over patients against {REFERENCE}, adjusted after Holm for "
                     f"{compared} comparison{'s'[:compared > 1]} by each measure; effect: rank-biserial correlation, positive "
                     f"where the row is higher than {REFERENCE} (for HD95 and ASSD: worse).")
        if least * compared > 1 - LEVEL:
            lines.append(f"{over} cannot give a p below {least:.2g}, nor after Holm one below "
                         f"{min(1.0, least * compared):.2g}: this table cannot show that a difference is more than chance.")
    elif (numbers["network"] != REFERENCE).any():
        lines.append(f"No tests: {REFERENCE} or all others are not trained.")
    if (numbers["group"] != ALL).any():
        lines.append("Single joints: those that the truth has, parted at the middle of the gap between them; left is the "
                     "patient's. Sides on which it has none are counted as empty, and as false joints where one was found.")
    return lines


def as_text(numbers: pd.DataFrame, more: Sequence[str] = ()) -> str:
    """Plain tables for the terminal; ``more`` are lines to print below the table's own notes."""
    parts = [TITLES[int(numbers["table"].iloc[0])]]
    parts += [f"{title}\n{table.to_string()}" for title, table in blocks(numbers).items()]
    return "\n\n".join([*parts, "\n".join(textwrap.fill(line, 120) for line in (*notes(numbers), *more))])


def as_csv(numbers: pd.DataFrame, more: Sequence[str] = ()) -> str:
    """Every number in one file, a row each; without notes, which CSV has no place for."""
    return numbers.to_csv(index=False, float_format="%.6g").rstrip("\n")


def as_markdown(numbers: pd.DataFrame, more: Sequence[str] = ()) -> str:
    """Tables for a README; "|" in a cell is escaped."""
    parts = [f"## {TITLES[int(numbers['table'].iloc[0])]}"]
    for title, table in blocks(numbers).items():
        lines = [["", *table.columns], ["---"] * (1 + len(table.columns)), *([row.Index, *row[1:]] for row in table.itertuples())]
        parts.append(f"**{title}**\n\n" + "\n".join(f"| {' | '.join(str(c).replace('|', chr(92) + '|') for c in line)} |"
                                                    for line in lines))
    return "\n\n".join([*parts, *notes(numbers), *more])


def as_latex(numbers: pd.DataFrame, more: Sequence[str] = ()) -> str:
    r"""One ``table`` for each block, for ``\usepackage{booktabs}``; notes as comments."""
    parts = [f"% {TITLES[int(numbers['table'].iloc[0])]}; needs \\usepackage{{booktabs}}"]
    for title, table in blocks(numbers).items():
        escaped = table.map(_latex).rename(index=_latex, columns=_latex)
        parts.append(escaped.to_latex(caption=_latex(title), column_format="l" + "r" * len(table.columns)).rstrip("\n"))
    return "\n\n".join([*parts, "\n".join(f"% {line}" for line in (*notes(numbers), *more))])


FORMATS = {"text": as_text, "csv": as_csv, "md": as_markdown, "latex": as_latex}


def save_table(numbers: pd.DataFrame, path: Path, more: Sequence[str] = ()) -> list[Path]:
    """Write a table beside the figures: ``path`` with the ending .csv, with every number, and .md, to be read."""
    files = {path.with_suffix(".csv"): as_csv, path.with_suffix(".md"): as_markdown}
    for file, form in files.items():
        with whole_file(file) as part:
            part.write_text(form(numbers, more) + "\n")
    return list(files)


def _latex(text: str) -> str:
    """Escaped for LaTeX; a cell that starts with [ is braced, or the line break before it takes it for a length."""
    escaped = re.sub(r"[\\±^~²&%$#_{}]", lambda found: LATEX[found.group()], str(text))
    return f"{{{escaped}}}" if escaped.startswith("[") else escaped


def _spread(numbers: pd.DataFrame, cell, column: str = "measure", order: Sequence[str] | None = None) -> pd.DataFrame:
    """Long to wide: a line a row of the paper, a column a measure (or group), in the order of their coming."""
    if numbers.empty:
        return pd.DataFrame()
    text = numbers.assign(text=numbers.apply(cell, axis=1))
    names = list(dict.fromkeys(numbers[column])) if order is None else list(order)
    return text.pivot(index="row", columns=column, values="text").reindex(columns=names).fillna("")


def _with_missing(table: pd.DataFrame, rows: Sequence[str], status: pd.Series) -> pd.DataFrame:
    """All rows of the paper in its order; those without a number in the first column say why."""
    table = table.reindex(rows).fillna("").rename_axis(index=None, columns=None)
    for row in rows:
        if not table.loc[row].any():
            table.loc[row, table.columns[0]] = status[row] if status[row] != TRAINED else "-"
    return table


def _digits(unit: str) -> int:
    return 2 if unit == "mm" else 1


def _interval(number: pd.Series) -> str:
    if pd.isna(number.value):
        return ""
    digits = _digits(number.unit)
    shown = f"{number.value:.{digits}f}"
    if pd.notna(number.low):
        shown += f" [{number.low:.{digits}f}, {number.high:.{digits}f}]"
    return shown + (f" ± {number.sd_seeds:.{digits}f}" if pd.notna(number.sd_seeds) else "")


def _beside_paper(number: pd.Series) -> str:
    digits = 2 if number.unit == "Mi" else 1
    ours = f"{round(number.difference, digits) + 0.0:+.{digits}f} " if pd.notna(number.difference) else ""     # no -0.00
    return f"{ours}({number.paper:.{digits}f})"


def _plain(number: pd.Series) -> str:
    return "" if pd.isna(number.value) else f"{number.value:.2f}"


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"
