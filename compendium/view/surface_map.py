"""The surface of the true joints, coloured by how far the prediction's surface lies from it."""

from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from scipy import ndimage
from scipy.spatial import KDTree

from compendium.figures.planes import FIGURE_WIDTH, bar_length
from compendium.view.meshes import Mesh, surface_mesh
from magunet.base.errors import InputError
from magunet.joints import JOINTS, left_and_right, midline
from magunet.volume import Volume, same_geometry

NEAREST, AT_ONCE = 12, 10_000
"""Triangles that are tried for a point, and points at a time."""
COLOURS = "PuOr_r"
"""Orange where the prediction reaches too far, purple where it falls short; told apart by every common colour vision."""
MISSED = "0.6"
"""Grey of a joint that was not predicted."""
LIGHT = np.array([0.3, 0.5, 0.8])
"""Towards the light in a view: right, up, to the observer."""
VIEWS = {  # across and up the picture, in LPS
    "from the front": ((1, 0, 0), (0, 0, 1)),
    "from the left": ((0, 1, 0), (0, 0, 1)),
    "from the right": ((0, -1, 0), (0, 0, 1)),
}
LETTERS = {(1, 0, 0): "RL", (0, 1, 0): "AP", (0, -1, 0): "PA"}
"""At the left and right edge of a view, by its direction across."""


@dataclass(frozen=True)
class SurfaceMap:
    """A joint's true surface, and at each of its points (n,) the distance in mm to the prediction's surface.

    Positive where the prediction reaches beyond the truth there, negative where it falls short.
    """

    mesh: Mesh
    distance: np.ndarray


def surface_map(truth: Volume, prediction: Volume) -> SurfaceMap:
    """Signed distances in mm from the points of the truth's surface to the prediction's.

    Volumes of one grid, any orientation. Raises InputError for other grids, or when one of the masks is empty.
    """
    if not same_geometry(truth, prediction):
        raise InputError("truth and prediction lie on different grids; resample the prediction onto the scan's grid first")
    if not prediction.array.any():
        raise InputError("the prediction is empty, so no surface lies at any distance; choose another case or network")
    mesh = surface_mesh(truth)
    index = (mesh.points - np.asarray(truth.origin)) @ truth.direction / truth.spacing[::-1]     # x, y, z of the array
    inside = ndimage.map_coordinates(np.float32(prediction.array != 0), index[:, ::-1].T, order=1)
    distance = distance_to(surface_mesh(prediction), mesh.points)
    return SurfaceMap(mesh, np.where(inside > 0.5, distance, -distance))


def distance_to(mesh: Mesh, points: np.ndarray) -> np.ndarray:
    """Distance in mm (n,) of points (n, 3) to the nearest place on a mesh of triangles of much the same size.

    That is looked for on the NEAREST triangles by their centres, exactly on each: within the triangle where the point
    projects into it, else on its edges.
    """
    corners, normals = mesh.corners(), mesh.normals()
    tree, found = KDTree(corners.mean(axis=1)), []
    for start in range(0, len(points), AT_ONCE):
        p = points[start:start + AT_ONCE, None]                                                  # (n, 1, 3)
        near = tree.query(p[:, 0], min(NEAREST, len(corners)))[1].reshape(len(p), -1)            # (n, k)
        normal, inside, best = normals[near], True, np.inf
        for a, b in zip(corners[near].transpose(2, 0, 1, 3), np.roll(corners[near], -1, axis=2).transpose(2, 0, 1, 3)):
            edge, out = b - a, p - a                                                             # (n, k, 3)
            along = np.clip((out * edge).sum(-1) / (edge**2).sum(-1), 0, 1)
            best = np.minimum(best, np.linalg.norm(out - along[..., None] * edge, axis=-1))
            inside = inside & ((np.cross(edge, out) * normal).sum(-1) >= 0)
        height = np.abs(((p - corners[near][:, :, 0]) * normal).sum(-1))
        found.append(np.where(inside, height, best).min(axis=1))
    return np.concatenate(found)


def joint_maps(truth: Volume, prediction: Volume) -> tuple[SurfaceMap, dict[str, SurfaceMap | None]]:
    """The map of both joints, and of each side; None for a side without truth, distances NaN for one without a prediction.

    Raises InputError as `surface_map`, and for an empty truth.
    """
    if not truth.array.any():
        raise InputError("the truth is empty, so it has no surface; choose another case")
    plane = midline(truth).x
    true, predicted = (left_and_right(mask, plane).array for mask in (truth, prediction))
    maps = {}
    for joint in JOINTS:
        here = true == joint.label
        maps[joint.side] = surface_map(truth.with_array(here), prediction) if here.any() else None
        if here.any() and not (predicted == joint.label).any():
            maps[joint.side] = SurfaceMap(maps[joint.side].mesh, np.full_like(maps[joint.side].distance, np.nan))
    return _together([found for found in maps.values() if found is not None]), maps


def _together(maps: list[SurfaceMap]) -> SurfaceMap:
    starts = np.cumsum([0] + [len(found.mesh.points) for found in maps])
    points, triangles = (np.concatenate(parts) for parts in zip(*(
        (found.mesh.points, found.mesh.triangles + start) for found, start in zip(maps, starts))))
    return SurfaceMap(Mesh(points, triangles), np.concatenate([found.distance for found in maps]))


def surface_figure(truth: Volume, prediction: Volume, title: str = "", limit: float | None = None) -> Figure:
    """Both joints from the front, and each from its iliac and its sacral side, coloured by signed distance in mm.

    limit: mm at which the colours end; by default what 99 % of the points do not exceed, at least 1. A joint on whose side
    nothing was predicted is grey: its distance to the other joint would say nothing. Raises InputError as `surface_map`; a
    side without a true joint stays an empty panel.
    """
    whole, maps = joint_maps(truth, prediction)
    if limit is None:
        known = np.abs(whole.distance[np.isfinite(whole.distance)])
        limit = max(1.0, float(np.quantile(known, 0.99))) if len(known) else 1.0
    shown = [("both joints", whole, "from the front")]
    for name, faces in (("right", ("iliac", "sacral")), ("left", ("sacral", "iliac"))):
        views = ("from the right", "from the left")
        shown += [(f"{name} joint, {face} side", maps[name], view) for face, view in zip(faces, views)]
    spans = [_span(found, view) for _, found, view in shown]
    widths, height = [across for across, _ in spans], max(up for _, up in spans)
    inches = FIGURE_WIDTH / sum(widths)
    figure = Figure(figsize=(FIGURE_WIDTH, inches * height + 1.1), layout="constrained")
    norm = TwoSlopeNorm(0, -limit, limit)
    axes = figure.subplots(1, len(shown), width_ratios=widths)
    for place, (name, found, view), (across, _) in zip(axes, shown, spans):
        draw_surface(place, found, view, norm, across, height)
        missed = "\nnot predicted" if found is not None and np.isnan(found.distance).all() else ""
        place.set_title(f"{name}\n{view}{missed}", fontsize=7)
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=axes, location="bottom", aspect=60, shrink=0.6, pad=0.02,
                          extend="both")
    bar.set_label("prediction falls short (–) or reaches too far (+), mm", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    if title:
        figure.suptitle(title, fontsize=9)
    return figure


def _span(found: SurfaceMap | None, view: str) -> tuple[float, float]:
    """Width and height in mm of a view with some air around it."""
    if found is None:
        return 30.0, 30.0
    across, up = (found.mesh.corners() @ axis for axis in np.array(VIEWS[view]))
    return float(np.ptp(across)) + 24, float(np.ptp(up)) + 24


def draw_surface(axes: Axes, found: SurfaceMap | None, view: str, norm: TwoSlopeNorm, width: float, height: float) -> None:
    """One orthographic view of a coloured surface, in mm, with letters and a scale bar; hidden triangles are left out."""
    across, up = np.array(VIEWS[view], float)
    axes.set(aspect="equal")
    axes.axis("off")
    if found is None:
        axes.text(0.5, 0.5, "no joint", transform=axes.transAxes, ha="center", va="center", fontsize=8)
        return
    mesh, towards = found.mesh, np.cross(across, up)
    corners, normals = mesh.corners(), mesh.normals()
    front = normals @ towards > 0
    order = np.argsort(corners[front].mean(axis=1) @ towards)                       # the nearest is painted last
    corners, normals = corners[front][order], normals[front][order]
    value = found.distance[mesh.triangles[front][order]].mean(axis=1)
    shade = 0.55 + 0.45 * np.clip(normals @ (LIGHT @ [across, up, towards]) / np.linalg.norm(LIGHT), 0, 1)
    colours = matplotlib.colormaps[COLOURS].with_extremes(bad=MISSED)(norm(np.ma.masked_invalid(value)))
    colours[:, :3] *= shade[:, None]
    flat = np.stack([corners @ across, corners @ up], axis=-1)
    axes.add_collection(PolyCollection(flat, facecolors=colours, edgecolors=colours, linewidths=0.2, rasterized=True))
    middle = (flat.min((0, 1)) + flat.max((0, 1))) / 2
    left, bottom = middle[0] - width / 2, middle[1] - height / 2
    axes.set(xlim=(left, left + width), ylim=(bottom, bottom + height))
    letters = LETTERS[tuple(int(v) for v in across)] + "SI"
    for letter, place in zip(letters, ((0.06, 0.5), (0.94, 0.5), (0.5, 0.95), (0.5, 0.05))):
        axes.text(*place, letter, transform=axes.transAxes, ha="center", va="center", fontsize=8)
    bar = bar_length(width)
    axes.plot([left + 4, left + 4 + bar], [bottom + 4] * 2, color="black", linewidth=2, solid_capstyle="butt")
    axes.text(left + 4 + bar / 2, bottom + 5.5, f"{bar} mm", fontsize=7, ha="center", va="bottom")
