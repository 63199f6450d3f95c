"""Fig. 8: a scan after each step of `magunet.prepare`, as thumbnails with their shape and spacing."""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from compendium.figures import planes
from compendium.figures.page import LINE, MARGIN, WIDTH, broken, page, panel, span, write
from magunet.base.profiles import Settings
from magunet.prepare import HALF, HU_WINDOW, clip_and_scale, prepare, training_region
from magunet.region import cut, whole_planes
from magunet.volume import Volume, orientation, reorient


class Step(NamedTuple):
    """What a step leaves; unit of the image; above: mm of slices at the head end that the step took away."""

    name: str
    image: np.ndarray
    mask: np.ndarray
    spacing: tuple[float, float, float]
    unit: str = " HU"
    above: float = 0.0


def preparation_steps(scan: Volume, mask: Volume, settings: Settings) -> list[Step]:
    """The scan, of any orientation, and what each step of `magunet.prepare.prepare` makes of it."""
    prepared, region = prepare(scan, mask, settings), whole_planes(scan, settings)
    lps, target = reorient(scan, "LPS"), reorient(mask, "LPS")
    small, joints = cut(scan, region, HU_WINDOW[0]), cut(mask, region) > HALF
    rest = training_region(mask, settings)
    above = region.first[0] - rest.first[0] + (region.shape[0] - rest.shape[0]) * region.voxel[0]
    return [Step(f"as stored ({orientation(scan)})", scan.array, mask.array != 0, scan.spacing),
            Step("turned to LPS", lps.array, target.array != 0, lps.spacing),
            Step("resized to a square, slices spaced", small, joints, prepared.spacing),
            Step("clipped, scaled", clip_and_scale(small), joints, prepared.spacing, ""),
            Step("slices at the joints", prepared.image, prepared.mask != 0, prepared.spacing, "", above)]


def preprocessing_flow(scan: Volume, target: Volume, settings: Settings) -> Figure:
    """Fig. 8: after each step an axial and a coronal thumbnail, at one scale, and shape, spacing and range.

    The first thumbnails show the array as it is stored. Raises InputError as `magunet.prepare.prepare` does.
    """
    steps, arrow = preparation_steps(scan, target, settings), 4.5       # from step to step, mm on the page
    size = np.array([np.multiply(step.image.shape, step.spacing) for step in steps])    # mm: z, y, x
    width = (WIDTH - arrow * (len(steps) - 1)) / len(steps)
    scale = width / size[:, 2].max()                            # mm on the page per mm of the patient
    deep, high, _ = size.max(axis=0) * scale
    tops = {"axial": MARGIN + 2 * LINE, "coronal": 2 * MARGIN + 2 * LINE + high}
    bottom = tops["coronal"] + deep
    caption = ("Axial and coronal slices through the target (outlined). Shape and spacing: slices × rows × "
               f"columns. Window {span(*planes.BONE_WINDOW)} HU, or what that is after scaling.")
    figure, sheet = page(bottom + MARGIN + 4 * LINE, caption)
    for column, step in enumerate(steps):
        left = MARGIN + column * (width + arrow)
        middle = left + width / 2
        write(sheet, middle, MARGIN - 0.5, broken(step.name, width), "center")
        window = planes.BONE_WINDOW if step.unit else clip_and_scale(np.array(planes.BONE_WINDOW))
        for view, index in zip(tops, planes.central_slices(step.mask, step.mask.shape)):
            image, mask = (planes.plane(array, view, index) for array in (step.image, step.mask))
            pixel = planes.pixel_size(step.spacing, view)
            height, across = np.multiply(image.shape, pixel) * scale
            top = tops[view] + (step.above * scale if view == "coronal" else 0)
            axes = panel(figure, middle - across / 2, top, across, height, f"{step.name}: {view}")
            planes.draw_slice(axes, image, pixel, window, {planes.TRUTH_COLOUR: mask}, 0.7)
            if column == 1:
                planes.edge_letters(axes, planes.PLANES[view])
        if column:
            y = tops["axial"] + size[column, 1] * scale / 2
            sheet.annotate("", (left, y), (left - arrow, y), arrowprops={"arrowstyle": "-|>", "fc": "k"})
        write(sheet, middle, bottom + 0.5, [
            " × ".join(map(str, step.image.shape)), " × ".join(f"{s:#.2g}" for s in step.spacing) + " mm",
            span(step.image.min(), step.image.max()) + step.unit], "center")
    planes.scale_bar(sheet, MARGIN, bottom + 0.5 + 3 * LINE, 1 / scale, width)
    return figure
