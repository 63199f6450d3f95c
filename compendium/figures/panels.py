"""Figs. 9 and 10: what networks get wrong in cases that a rule over the scores chooses. Lengths in mm."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from compendium.figures import planes
from compendium.figures.page import LINE, MARGIN, SMALLEST_FONT, WIDTH, broken, page, panel, span, write
from compendium.scores import score_run
from magunet.base.errors import InputError
from magunet.cohort import Cohort
from magunet.volume import Volume, bounding_box, read_volume, reorient, same_geometry

CROP_MARGIN = 15.0
"""From the joints to the edge of a panel, mm in the patient."""


class ComparedCase(NamedTuple):
    """A scan, the true mask, and the mask of each trained network, on one grid of any orientation."""

    name: str
    scan: Volume
    truth: Volume
    masks: Mapping[str, Volume]


def quantile_cases(scores: pd.DataFrame, count: int = 4) -> list[str]:
    """Cases at ``count`` evenly spaced ranks of their mean Dice over networks, lowest first; at most all.

    So the worst and the best are among them, and nobody chooses. scores: columns network, case and dice.
    Raises InputError when a network lacks a case, for then the means do not compare.
    """
    table = scores.pivot_table(index="case", columns="network", values="dice")
    if table.isna().any(axis=None):
        case, network = table.isna().stack().idxmax()
        raise InputError(f"{network} has no Dice for {case}; score all networks on the same cases")
    order = sorted(table.index, key=lambda case: (table.loc[case].mean(), case))
    return [order[round(rank)] for rank in np.linspace(0, len(order) - 1, min(count, len(order)))]


def compared_cases(runs: Mapping[str, Path], cohort: Cohort, count: int = 4,
                   ) -> tuple[list[ComparedCase], pd.DataFrame, str]:
    """Validation cases, scores of runs (network -> folder), scored if need be, and the rule that chose."""
    scores = pd.DataFrame(columns=["network", "case", "dice"])
    names, rule = sorted(cohort.val)[:count], "Cases first by name, for no network has a finished run"
    if runs:
        scores = pd.concat([score_run(run, cohort) for run in runs.values()])
        names = quantile_cases(scores, count)
        rule = "Cases at evenly spaced ranks of the mean Dice over the networks shown, lowest first"
    cases = []
    for case in (cohort.cases[name] for name in names):
        masks = {network: read_volume(run / "masks" / f"{case.name}.nii.gz") for network, run in runs.items()}
        cases.append(ComparedCase(case.name, read_volume(case.image), read_volume(case.label), masks))
    return cases, scores, rule


def comparison(cases: Sequence[ComparedCase], columns: Mapping[str, str], scores: pd.DataFrame, rule: str,
               window: tuple[float, float] = planes.BONE_WINDOW) -> Figure:
    """Rows a, b, ...: the cases; columns: CT, truth, and networks (name -> heading); one scale and window.

    Axial slices from below through the largest true area, cropped to both joints. Under a panel stands the
    Dice of the whole scan, from ``scores`` (columns network, case, dice); a network without a mask has an
    empty panel, "not trained". ``rule`` says how the cases were chosen. Raises InputError for no case, no
    truth, masks off the scan's grid, or a mask that has not exactly one score.
    """
    if not cases:
        raise InputError("there is no case to show")
    pictures, crops = _in_lps(cases)
    letters, space = 4.0, 0.8                   # width of a, b, ... before the rows; between panels
    width = (WIDTH - letters - space * (1 + len(columns))) / (2 + len(columns))
    height = width * np.ptp(crops[0][1]) / np.ptp(crops[0][0])
    headings = [broken(heading, width) for heading in ("CT", "truth", *columns.values())]
    lefts = [MARGIN + letters + column * (width + space) for column in range(len(headings))]
    first = MARGIN + LINE * max(map(len, headings))                     # top of the first row
    pitch = height + LINE + 2 * space
    bottom = first + pitch * len(cases)
    names = "; ".join(f"{chr(97 + i)}, {case.name}" for i, case in enumerate(cases))
    caption = (f"{names}. {rule}. Axial slice with the largest true area; white line: the truth. Dice of the "
               f"whole scan. Window {span(*window)} HU.")
    figure, sheet = page(bottom + space + LINE, caption)
    for left, heading in zip(lefts, headings):
        write(sheet, left + width / 2, first - LINE * len(heading) - space / 2, heading, "center")
    for row, (case, volumes, crop) in enumerate(zip(cases, pictures, crops)):
        top = first + row * pitch
        under = top + height + space / 2
        write(sheet, MARGIN, top, [chr(97 + row)], weight="bold")
        for left, name in zip(lefts, ("CT", "truth", *columns)):
            axes = panel(figure, left, top, width, height, f"{case.name}: {name}")
            if name not in volumes:
                axes.set_facecolor("0.93")
                axes.text(0.5, 0.5, "not\ntrained", fontsize=SMALLEST_FONT, ha="center", va="center")
                continue
            _draw(axes, volumes, name, crop, window)
            if name == "CT":
                planes.edge_letters(axes, planes.PLANES["axial"])
                planes.scale_bar(sheet, left, under, np.ptp(crop[0]) / width, width)
            elif name != "truth":
                dice = scores.loc[(scores["network"] == name) & (scores["case"] == case.name), "dice"]
                if len(dice) != 1:
                    raise InputError(f"{name} has {len(dice)} scores for {case.name}; one mask needs one")
                write(sheet, left + width / 2, under, [f"Dice {dice.item():.2f}"], "center")
    for left, (name, colour) in zip(lefts, planes.AGREEMENT_COLOURS.items()):
        sheet.add_patch(Rectangle((left, bottom + 0.4), 4, LINE - 0.8, fc=colour, ec="black", lw=0.5))
        write(sheet, left + 5, bottom, [name])
    return figure


def _in_lps(cases: Sequence[ComparedCase]) -> tuple[list[dict[str, Volume]], np.ndarray]:
    """Each case's column -> volume; and first and last edge (case, x and y, 2) around its joints in mm."""
    pictures, boxes = [], []
    for case in cases:
        volumes = {"CT": case.scan, "truth": case.truth, **case.masks}
        if others := [name for name, volume in volumes.items() if not same_geometry(case.scan, volume)]:
            raise InputError(f"{case.name}: the mask of {others[0]} lies on another grid than the scan")
        if not case.truth.array.any():
            raise InputError(f"{case.name}: the true mask is empty, so there is no joint to show")
        pictures.append({name: reorient(volume, "LPS") for name, volume in volumes.items()})
        places = zip(bounding_box(pictures[-1]["truth"].array), pictures[-1]["truth"].spacing)
        boxes.append([(place.start * step, place.stop * step) for place, step in places][:0:-1])
    half = np.ptp(boxes, axis=2).max(axis=0) / 2 + CROP_MARGIN
    centre = np.mean(boxes, axis=2)
    return pictures, np.stack([centre - half, centre + half], axis=2)


def _draw(axes: Axes, volumes: Mapping[str, Volume], name: str, crop: tuple[np.ndarray, np.ndarray],
          window: tuple[float, float]) -> None:
    """The slice with most of the truth within a crop, and in all columns but the CT's how a mask agrees."""
    z = volumes["truth"].array.sum(axis=(1, 2)).argmax()
    scan, truth, mask = (volumes[column].array[z] for column in ("CT", "truth", name))
    height, width = volumes["CT"].spacing[1:]
    axes.set_facecolor("black")                                                         # outside the scan
    planes.draw_slice(axes, scan, (height, width), window, {}, 0)
    if name != "CT":
        colours = to_rgba_array(["none", *planes.AGREEMENT_COLOURS.values()])[planes.agreement(mask, truth)]
        axes.imshow(colours, extent=axes.images[0].get_extent(), interpolation="nearest")
        y, x = np.nonzero(np.diff(truth != 0, axis=0, prepend=False, append=False))     # edges of pixels
        axes.hlines(y * height, x * width, (x + 1) * width, "white", linewidth=0.3)
        y, x = np.nonzero(np.diff(truth != 0, axis=1, prepend=False, append=False))
        axes.vlines(x * width, y * height, (y + 1) * height, "white", linewidth=0.3)
    axes.set(xlim=crop[0], ylim=crop[1][::-1], aspect="equal")
