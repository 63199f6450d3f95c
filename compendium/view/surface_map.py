"""The surface of the true joints, coloured by how far the prediction's surface lies from it."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from scipy.spatial import KDTree

from compendium.figures.planes import FIGURE_WIDTH, bar_length
from compendium.view.meshes import Mesh, surface_mesh
from magunet.base.errors import InputError
from magunet.joints import JOINTS, left_and_right, midline
from magunet.volume import Volume, same_geometry

COLOURS = matplotlib.colormaps["PuOr_r"].with_extremes(bad="0.6")
"""Orange where the prediction reaches too far, purple where it falls short, grey where there is none."""
LIGHT = np.array([0.3, 0.5, 0.8]) / np.linalg.norm([0.3, 0.5, 0.8])
"""Towards the light in a view: right, up, to the observer."""
VIEWS = {"from the front": ((1, 0, 0), "RL"), "from the left": ((0, 1, 0), "AP"),
         "from the right": ((0, -1, 0), "PA")}
"""Direction across the picture in LPS, and the letters at its left and right edge; upwards is z."""
PANELS = (("both joints", "from the front"), ("right joint, iliac side", "from the right"),
          ("right joint, sacral side", "from the left"), ("left joint, sacral side", "from the right"),
          ("left joint, iliac side", "from the left"))
"""Of the figure: what is seen, and its view."""


@dataclass(frozen=True)
class SurfaceMap:
    """A joint's true surface, and the distance in mm of each of its points (n,) to the prediction's surface.

    Positive where the prediction reaches beyond it, negative where it falls short; NaN without a prediction.
    """

    mesh: Mesh
    distance: np.ndarray


def surface_map(truth: Volume, prediction: Volume) -> SurfaceMap:
    """Signed distances in mm from the truth's points to the prediction's surface, to a fifth of a voxel.

    Volumes of one grid, any orientation. Raises InputError for other grids, or when a mask is empty.
    """
    if not same_geometry(truth, prediction):
        raise InputError("truth and prediction lie on different grids; resample the prediction onto the scan")
    mesh, corners = surface_mesh(truth), surface_mesh(prediction).corners()
    middles = (corners + np.roll(corners, 1, axis=1)) / 2                        # of the triangles' edges
    samples = np.concatenate([corners, middles, corners.mean(axis=1, keepdims=True)], axis=1).reshape(-1, 3)
    distance = KDTree(samples).query(mesh.points)[0]
    inside = prediction.with_array(np.float32(prediction.array != 0)).sample(mesh.points, 0) > 0.5
    return SurfaceMap(mesh, np.where(inside, distance, -distance))


def joint_maps(truth: Volume, prediction: Volume) -> dict[str, SurfaceMap]:
    """Side -> map of its joint, for each side with truth. Raises InputError as `surface_map`."""
    if not truth.array.any():
        raise InputError("the truth is empty, so it has no surface; choose another case")
    plane, maps = midline(truth).x, {}
    true, predicted = (left_and_right(mask, plane).array for mask in (truth, prediction))
    for joint in JOINTS:
        if (true == joint.label).any():
            joint_map = surface_map(truth.with_array(true == joint.label), prediction)
            if not (predicted == joint.label).any():
                joint_map = SurfaceMap(joint_map.mesh, np.full_like(joint_map.distance, np.nan))
            maps[joint.side] = joint_map
    return maps


def surface_figure(truth: Volume, prediction: Volume, title: str = "", limit: float | None = None) -> Figure:
    """Both joints from the front, and each from its iliac and sacral side, coloured by signed distance.

    limit: mm at which the colours end; by default what 99 % of the points do not exceed, at least 1. A joint
    on whose side nothing was predicted is grey: its distance to the other joint would say nothing. Raises
    InputError as `surface_map`; a side without a true joint stays an empty panel.
    """
    maps = joint_maps(truth, prediction)
    if limit is None:
        distances = np.abs(np.concatenate([one.distance for one in maps.values()]))
        known = distances[np.isfinite(distances)]
        limit = max(1.0, float(np.quantile(known, 0.99))) if len(known) else 1.0
    panels = [(name, view, [maps[side] for side in maps if name.startswith((side, "both"))])
              for name, view in PANELS]
    sizes = [_size(joints, view) for _, view, joints in panels]
    widths, height = [across for across, _ in sizes], max(up for _, up in sizes)
    figure = Figure(figsize=(FIGURE_WIDTH, FIGURE_WIDTH / sum(widths) * height + 1.1), layout="constrained")
    norm, axes = TwoSlopeNorm(0, -limit, limit), figure.subplots(1, len(panels), width_ratios=widths)
    for panel, (name, view, joints), width in zip(axes, panels, widths):
        draw_surfaces(panel, joints, view, norm, width, height)
        missed = "\nnot predicted" if len(joints) == 1 and np.isnan(joints[0].distance).all() else ""
        panel.set_title(f"{name}\n{view}{missed}", fontsize=7)
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=axes, location="bottom", aspect=60, shrink=0.6,
                          pad=0.02, extend="both")
    bar.set_label("prediction falls short (–) or reaches too far (+), mm", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=9)
    return figure


def _size(joints: Sequence[SurfaceMap], view: str) -> tuple[float, float]:
    """Width and height in mm of a view of joints, with some air."""
    points = np.concatenate([one.mesh.points for one in joints]) if joints else np.zeros((1, 3))
    return np.ptp(points @ VIEWS[view][0]) + 24, np.ptp(points[:, 2]) + 24


def draw_surfaces(axes: Axes, joints: Sequence[SurfaceMap], view: str, norm: TwoSlopeNorm, width: float,
                  height: float) -> None:
    """An orthographic view of surfaces, width x height mm, with letters and a scale bar."""
    axes.set(aspect="equal", xlim=(-width / 2, width / 2), ylim=(-height / 2, height / 2))
    axes.axis("off")
    if not joints:
        axes.text(0, 0, "no joint", ha="center", va="center", fontsize=8)
        return
    across, letters = VIEWS[view]
    frame = np.array([across, (0, 0, 1), np.cross(across, (0, 0, 1))], float)    # right, up, to the observer
    corners = np.concatenate([one.mesh.corners() for one in joints]) @ frame.T   # (m, 3, 3)
    normals = np.concatenate([one.mesh.normals() for one in joints]) @ frame.T   # (m, 3)
    values = np.concatenate([one.distance[one.mesh.triangles].mean(axis=1) for one in joints])
    order = np.argsort(corners[..., 2].mean(axis=1))                             # the nearest is painted last
    order = order[normals[order, 2] > 0]                                         # without hidden triangles
    colours = COLOURS(norm(np.ma.masked_invalid(values[order])))
    colours[:, :3] *= 0.55 + 0.45 * np.clip(normals[order] @ LIGHT, 0, 1)[:, None]
    flat = corners[order, :, :2] - (corners.min((0, 1)) + corners.max((0, 1)))[:2] / 2
    axes.add_collection(PolyCollection(flat, facecolors=colours, edgecolors=colours, linewidths=0.2,
                                       rasterized=True))
    right, top, bar = width / 2 - 4, height / 2 - 4, bar_length(width)
    for letter, place in zip(letters + "SI", ((-right, 0), (right, 0), (0, top), (0, -top))):
        axes.text(*place, letter, ha="center", va="center", fontsize=8)
    axes.plot([-right, bar - right], [-top, -top], color="black", linewidth=2, solid_capstyle="butt")
    axes.text(bar / 2 - right, 1.5 - top, f"{bar} mm", fontsize=7, ha="center", va="bottom")
