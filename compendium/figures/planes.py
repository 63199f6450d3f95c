"""Pictures of volumes and masks, drawn the way radiologists read them.

Axial views from below (the patient's right is on the left), coronal from the front, sagittal from the
patient's left; voxels keep their proportions in millimetres.
"""

import itertools
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy import ndimage

from compendium.figures.page import INCH, PLANES, PRINT_WIDTH, SCALE_BARS_MM
from magunet import __version__
from magunet.base import project
from magunet.base.errors import InputError
from magunet.base.profiles import Settings
from magunet.base.provenance import content_hash, git_revision, whole_file
from magunet.volume import Volume, corners, reorient, same_geometry

BONE_WINDOW = (-200.0, 1000.0)
TRUTH_COLOUR, PREDICTION_COLOUR = "#56b4e9", "#e69f00"
"""Okabe and Ito's sky blue and orange: told apart by every common colour vision, and in grey by their lines."""
LINES = {TRUTH_COLOUR: "solid", PREDICTION_COLOUR: (0, (3, 1.2))}
"""Without a break, and dashed."""
EDGED = [withStroke(linewidth=3.5, foreground="black")]
"""White letters and lines that can be read on bone, too."""
WORLD_AXES = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}
"""Of x (to the left), y (to posterior) and z (to superior): the axis across and the axis along each view."""
FIGURE_WIDTH = PRINT_WIDTH / INCH
"""Of three planes side by side, in inches; all views have one scale."""
LARGEST_FILE, FINENESS = 2**20, (1, 0.85, 0.7, 0.5, 0.35, 0.25)
"""Bytes of a picture's file, and the shares of its dots an inch that are tried until it is no larger."""


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
            axes.contour(x, y, outline, [0.5], colors=colour, linewidths=1.1, linestyles=[LINES.get(colour, "solid")])
    letters_and_bar(axes, name, rows * height, columns * width)


def letters_and_bar(axes: Axes, name: str, height: float, width: float) -> None:
    """Marks a view that is drawn in millimetres, rows downwards from 0: directions at its edges, and a scale bar."""
    for letter, place, inward in zip(PLANES[name], ((0, 0.5), (1, 0.5), (0.5, 1), (0.5, 0)), ((7, 0), (-7, 0), (0, -7), (0, 7))):
        axes.annotate(letter, place, inward, "axes fraction", "offset points", color="white", fontsize=8,
                      ha="center", va="center", path_effects=EDGED)
    x0, y0 = 0.06 * width, 0.93 * height
    bar = next((length for length in SCALE_BARS_MM if length < width / 3), SCALE_BARS_MM[-1])
    axes.plot([x0, x0 + bar], [y0, y0], color="white", linewidth=2, solid_capstyle="butt", path_effects=EDGED)
    axes.text(x0 + bar / 2, y0 - 0.015 * height, f"{bar} mm", color="white", fontsize=7, ha="center",
              va="bottom", path_effects=EDGED)
    axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))


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
    figure = Figure(figsize=(FIGURE_WIDTH, inches * max(height for height, _ in sizes) + 0.75), layout="constrained")
    all_axes = figure.subplots(1, 3, width_ratios=widths)
    for axes, name, index in zip(all_axes, PLANES, indices):
        draw_plane(axes, scan, name, index, masks, window)
        axes.set_title(f"{name}, slice {index + 1}", fontsize=9)
    names = [(truth_name, TRUTH_COLOUR, truth), ("prediction", PREDICTION_COLOUR, prediction)]
    handles = [matplotlib.lines.Line2D([], [], color=c, linestyle=LINES[c], label=n) for n, c, mask in names if mask is not None]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=9)
    return figure


def both_grids(scan: Volume, mask: Volume, title: str = "") -> Figure:
    """A scan and a mask that lie on different grids, each where its header puts it, in mm of the patient.

    A slice of the scan through the middle of the mask (or the nearest), all of the mask seen through it, and
    the outlines of both grids. Any orientation.
    """
    boxes = [_outline(volume) for volume in (scan, mask)]
    low, high = (f(np.concatenate(boxes), axis=(0, 1)) for f in (np.min, np.max))
    low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)               # so that the outlines stand free
    voxels = np.flatnonzero(mask.array)
    voxels = voxels[::1 + len(voxels) // 5000]                                       # enough to see its shape
    inside = np.array([mask.to_world(index) for index in zip(*np.unravel_index(voxels, mask.array.shape))]).reshape(-1, 3)
    centre = inside.mean(axis=0) if len(inside) else boxes[1].mean(axis=(0, 1))
    centre = np.clip(centre, *(f(corners(scan), axis=0) for f in (np.min, np.max)))
    sizes = [(high - low)[list(axes)] for axes in WORLD_AXES.values()]
    widths = [max(width, 0.3 * np.max(sizes)) for width, _ in sizes]
    inches = FIGURE_WIDTH / sum(widths)
    figure = Figure(figsize=(FIGURE_WIDTH, inches * max(height for _, height in sizes) + 1.2), layout="constrained")
    for axes, (name, (across, along)) in zip(figure.subplots(1, 3, width_ratios=widths), WORLD_AXES.items()):
        x, y = (np.linspace(low[axis], high[axis], 400) for axis in (across, along))
        points = np.broadcast_to(centre, (400, 400, 3)).copy()
        points[..., across], points[..., along] = np.meshgrid(x, y)
        axes.imshow(_at(scan, points), cmap="gray", vmin=BONE_WINDOW[0], vmax=BONE_WINDOW[1], origin="lower",
                    extent=(low[across], high[across], low[along], high[along]))
        axes.plot(inside[:, across], inside[:, along], ".", color=PREDICTION_COLOUR, markersize=1.5, alpha=0.4)
        for box, colour in zip(boxes, (TRUTH_COLOUR, PREDICTION_COLOUR)):
            axes.plot(box[..., across].T, box[..., along].T, color=colour, linewidth=1)
        axes.set(xlabel=f"mm, {PLANES[name][0]} to {PLANES[name][1]}", aspect="equal")
        axes.set_title(name, fontsize=9)
        if name == "axial":                                                          # anterior is at the top
            axes.invert_yaxis()
    handles = [matplotlib.lines.Line2D([], [], color=c, label=n)
               for n, c in (("grid of the image", TRUTH_COLOUR), ("mask and its grid", PREDICTION_COLOUR))]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=9)
    return figure


def _outline(volume: Volume) -> np.ndarray:
    """The 12 edges of a volume's box as pairs of ends (12, 2, 3) in mm, LPS."""
    ends = list(itertools.product(*[(-0.5, n - 0.5) for n in volume.array.shape]))
    edges = [(a, b) for a, b in itertools.combinations(ends, 2) if sum(p != q for p, q in zip(a, b)) == 1]
    return np.array([[volume.to_world(a), volume.to_world(b)] for a, b in edges])


def _at(volume: Volume, points: np.ndarray) -> np.ndarray:
    """The volume at LPS points (..., 3) in mm, linear; NaN outside."""
    index = (points - np.asarray(volume.origin)) @ volume.direction / volume.spacing[::-1]
    return ndimage.map_coordinates(volume.array, np.moveaxis(index[..., ::-1], -1, 0), np.float32, 1, cval=np.nan)


def source_of(settings: Settings, runs: Iterable[Path] = ()) -> str:
    """What made a figure, for `save_figure`: the profile, a hash of its settings, and the folders of the runs shown.

    A run's folder is named <network>-<settings hash>-s<seed>.
    """
    names = ", ".join(run.name for run in runs)
    return f"profile {settings.profile}, settings {content_hash(settings.as_dict())}" + (f", runs {names}" if names else "")


def save_figure(figure: Figure, path: Path, source: str, dpi: int = 300, vector: bool = True) -> Path:
    """Write a PNG, and beside it a PDF unless ``vector`` is False; returns the PNG's path.

    ``source`` says what made it and stands in the metadata of both, with magunet's version and git revision. Each file is
    written whole or not at all, with fewer dots an inch where it would be larger than 1 MiB.
    """
    try:
        revision = git_revision(project.root())
    except InputError:
        revision = "unknown"
    software = f"magunet {__version__}, git {revision}, Matplotlib {matplotlib.__version__}"
    metadata = {".png": {"Description": source, "Software": software},
                ".pdf": {"Subject": source, "Creator": software, "CreationDate": None}}
    for ending in (".png", ".pdf") if vector else (".png",):
        for share in FINENESS:
            with whole_file(path.with_suffix(ending)) as part, matplotlib.rc_context({"pdf.fonttype": 42}):
                figure.savefig(part, dpi=share * dpi, metadata=metadata[ending])
            if path.with_suffix(ending).stat().st_size <= LARGEST_FILE:
                break
    return path
