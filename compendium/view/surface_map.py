"""The surface of the true joints, coloured by how far the prediction's surface lies from it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import cm, collections, colormaps, colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.spatial import KDTree

from compendium.figures.planes import FIGURE_WIDTH, PLANES, letters_and_bar
from compendium.view.meshes import Mesh, surface_mesh
from magunet.base.errors import require
from magunet.joints import JOINTS, UNKNOWN, sides
from magunet.volume import Volume, same_geometry

COLOURS = colormaps["PuOr_r"].with_extremes(bad="0.6")
"""Orange where the prediction reaches too far, purple where it falls short, grey where there is none."""
VIEWS = {"from the front": ((1, 0, 0), PLANES["coronal"]), "from the left": ((0, 1, 0), PLANES["sagittal"]),
         "from the right": ((0, -1, 0), ("P", "A", "S", "I"))}
"""Direction across the picture in LPS, and the letters at its left, right, top and bottom edge; up is z."""
PANELS = {"both joints": "from the front", "right joint, iliac side": "from the right",
          "right joint, sacral side": "from the left", "left joint, sacral side": "from the right",
          "left joint, iliac side": "from the left"}
"""Of the figure: what is seen, and its view."""


class SurfaceMap(NamedTuple):
    """A joint's true surface, and how many mm the prediction's surface lies from each of its points (n,):
    beyond it (positive) or short of it (negative); NaN without a prediction."""

    mesh: Mesh
    distance: np.ndarray


def surface_map(truth: Volume, prediction: Volume) -> SurfaceMap:
    """Signed distances in mm from the truth's points to the prediction's surface, to a fifth of a voxel, in
    any orientation. Raises InputError for masks on different grids, or when one is empty."""
    require(same_geometry(truth, prediction), "truth and prediction lie on different grids; resample the "
            "prediction onto the scan")
    mesh, corners = surface_mesh(truth), surface_mesh(prediction).corners()
    middles = (corners + np.roll(corners, 1, axis=1)) / 2                        # of the triangles' edges
    samples = np.concatenate([corners, middles, corners.mean(axis=1, keepdims=True)], axis=1).reshape(-1, 3)
    distance = KDTree(samples).query(mesh.points)[0]
    inside = prediction.with_array(np.float32(prediction.array != 0)).sample(mesh.points, 0) > 0.5
    return SurfaceMap(mesh, np.where(inside, distance, -distance))


def joint_maps(truth: Volume, prediction: Volume, scan: Volume | None = None) -> dict[str, SurfaceMap]:
    """Side -> map of its joint, for each side with truth, told by `sides`, where the truth has one joint with
    the help of ``scan``, or "unknown" -> map of all. Raises InputError as `surface_map`."""
    require(truth.array.any(), "the truth is empty, so it has no surface; choose another case")
    (true, predicted), maps = (labels.array for labels in sides(scan, truth, prediction)[1]), {}
    for joint in (*JOINTS, UNKNOWN):
        if (true == joint.label).any():
            one = surface_map(truth.with_array(true == joint.label), prediction)
            known = np.where((predicted == joint.label).any(), one.distance, np.nan)
            maps[joint.side] = one._replace(distance=known)
    return maps


def surface_figure(truth: Volume, prediction: Volume, title: str = "", scan: Volume | None = None) -> Figure:
    """Both joints from the front, and each from its iliac and sacral side, coloured by signed distance up to
    what 99 % of the points do not exceed, at least 1 mm. A joint on whose side nothing is predicted is grey;
    a side without a true joint, or an unknown one, is an empty panel. Raises InputError as `joint_maps`."""
    maps = joint_maps(truth, prediction, scan)
    distances = np.concatenate([one.distance for one in maps.values()])
    limit = max(1.0, float(np.nanquantile(np.abs([*distances, 0]), 0.99)))
    panels = [[maps[side] for side in maps if name.startswith((side, "both"))] for name in PANELS]
    points = [np.concatenate([one.mesh.points for one in joints] or [np.zeros((1, 3))]) for joints in panels]
    margin = 24.0                                       # mm, of which a panel is wider than its joints
    widths = [np.ptp(at @ VIEWS[view][0]) + margin for at, view in zip(points, PANELS.values())]
    height = np.ptp(points[0][:, 2]) + margin
    figure = Figure(figsize=(FIGURE_WIDTH, FIGURE_WIDTH / sum(widths) * height + 1.1), layout="constrained")
    axes, norm = figure.subplots(1, len(panels), width_ratios=widths), colors.TwoSlopeNorm(0, -limit, limit)
    for panel, (name, view), joints, width in zip(axes, PANELS.items(), panels, widths):
        draw_surfaces(panel, joints, view, norm, (width, height))
        missed = "\nnot predicted" if len(joints) == 1 and np.isnan(joints[0].distance).all() else ""
        panel.set_title(f"{name}\n{view}{missed}", fontsize=7)
    bar = figure.colorbar(cm.ScalarMappable(norm, COLOURS), ax=axes, location="bottom", aspect=60, shrink=0.6,
                          pad=0.02, extend="both")
    bar.set_label("prediction falls short (–) or reaches too far (+), mm", fontsize=8)
    figure.suptitle(title, fontsize=9)
    return figure


def draw_surfaces(axes: Axes, joints: Sequence[SurfaceMap], view: str, norm: colors.TwoSlopeNorm,
                  size: tuple[float, float]) -> None:
    """An orthographic view of surfaces, size (width, height) in mm, with letters and a scale bar."""
    if not joints:
        axes.axis("off")
        axes.text(0.5, 0.5, "no joint", ha="center", va="center", fontsize=8)
        return
    across, letters = VIEWS[view]
    frame = np.array([across, (0, 0, -1), np.cross(across, (0, 0, 1))], float)   # right, down, to observer
    corners = np.concatenate([one.mesh.corners() for one in joints]) @ frame.T   # (m, 3, 3)
    normals = np.concatenate([one.mesh.normals() for one in joints]) @ frame.T   # (m, 3)
    values = np.concatenate([one.distance[one.mesh.triangles].mean(axis=1) for one in joints])
    order = np.argsort(corners[..., 2].mean(axis=1))                             # the nearest is painted last
    order = order[normals[order, 2] > 0]                                         # without hidden triangles
    colours = COLOURS(norm(np.ma.masked_invalid(values[order])))
    light = np.array([0.3, -0.5, 0.8]) / np.linalg.norm([0.3, -0.5, 0.8])     # right, down, to the observer
    colours[:, :3] *= 0.55 + 0.45 * np.clip(normals[order] @ light, 0, 1)[:, None]
    flat = corners[order, :, :2] + (size - corners.min((0, 1))[:2] - corners.max((0, 1))[:2]) / 2
    axes.add_collection(collections.PolyCollection(
        flat, facecolors=colours, edgecolors=colours, linewidths=0.2, rasterized=True))
    axes.set(aspect="equal", facecolor="0.85", xlim=(0, size[0]), ylim=(size[1], 0))
    letters_and_bar(axes, letters)
