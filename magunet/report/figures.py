"""Pictures of volumes and masks, drawn the way radiologists read them.

Axial views from below (the patient's right is on the left), coronal from the front, sagittal from the
patient's left; voxels keep their proportions in millimetres.
"""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from magunet.data.volume import Volume, reorient, same_geometry
from magunet.errors import InputError
from magunet.provenance import whole_file

BONE_WINDOW = (-200.0, 1000.0)
TRUTH_COLOUR, PREDICTION_COLOUR = "#56b4e9", "#e69f00"
"""Okabe and Ito's sky blue and orange: told apart by every common colour vision, and in grey."""
PLANES = {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I"), "sagittal": ("A", "P", "S", "I")}
"""Letters at the left, right, top and bottom edge of each view."""
FIGURE_WIDTH = 12.0
"""Of three planes side by side, in inches; all views have one scale."""
SCALE_BARS_MM = (50, 20, 10, 5, 2, 1)
"""The longest that fits into a third of the view is drawn."""


def plane(array: np.ndarray, name: str, index: int) -> np.ndarray:
    """One slice of an LPS array (d, h, w), turned so that its first row is the top of the picture."""
    match name:
        case "axial":
            return array[index]
        case "coronal":
            return array[::-1, index]
        case "sagittal":
            return array[::-1, :, index]
    raise ValueError(f"no plane {name!r}")


def pixel_size(spacing: tuple[float, float, float], name: str) -> tuple[float, float]:
    """Height and width of a picture's pixel in mm; spacing is (z, y, x)."""
    z, y, x = spacing
    return {"axial": (y, x), "coronal": (z, x), "sagittal": (z, y)}[name]


def central_slices(mask: np.ndarray | None, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The slice of each axis that holds most of the mask, or the middle where there is none."""
    if mask is None or not mask.any():
        return tuple(n // 2 for n in shape)
    return tuple(int(mask.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3))


def draw_plane(axes: Axes, scan: Volume, name: str, index: int, masks: dict[str, np.ndarray],
               window: tuple[float, float] = BONE_WINDOW) -> None:
    """One view of an LPS scan with mask outlines; ``masks`` maps colour to an array on the scan's grid."""
    height, width = pixel_size(scan.spacing, name)
    picture = plane(scan.array, name, index)
    rows, columns = picture.shape
    axes.imshow(picture, cmap="gray", vmin=window[0], vmax=window[1], extent=(0, columns * width, rows * height, 0))
    x, y = (np.arange(columns) + 0.5) * width, (np.arange(rows) + 0.5) * height
    for colour, mask in masks.items():
        outline = plane(mask, name, index).astype(float)
        if outline.any():
            axes.contour(x, y, outline, [0.5], colors=colour, linewidths=1.1)
    for letter, place, inward in zip(PLANES[name], ((0, 0.5), (1, 0.5), (0.5, 1), (0.5, 0)), ((7, 0), (-7, 0), (0, -7), (0, 7))):
        axes.annotate(letter, place, inward, "axes fraction", "offset points", color="white", fontsize=8,
                      ha="center", va="center")
    x0, y0 = 0.06 * columns * width, 0.93 * rows * height
    bar = next((length for length in SCALE_BARS_MM if length < columns * width / 3), SCALE_BARS_MM[-1])
    axes.plot([x0, x0 + bar], [y0, y0], color="white", linewidth=2, solid_capstyle="butt")
    axes.text(x0 + bar / 2, y0 - 0.015 * rows * height, f"{bar} mm", color="white", fontsize=7, ha="center", va="bottom")
    axes.set(xticks=[], yticks=[], xlim=(0, columns * width), ylim=(rows * height, 0))


def three_planes(scan: Volume, prediction: Volume | None = None, truth: Volume | None = None,
                 title: str = "", truth_name: str = "truth", window: tuple[float, float] = BONE_WINDOW) -> Figure:
    """Axial, coronal and sagittal view through the joints (Fig. 7), with outlines of truth and prediction.

    Volumes may have any orientation; masks must lie on the scan's grid, else InputError.
    """
    masks = {}
    for colour, mask in ((TRUTH_COLOUR, truth), (PREDICTION_COLOUR, prediction)):
        if mask is not None:
            if not same_geometry(scan, mask):
                raise InputError("mask and scan lie on different grids; resample the mask onto the scan")
            masks[colour] = reorient(mask, "LPS").array
    scan = reorient(scan, "LPS")
    found = next((m for m in masks.values() if m.any()), None)
    indices = central_slices(found, scan.array.shape)
    sizes = [np.multiply(plane(scan.array, name, 0).shape, pixel_size(scan.spacing, name)) for name in PLANES]
    widths = [max(width, 0.3 * np.max(sizes)) for _, width in sizes]          # a thin scan keeps a visible panel
    inches = FIGURE_WIDTH / sum(widths)
    figure = Figure(figsize=(FIGURE_WIDTH, inches * max(height for height, _ in sizes) + 0.9), layout="constrained")
    all_axes = figure.subplots(1, 3, width_ratios=widths)
    for axes, name, index in zip(all_axes, PLANES, indices):
        draw_plane(axes, scan, name, index, masks, window)
        axes.set_title(f"{name}, slice {index + 1}", fontsize=9)
    names = [(truth_name, TRUTH_COLOUR, truth), ("prediction", PREDICTION_COLOUR, prediction)]
    handles = [matplotlib.lines.Line2D([], [], color=c, label=n) for n, c, mask in names if mask is not None]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def save_figure(figure: Figure, path: Path, source: str, dpi: int = 150) -> Path:
    """Write a PNG, whole or not at all, with what made it in its metadata."""
    with whole_file(path) as part:
        figure.savefig(part, dpi=dpi, metadata={"Description": source})
    return path
