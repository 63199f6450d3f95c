"""Pictures of scans and masks, as radiologists read them and in millimetres; and how a figure is saved.

Axial views from below (the patient's right is on the left), coronal from the front, sagittal from the left.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from compendium.figures.page import INCH, LINE, PRINT_WIDTH, SMALLEST_FONT, write
from magunet import __version__
from magunet.base import profiles, project
from magunet.base.errors import InputError
from magunet.base.profiles import Settings
from magunet.base.progress import say
from magunet.base.provenance import content_hash, git_revision, whole_file
from magunet.volume import Volume, reorient, same_geometry

PLANES = {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I"), "sagittal": ("A", "P", "S", "I")}
"""Views, and the letters at the left, right, top and bottom edge of each."""
BONE_WINDOW = (-200.0, 1000.0)
"""HU that are drawn black and white."""
TRUTH_COLOUR = "#56b4e9"
"""Okabe and Ito's sky blue: told apart from the prediction's colour by every common colour vision."""
PREDICTION_COLOUR = "#e69f00"
"""Okabe and Ito's orange."""
DASHES = {TRUTH_COLOUR: "solid", PREDICTION_COLOUR: (0, (3, 1.2))}
"""Outlines differ in black and white, too."""
AGREEMENT_COLOURS = {"correct": "#44aa99", "missed": "#882255", "extra": "#f0e442"}
"""Of voxels in both masks, the truth only, the prediction only; for every colour vision, and in grey."""
FIGURE_WIDTH = PRINT_WIDTH / INCH
"""Of three planes side by side, in inches; all views have one scale."""
RIM = (withStroke(linewidth=2.5, foreground="black"),)
"""Around what is white and lies on a picture."""


def plane(array: np.ndarray, name: str, index: int) -> np.ndarray:
    """One slice of an LPS array (d, h, w), turned so that its first row is the top of the picture."""
    slices = {"axial": np.s_[index], "coronal": np.s_[::-1, index], "sagittal": np.s_[::-1, :, index]}
    return array[slices[name]]


def pixel_size(spacing: tuple[float, float, float], name: str) -> tuple[float, float]:
    """Height and width of a view's pixel in mm; spacing is (z, y, x)."""
    return tuple(np.delete(spacing, list(PLANES).index(name)))


def central_slices(mask: np.ndarray | None, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The slice of each axis that holds most of the mask, or the middle where there is no mask."""
    if mask is None or not mask.any():
        return tuple(n // 2 for n in shape)
    return tuple(int(mask.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3))


def agreement(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Per voxel 1 correct, 2 missed, 3 extra (see AGREEMENT_COLOURS), 0 where both masks are empty; uint8."""
    return np.array([[0, 2], [3, 1]], np.uint8)[1 * (prediction != 0), 1 * (truth != 0)]


def draw_slice(axes: Axes, picture: np.ndarray, pixel: tuple[float, float], window: tuple[float, float],
               outlines: Mapping[str, np.ndarray], linewidth: float) -> None:
    """A slice (rows, columns) in mm, rows downwards from 0, and outlines: colour -> mask of its shape.

    pixel: height and width in mm. window: the values that are drawn black and white.
    """
    extent = (0, picture.shape[1] * pixel[1], picture.shape[0] * pixel[0], 0)
    axes.imshow(picture, cmap="gray", vmin=window[0], vmax=window[1], extent=extent)
    for colour in (colour for colour, mask in outlines.items() if mask.any()):
        axes.contour(outlines[colour].astype(float), [0.5], origin="upper", extent=extent, colors=colour,
                     linewidths=linewidth, linestyles=[DASHES.get(colour, "solid")])


def draw_plane(axes: Axes, scan: Volume, name: str, index: int, masks: Mapping[str, np.ndarray],
               window: tuple[float, float] = BONE_WINDOW) -> None:
    """One view of an LPS scan with letters, scale bar and outlines; masks: colour -> array on its grid."""
    outlines = {colour: plane(mask, name, index) for colour, mask in masks.items()}
    draw_slice(axes, plane(scan.array, name, index), pixel_size(scan.spacing, name), window, outlines, 1.1)
    letters_and_bar(axes, PLANES[name])


def edge_letters(axes: Axes, letters: Sequence[str]) -> None:
    """Letters at the left, right, top and bottom edge of a view, white with a black rim."""
    places = {(0, 0.5): (6, 0), (1, 0.5): (-6, 0), (0.5, 1): (0, -6), (0.5, 0): (0, 6)}
    for letter, (place, points) in zip(letters, places.items()):
        axes.annotate(letter, place, points, "axes fraction", "offset points", color="white", ha="center",
                      va="center", fontsize=SMALLEST_FONT, weight="bold", path_effects=RIM)


def bar_length(width: float) -> int:
    """The longest scale bar, in mm, that is shorter than a third of a view of this width in mm."""
    return max((length for length in (1, 2, 5, 10, 20, 50, 100) if length < width / 3), default=1)


def scale_bar(sheet: Axes, left: float, top: float, scale: float, width: float) -> None:
    """A bar and its length under a view of this width on a page: 1 mm is ``scale`` of the patient."""
    length = bar_length(width * scale)
    right, y = left + length / scale, top + LINE / 2
    sheet.plot([left, right], [y, y], color="black", linewidth=1.5, solid_capstyle="butt")
    write(sheet, right + 1, top, [f"{length} mm"])


def letters_and_bar(axes: Axes, letters: Sequence[str]) -> None:
    """Orientation letters and a scale bar within a view that was drawn in mm, rows downwards from 0."""
    edge_letters(axes, letters)
    width, height = axes.get_xlim()[1], axes.get_ylim()[0]
    x, y, bar = 0.06 * width, 0.93 * height, bar_length(width)
    axes.plot([x, x + bar], [y, y], color="white", linewidth=2, solid_capstyle="butt", path_effects=RIM)
    axes.text(x + bar / 2, y - 0.015 * height, f"{bar} mm", color="white", ha="center", va="bottom",
              fontsize=SMALLEST_FONT, path_effects=RIM)
    axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))


def planes_figure(scan: Volume, indices: tuple[int, int, int], masks: Mapping[str, np.ndarray], title: str,
                  window: tuple[float, float] = BONE_WINDOW) -> tuple[Figure, dict[str, Axes]]:
    """The three views of an LPS scan side by side at one scale, see `draw_plane`, and the axes of each."""
    sizes = [np.multiply(plane(scan.array, name, 0).shape, pixel_size(scan.spacing, name)) for name in PLANES]
    widths = [max(width, 0.3 * np.max(sizes)) for _, width in sizes]           # a thin scan stays visible
    height = FIGURE_WIDTH / sum(widths) * max(height for height, _ in sizes)
    figure = Figure(figsize=(FIGURE_WIDTH, height + 0.75), layout="constrained")
    views = dict(zip(PLANES, figure.subplots(1, 3, width_ratios=widths)))
    for (name, axes), index in zip(views.items(), indices):
        draw_plane(axes, scan, name, index, masks, window)
        axes.set_title(f"{name}, slice {index + 1}", fontsize=9)
    figure.suptitle(title, fontsize=9)
    return figure, views


def three_planes(scan: Volume, prediction: Volume | None = None, truth: Volume | None = None, title: str = "",
                 truth_name: str = "truth", window: tuple[float, float] = BONE_WINDOW,
                 indices: tuple[int, int, int] | None = None) -> Figure:
    """Axial, coronal and sagittal view through the joints (Fig. 7), or of the LPS slices with these indices,
    with outlines of truth and prediction. Volumes may have any orientation; masks must lie on the scan's
    grid, else InputError."""
    masks, handles, lps = {}, [], reorient(scan, "LPS")
    both = (truth_name, TRUTH_COLOUR, truth), ("prediction", PREDICTION_COLOUR, prediction)
    for name, colour, mask in (one for one in both if one[-1] is not None):
        if not same_geometry(scan, mask):
            raise InputError("mask and scan lie on different grids; resample the mask onto the scan")
        masks[colour] = reorient(mask, "LPS").array
        handles.append(Line2D([], [], color=colour, linestyle=DASHES[colour], label=name))
    indices = indices or central_slices(next(filter(np.any, masks.values()), None), lps.array.shape)
    figure, _ = planes_figure(lps, indices, masks, title, window)
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def figure_folder(settings: Settings) -> Path:
    """Where figures go: ``figures/<profile>``, or a folder named after settings that are not the profile's.

    Such a folder is announced. A profile without a file in ``papermill_params`` has but one folder.
    """
    known = (project.root() / project.MARKER / f"{settings.profile}.yaml").is_file()
    usual, now = (profiles.load(settings.profile) if known else settings).as_dict(), settings.as_dict()
    changes = {name: value for name, value in now.items() if value != usual[name]}
    words = ",".join(f"{name}={json.dumps(value)}" for name, value in changes.items())
    plain = re.sub(r"[^\w.,=+-]", "", words)[:80]
    name = ",".join([settings.profile, plain, content_hash(changes)[:6] * (plain != words)]).rstrip(",")
    if changes:
        say(f"note: {', '.join(changes)} not as in profile {settings.profile}: figures go to figures/{name}")
    return project.root() / "figures" / name


def source_of(settings: Settings, runs: Iterable[Path] = ()) -> str:
    """What made a figure, for `save_figure`: the profile, a hash of its settings, and its runs' folders."""
    source = f"profile {settings.profile}, settings {content_hash(settings.as_dict())}"
    return f"{source}, runs {names}" if (names := ", ".join(run.name for run in runs)) else source


def save_figure(figure: Figure, path: Path, source: str, dpi: int = 300, vector: bool = True) -> Path:
    """Write a PNG, and beside it a PDF unless ``vector`` is False; returns the PNG's path.

    ``source`` says what made the figure and stands in the metadata of both files, with magunet's version and
    git revision. A file that would be larger than 1 MiB has a lower resolution.
    """
    try:
        revision = git_revision(project.root())
    except InputError:
        revision = "unknown"
    software = f"magunet {__version__}, git {revision}, Matplotlib {matplotlib.__version__}"
    metadata = {".png": {"Description": source, "Software": software},
                ".pdf": {"Subject": source, "Creator": software, "CreationDate": None}}
    for ending in (".png", ".pdf") if vector else (".png",):
        for share in (1, 0.85, 0.7, 0.5, 0.35, 0.25):
            with whole_file(path.with_suffix(ending)) as part, matplotlib.rc_context({"pdf.fonttype": 42}):
                figure.savefig(part, dpi=share * dpi, metadata=metadata[ending])
            if path.with_suffix(ending).stat().st_size <= 2**20:
                break
    return path
