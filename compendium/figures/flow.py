"""Fig. 8: a scan after each step of `magunet.prepare`, as thumbnails with their shape and spacing."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from compendium.figures.page import LINE, MARGIN, PRINT_WIDTH, SMALLEST_FONT, arrow, broken, number, page, panel, write
from compendium.figures.planes import (
    BONE_WINDOW,
    TRUTH_COLOUR,
    central_slices,
    draw_slice,
    edge_letters,
    pixel_size,
    plane,
    scale_bar,
)
from magunet.base.profiles import Settings
from magunet.prepare import HU_WINDOW, clip_and_scale, pad_to_square, prepare, resize
from magunet.volume import Volume, orientation, reorient

ARROW = 4.5
"""Length of an arrow from step to step, mm on the page."""
GAP = 1.5
"""Between the two thumbnails of a step, mm on the page."""


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

    def views(self) -> dict[str, tuple[np.ndarray, np.ndarray, tuple[float, float]]]:
        """Axial and coronal slice with most of the mask: image, mask, and height and width of a pixel in mm."""
        slices = zip(("axial", "coronal"), central_slices(self.mask, self.mask.shape))
        return {name: (plane(self.image, name, i), plane(self.mask, name, i), pixel_size(self.spacing, name))
                for name, i in slices}


def preparation_steps(scan: Volume, mask: Volume, settings: Settings) -> list[Step]:
    """The scan and what each step of `magunet.prepare.prepare` makes of it; the last is what training gets.

    Any orientation. Raises InputError as ``prepare`` does.
    """
    prepared, frame = prepare(scan, mask, settings)
    lps, target = reorient(scan, "LPS"), reorient(mask, "LPS")
    square, _ = pad_to_square(lps.array, lps.spacing, HU_WINDOW[0])
    whole, _ = pad_to_square(target.array != 0, lps.spacing)
    small, joints = resize(square, frame.resized_shape), resize(whole, frame.resized_shape) > 0.5
    first, stop = frame.kept
    return [Step(f"as stored ({orientation(scan)})", scan.array, mask.array != 0, scan.spacing),
            Step("turned to LPS", lps.array, target.array != 0, lps.spacing),
            Step("padded to a square", square, whole, lps.spacing),
            Step("resized, slices spaced", small, joints, prepared.spacing),
            Step("clipped, scaled", clip_and_scale(small), joints, prepared.spacing, ""),
            Step("slices at the joints", clip_and_scale(small)[first:stop], joints[first:stop], prepared.spacing, "",
                 (len(small) - stop) * prepared.spacing[0])]


def preprocessing_flow(scan: Volume, mask: Volume, settings: Settings) -> Figure:
    """Fig. 8: after each step of preparation an axial and a coronal thumbnail with the target's outline, at one scale.

    Under them stand shape, spacing and range of values. Any orientation; the first thumbnails show the array as it
    is stored. Raises InputError as `prepare` does.
    """
    steps = preparation_steps(scan, mask, settings)
    width = (PRINT_WIDTH - 2 * MARGIN - ARROW * (len(steps) - 1)) / len(steps)
    sizes = {name: [np.multiply(step.views()[name][0].shape, step.views()[name][2]) for step in steps]
             for name in ("axial", "coronal")}
    scale = width / max(size[1] for views in sizes.values() for size in views)      # page mm per mm of the patient
    tops = {"axial": MARGIN + 2 * LINE}
    tops["coronal"] = tops["axial"] + scale * max(size[0] for size in sizes["axial"]) + GAP
    bottom = tops["coronal"] + scale * max(size[0] for size in sizes["coronal"])
    text = broken("Axial and coronal slices through the target (outlined). Shape and spacing: slices × rows × columns. All "
                  f"are shown from {' to '.join(map(number, BONE_WINDOW))} HU, or to what that is after scaling.",
                  PRINT_WIDTH - 2 * MARGIN)
    figure, paper = page(bottom + (4 + len(text)) * LINE + 2 * MARGIN)
    for column, step in enumerate(steps):
        left = MARGIN + column * (width + ARROW)
        middle = left + width / 2
        window = BONE_WINDOW if step.unit else tuple(clip_and_scale(np.array(BONE_WINDOW)))
        write(paper, middle, MARGIN - 0.5, broken(step.name, width), "center")
        for name, (picture, outline, pixel) in step.views().items():
            height, across = sizes[name][column] * scale
            top = tops[name] + (step.above * scale if name == "coronal" else 0)
            axes = panel(figure, middle - across / 2, top, across, height, f"{step.name}: {name}")
            draw_slice(axes, picture, pixel, window, {TRUTH_COLOUR: outline}, 0.7)
            if column == 1:
                edge_letters(axes, name, SMALLEST_FONT, 1.5)
        if column:
            y = tops["axial"] + sizes["axial"][column][0] * scale / 2
            arrow(paper, [(left - ARROW + 0.5, y), (left - 0.5, y)])
        span = " to ".join(number(round(float(value))) for value in (step.image.min(), step.image.max()))
        write(paper, middle, bottom + 0.5, [" × ".join(map(str, step.image.shape)),
              " × ".join(f"{s:#.2g}" for s in step.spacing) + " mm", f"{span}{step.unit}"], "center")
    scale_bar(paper, MARGIN, bottom + 0.5 + 3 * LINE, 1 / scale, width)
    write(paper, MARGIN, bottom + MARGIN + 4 * LINE, text)
    return figure
