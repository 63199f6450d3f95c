"""Fig. 8: a scan after each step of `magunet.prepare`, as thumbnails with their shape and spacing."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from compendium.figures import planes
from compendium.figures.page import LINE, MARGIN, WIDTH, broken, number, page, panel, write
from magunet.base.profiles import Settings
from magunet.prepare import HU_WINDOW, clip_and_scale, pad_to_square, prepare, resize
from magunet.volume import Volume, orientation, reorient

VIEWS = ("axial", "coronal")
"""Of each step, one above the other."""
ARROW = 4.5
"""Length of an arrow from step to step, mm on the page."""


@dataclass(frozen=True)
class Step:
    """What a step leaves; unit of the image; above: mm of slices at the head end that the step took away."""

    name: str
    image: np.ndarray
    mask: np.ndarray
    spacing: tuple[float, float, float]
    unit: str = " HU"
    above: float = 0.0

    def slices(self) -> list[tuple[np.ndarray, np.ndarray, tuple[float, float]]]:
        """Of each view the slice with most of the mask: image, mask, height and width of a pixel in mm."""
        indices = planes.central_slices(self.mask, self.mask.shape)
        return [(planes.plane(self.image, name, index), planes.plane(self.mask, name, index),
                 planes.pixel_size(self.spacing, name)) for name, index in zip(VIEWS, indices)]


def preparation_steps(scan: Volume, mask: Volume, settings: Settings) -> list[Step]:
    """The scan, of any orientation, and what each step of `magunet.prepare.prepare` makes of it."""
    prepared, frame = prepare(scan, mask, settings)
    lps, target = reorient(scan, "LPS"), reorient(mask, "LPS")
    square, _ = pad_to_square(lps.array, lps.spacing, HU_WINDOW[0])
    whole, _ = pad_to_square(target.array != 0, lps.spacing)
    small, joints = resize(square, frame.resized_shape), resize(whole, frame.resized_shape) > 0.5
    first, stop = frame.slices
    return [Step(f"as stored ({orientation(scan)})", scan.array, mask.array != 0, scan.spacing),
            Step("turned to LPS", lps.array, target.array != 0, lps.spacing),
            Step("padded to a square", square, whole, lps.spacing),
            Step("resized, slices spaced", small, joints, prepared.spacing),
            Step("clipped, scaled", clip_and_scale(small), joints, prepared.spacing, ""),
            Step("slices at the joints", clip_and_scale(small[first:stop]), joints[first:stop],
                 prepared.spacing, "", (len(small) - stop) * prepared.spacing[0])]


def preprocessing_flow(scan: Volume, target: Volume, settings: Settings) -> Figure:
    """Fig. 8: after each step an axial and a coronal thumbnail, at one scale, and shape, spacing and range.

    The first thumbnails show the array as it is stored. Raises InputError as `magunet.prepare.prepare` does.
    """
    steps = preparation_steps(scan, target, settings)
    cells = [step.slices() for step in steps]
    sizes = np.array([[np.multiply(image.shape, pixel) for image, _, pixel in cell] for cell in cells])
    width = (WIDTH - ARROW * (len(steps) - 1)) / len(steps)
    scale = width / sizes[..., 1].max()                         # mm on the page per mm of the patient
    sizes *= scale                                              # (steps, views, height and width)
    heights = sizes[..., 0].max(axis=0)
    tops = MARGIN + 2 * LINE, 2 * MARGIN + 2 * LINE + heights[0]
    bottom = tops[1] + heights[1]
    limits = " to ".join(map(number, planes.BONE_WINDOW))
    caption = ("Axial and coronal slices through the target (outlined). Shape and spacing: slices × rows × "
               f"columns. All are shown from {limits} HU, or to what that is after scaling.")
    figure, sheet = page(bottom + MARGIN + 4 * LINE, caption)
    for column, (step, cell) in enumerate(zip(steps, cells)):
        left = MARGIN + column * (width + ARROW)
        middle = left + width / 2
        write(sheet, middle, MARGIN - 0.5, broken(step.name, width), "center")
        window = planes.BONE_WINDOW if step.unit else clip_and_scale(np.array(planes.BONE_WINDOW))
        for row, (image, mask, pixel) in enumerate(cell):
            height, across = sizes[column, row]
            top = tops[row] + (step.above * scale if VIEWS[row] == "coronal" else 0)
            axes = panel(figure, middle - across / 2, top, across, height, f"{step.name}: {VIEWS[row]}")
            planes.draw_slice(axes, image, pixel, window, {planes.TRUTH_COLOUR: mask}, 0.7)
            if column == 1:
                planes.edge_letters(axes, VIEWS[row])
        if column:
            y = tops[0] + sizes[column, 0, 0] / 2
            sheet.annotate("", (left, y), (left - ARROW, y), arrowprops={"arrowstyle": "-|>", "fc": "k"})
        span = " to ".join(number(round(float(value))) for value in (step.image.min(), step.image.max()))
        write(sheet, middle, bottom + 0.5, [" × ".join(map(str, step.image.shape)),
              " × ".join(f"{s:#.2g}" for s in step.spacing) + " mm", f"{span}{step.unit}"], "center")
    planes.scale_bar(sheet, MARGIN, bottom + 0.5 + 3 * LINE, 1 / scale, width)
    return figure
