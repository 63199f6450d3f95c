"""Fig. 8: a scan after each step of `magunet.prepare`, as thumbnails with their shape and spacing."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from compendium.figures.page import LINE, MARGIN, PRINT_WIDTH, broken, edge_letters, number, page, panel, scale_bar, write
from compendium.figures.planes import BONE_WINDOW, TRUTH_COLOUR, central_slices, pixel_size, plane
from magunet.base.profiles import Settings
from magunet.prepare import HU_WINDOW, clip_and_scale, pad_to_square, prepare, resize
from magunet.volume import Volume, orientation, reorient

VIEWS = ("axial", "coronal")
ARROW, GAP = 4.5, 1.5
"""Between steps, and between the thumbnails of a step, mm on the page."""


@dataclass(frozen=True)
class Step:
    """What a step leaves: image (d, h, w), in HU or scaled to [0, 1]; mask of that shape; spacing in mm (z, y, x).

    above: mm of slices at the head end that the step took away.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray
    spacing: tuple[float, float, float]
    unit: str = " HU"
    above: float = 0.0


def preparation_steps(scan: Volume, mask: Volume, settings: Settings) -> list[Step]:
    """The scan and what each step of `magunet.prepare.prepare` makes of it; the last is what training gets.

    Any orientation. Raises InputError as ``prepare`` does.
    """
    prepared, frame = prepare(scan, mask, settings)
    lps, target = reorient(scan, "LPS"), reorient(mask, "LPS")
    square, _ = pad_to_square(lps.array, lps.spacing, HU_WINDOW[0])
    whole, _ = pad_to_square(target.array != 0, lps.spacing)
    small, chosen = resize(square, frame.resized_shape), resize(whole, frame.resized_shape) > 0.5
    first, stop = frame.kept
    return [Step(f"as stored ({orientation(scan)})", scan.array, mask.array != 0, scan.spacing),
            Step("turned to LPS", lps.array, target.array != 0, lps.spacing),
            Step("padded to a square", square, whole, lps.spacing),
            Step("resized, slices spaced", small, chosen, prepared.spacing),
            Step("clipped, scaled", clip_and_scale(small), chosen, prepared.spacing, ""),
            Step("slices at the joints", clip_and_scale(small)[first:stop], chosen[first:stop], prepared.spacing, "",
                 (len(small) - stop) * prepared.spacing[0])]


def preprocessing_flow(scan: Volume, mask: Volume, settings: Settings) -> Figure:
    """Fig. 8: after each step of preparation an axial and a coronal thumbnail with the target's outline, all at one scale.

    Under them stand shape, spacing and range of values. Any orientation; the first thumbnails show the array as it is
    stored. Raises InputError as `prepare` does.
    """
    steps = preparation_steps(scan, mask, settings)
    width = (PRINT_WIDTH - 2 * MARGIN - ARROW * (len(steps) - 1)) / len(steps)
    sizes = {name: [np.multiply(plane(s.image, name, 0).shape, pixel_size(s.spacing, name)) for s in steps] for name in VIEWS}
    scale = width / max(size[1] for name in VIEWS for size in sizes[name])                   # page mm per mm of the patient
    tops = {"axial": MARGIN + 2 * LINE}
    tops["coronal"] = tops["axial"] + scale * max(size[0] for size in sizes["axial"]) + GAP
    bottom = tops["coronal"] + scale * max(size[0] for size in sizes["coronal"])
    low, high = map(number, BONE_WINDOW)
    text = broken("Axial and coronal slices through the target (outlined). Shape and spacing: slices × rows × columns. "
                  f"All are shown from {low} to {high} HU, or to what that is after scaling.", PRINT_WIDTH - 2 * MARGIN)
    figure, on_page = page(bottom + (4 + len(text)) * LINE + 2 * MARGIN)
    for column, step in enumerate(steps):
        left = MARGIN + column * (width + ARROW)
        write(on_page, left + width / 2, MARGIN - 0.5, broken(step.name, width), ha="center")
        for name in VIEWS:
            height, across = sizes[name][column] * scale
            top = tops[name] + (step.above * scale if name == "coronal" else 0)
            axes = panel(figure, left + (width - across) / 2, top, across, height, f"{step.name}: {name}")
            _thumbnail(axes, step, name)
            if column == 1:
                edge_letters(axes, name)
        if column:
            y = tops["axial"] + sizes["axial"][column][0] * scale / 2
            on_page.add_patch(FancyArrowPatch((left - ARROW + 0.5, y), (left - 0.5, y), arrowstyle="-|>", mutation_scale=7,
                                              color="black", linewidth=0.9, shrinkA=0, shrinkB=0))
        low, high = (number(round(float(value))) for value in (step.image.min(), step.image.max()))
        write(on_page, left + width / 2, bottom + 0.5, [" × ".join(map(str, step.image.shape)),
              " × ".join(f"{s:#.2g}" for s in step.spacing) + " mm", f"{low} to {high}{step.unit}"], ha="center")
    scale_bar(on_page, MARGIN, bottom + 0.5 + 3 * LINE, 1 / scale, width)
    write(on_page, MARGIN, bottom + MARGIN + 4 * LINE, text)
    return figure


def _thumbnail(axes: Axes, step: Step, name: str) -> None:
    index = dict(zip(("axial", "coronal"), central_slices(step.mask, step.mask.shape)))[name]
    (height, width), picture = pixel_size(step.spacing, name), plane(step.image, name, index)
    rows, columns = picture.shape
    low, high = BONE_WINDOW if step.unit else clip_and_scale(np.array(BONE_WINDOW))
    axes.imshow(picture, cmap="gray", vmin=low, vmax=high, extent=(0, columns * width, rows * height, 0))
    outline = plane(step.mask, name, index)
    axes.contour((np.arange(columns) + 0.5) * width, (np.arange(rows) + 0.5) * height, outline, [0.5], colors=TRUTH_COLOUR,
                 linewidths=0.7)
