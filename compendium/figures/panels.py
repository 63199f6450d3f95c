"""Figs. 9 and 10: what networks get wrong. Rows are cases; columns are the CT, the truth and the networks.

Which cases stand there follows from a rule over the scores, which is written under the picture. Lengths on the page
are in mm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from compendium.figures.page import (
    LINE,
    MARGIN,
    PRINT_WIDTH,
    SMALLEST_FONT,
    broken,
    number,
    page,
    panel,
    text_width,
    write,
)
from compendium.figures.planes import (
    AGREEMENT_COLOURS,
    BONE_WINDOW,
    agreement,
    central_slices,
    edge_letters,
    scale_bar,
)
from compendium.scores import score_run
from magunet.base.errors import InputError
from magunet.base.profiles import Settings
from magunet.cohort import Cohort
from magunet.runs import data_hash, is_finished, run_folder
from magunet.volume import Volume, read_volume, reorient, same_geometry

CROP_MARGIN = 15.0
"""From the joints to the edge of a panel, mm in the patient."""
LETTERS = 4.0
"""Width of the letters a, b, ... before the rows."""
SPACE = 0.8
"""Between panels."""
FINER = 6
"""Points a pixel of the truth's outline, which so follows the edges of the pixels."""
RULE = "Cases at evenly spaced ranks of the mean Dice over the networks shown, lowest first"
"""How cases are chosen where there are scores."""
NO_SCORES = "Cases first by name, for no network has a finished run"
"""How cases are chosen where there are none."""


@dataclass(frozen=True)
class ComparedCase:
    """A scan, the true mask, and the mask of every trained network (name -> mask), on one grid; any orientation."""

    name: str
    scan: Volume
    truth: Volume
    masks: Mapping[str, Volume]


@dataclass(frozen=True)
class Crop:
    """Where a case is cut: the slice, and first and last edge in x and y, mm from the corner of the LPS array."""

    index: int
    x: tuple[float, float]
    y: tuple[float, float]


def quantile_cases(scores: pd.DataFrame, count: int = 4) -> list[str]:
    """Cases at ``count`` evenly spaced ranks of their mean Dice over networks, lowest first; all if there are fewer.

    So the worst and the best are among them, and nobody chooses. scores: columns network, case and dice. Raises
    InputError when there are none, or a network lacks a case, for then the means do not compare.
    """
    if scores.empty:
        raise InputError("there are no scores to choose cases by; score a run first")
    table = scores.pivot_table(index="case", columns="network", values="dice", aggfunc="mean")
    if table.isna().any(axis=None):
        case, network = table.isna().stack().idxmax()
        raise InputError(f"{network} has no Dice for {case}; score all networks on the same cases")
    order = sorted(table.index, key=lambda case: (table.loc[case].mean(), case))
    return [order[round(rank)] for rank in np.linspace(0, len(order) - 1, min(count, len(order)))]


def finished_runs(networks: Sequence[str], settings: Settings, cohort: Cohort) -> dict[str, Path]:
    """Network -> its finished run with the profile's first seed, where there is one. Trains nothing."""
    runs, data = {}, data_hash(cohort, settings)
    for network in networks:
        try:
            folder = run_folder(network, settings, settings.seeds[0], data)
        except InputError:                                          # a row of the paper that is not built yet
            continue
        if is_finished(folder):
            runs[network] = folder
    return runs


def compared_cases(runs: Mapping[str, Path], cohort: Cohort, count: int = 4,
                   ) -> tuple[list[ComparedCase], pd.DataFrame, str]:
    """Validation cases to compare, the scores of the runs (network -> folder), and the rule that chose the cases.

    Runs that were not scored yet are scored.
    """
    tables = [score_run(run, cohort) for run in runs.values()]
    scores = pd.concat(tables) if tables else pd.DataFrame(columns=["network", "case", "dice"])
    names, rule = (quantile_cases(scores, count), RULE) if tables else (sorted(cohort.val)[:count], NO_SCORES)
    files = [cohort.cases[name] for name in names]
    return [ComparedCase(case.name, read_volume(case.image), read_volume(case.label),
                         {network: read_volume(run / "masks" / f"{case.name}.nii.gz") for network, run in runs.items()})
            for case in files], scores, rule


def comparison(cases: Sequence[ComparedCase], columns: Mapping[str, str], scores: pd.DataFrame, rule: str,
               window: tuple[float, float] = BONE_WINDOW) -> Figure:
    """Rows a, b, ...: the cases; columns: CT, truth, and each network (name -> heading), all at one scale and window.

    Axial slices from below through the largest true area, cropped to both joints. Under a panel stands the Dice of
    the whole scan, from ``scores`` (columns network, case, dice); a network without a mask has an empty panel, "not
    trained". ``rule`` says how the cases were chosen. Raises InputError for no case, an empty truth, masks off the
    scan's grid, or a mask that has not exactly one score.
    """
    if not cases:
        raise InputError("there is no case to show")
    cases = [_in_lps(case) for case in cases]
    crops = _crops([case.truth for case in cases])
    width = (PRINT_WIDTH - 2 * MARGIN - LETTERS - SPACE * (1 + len(columns))) / (2 + len(columns))
    height = width * np.ptp(crops[0].y) / np.ptp(crops[0].x)
    names = "; ".join(f"{chr(97 + i)}, {case.name}" for i, case in enumerate(cases))
    text = broken(f"{names}. {rule}. Axial slice with the largest true area; white line: the truth. Dice of the whole "
                  f"scan. Window {' to '.join(map(number, window))} HU.", PRINT_WIDTH - 2 * MARGIN)
    headings = [broken(heading, width) for heading in ("CT", "truth", *columns.values())]
    first = MARGIN + LINE * max(map(len, headings))                     # top of the first row
    pitch = height + LINE + 2 * SPACE
    bottom = first + pitch * len(cases)
    figure, paper = page(bottom + 2 * SPACE + LINE * (len(text) + 1) + MARGIN)
    lefts = [MARGIN + LETTERS + column * (width + SPACE) for column in range(len(headings))]
    for left, heading in zip(lefts, headings):
        write(paper, left + width / 2, first - LINE * len(heading) - SPACE / 2, heading, "center")
    for row, (case, crop) in enumerate(zip(cases, crops)):
        top = first + row * pitch
        under = top + height + SPACE / 2
        write(paper, MARGIN, top, chr(97 + row), weight="bold")
        for left, name in zip(lefts, ("CT", "truth", *columns)):
            axes = panel(figure, left, top, width, height, f"{case.name}: {name}")
            mask = case.truth if name == "truth" else case.masks.get(name)
            if mask is None and name != "CT":
                axes.set_facecolor("0.93")
                axes.text(0.5, 0.5, "not\ntrained", transform=axes.transAxes, fontsize=SMALLEST_FONT, ha="center",
                          va="center")
                continue
            _draw(axes, case, crop, window, mask)
            if name == "CT":
                edge_letters(axes, "axial", SMALLEST_FONT, 1.5)
                scale_bar(paper, left, under, np.ptp(crop.x) / width, width)
            elif name != "truth":
                write(paper, left + width / 2, under, f"Dice {_dice(scores, name, case.name):.2f}", "center")
    left = lefts[0]
    for name, colour in AGREEMENT_COLOURS.items():
        paper.add_patch(Rectangle((left, bottom + 0.4), 4, LINE - 0.8, facecolor=colour, edgecolor="black", linewidth=0.5))
        write(paper, left + 5, bottom, name)
        left += 11 + text_width(name)
    write(paper, MARGIN, bottom + SPACE + LINE, text)
    return figure


def _in_lps(case: ComparedCase) -> ComparedCase:
    for name, mask in (("truth", case.truth), *case.masks.items()):
        if not same_geometry(case.scan, mask):
            raise InputError(f"{case.name}: the mask of {name} lies on another grid than the scan")
    if not case.truth.array.any():
        raise InputError(f"{case.name}: the true mask is empty, so there is no joint to show")
    return replace(case, scan=reorient(case.scan, "LPS"), truth=reorient(case.truth, "LPS"),
                   masks={network: reorient(mask, "LPS") for network, mask in case.masks.items()})


def _crops(truths: Sequence[Volume]) -> list[Crop]:
    """Around the joints of each case (LPS), all as large as the largest needs, in mm."""
    boxes = []                                                          # (cases, 2, 2): x and y, first and last edge
    for truth in truths:
        lines = (np.flatnonzero(truth.array.any(axis=axes)) for axes in ((0, 1), (0, 2)))
        boxes.append([(line[0] * step, (line[-1] + 1) * step) for line, step in zip(lines, truth.spacing[:0:-1])])
    half = np.ptp(boxes, axis=2).max(axis=0) / 2 + CROP_MARGIN
    return [Crop(central_slices(truth.array, truth.array.shape)[0], (x - half[0], x + half[0]), (y - half[1], y + half[1]))
            for truth, (x, y) in zip(truths, np.mean(boxes, axis=2))]


def _draw(axes: Axes, case: ComparedCase, crop: Crop, window: tuple[float, float], mask: Volume | None) -> None:
    """The CT within the crop, black outside the scan, and over it how a mask agrees with the truth."""
    _, height, width = case.scan.spacing
    _, rows, columns = case.scan.array.shape
    (x0, x1), (y0, y1) = ((max(0, int(low // step)), min(n, int(-(-high // step)))) for (low, high), step, n in
                          ((crop.x, width, columns), (crop.y, height, rows)))
    cut = crop.index, slice(y0, y1), slice(x0, x1)
    extent = x0 * width, x1 * width, y1 * height, y0 * height
    axes.set_facecolor("black")
    axes.imshow(case.scan.array[cut], cmap="gray", vmin=window[0], vmax=window[1], extent=extent)
    if mask is not None:
        palette = np.array([(0, 0, 0, 0), *map(to_rgba, AGREEMENT_COLOURS.values())])
        axes.imshow(palette[agreement(mask.array[cut], case.truth.array[cut])], extent=extent, interpolation="nearest")
        fine = np.kron(case.truth.array[cut] != 0, np.ones((FINER, FINER)))
        y, x = (((np.arange(n) + 0.5) / FINER + start) * step
                for n, start, step in zip(fine.shape, (y0, x0), (height, width)))
        axes.contour(x, y, fine, [0.5], colors="white", linewidths=0.3)
    axes.set(xlim=crop.x, ylim=crop.y[::-1], aspect="equal")


def _dice(scores: pd.DataFrame, network: str, case: str) -> float:
    values = scores.loc[(scores["network"] == network) & (scores["case"] == case), "dice"]
    if len(values) != 1:
        raise InputError(f"{network} has {len(values)} scores for {case}; one mask needs one")
    return float(values.iloc[0])
