"""Where the soft tissue lies: signed distances in mm on a coarse lattice, hung on the bones."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sijphantom.anatomy import Bones, Parameters
from sijphantom.fields import Array, Axes
from sijphantom.shapes import rounded_cone


def soft_levels(rng: np.random.Generator, bones: Bones, points: Axes, centre: NDArray, p: Parameters
                ) -> dict[str, Array]:
    """Signed distances (mm) of organs, muscles and arms at lattice points (z, y, x) in the bones' frame."""
    z, y, x = points
    lateral, behind, low, high = _sheets(bones, points, centre)
    outer, inner = _outline(z, y, x, low, high, p)
    medial = np.maximum(lateral, behind)  # negative: in front of the sacrum and between the hips
    ax = np.abs(x)

    def tube(*knots: tuple[float, float, float, float]) -> Array:
        """Union of rounded cones through knots (z, y, |x|, radius)."""
        return np.minimum.reduce([rounded_cone(z, y, ax, a, b) for a, b in pairwise(knots)])

    j = rng.normal(0, 2.5, 9)
    psoas = tube((95, -50, 40, 17), (40, -65, 52, 19), (-20, -82, 72, 18), (-80, -78, 88, 15))
    artery = (60, -88 + j[0], 16, 6), (20, -72 + j[1], 34, 5.5), (-30, -78, 54 + j[2], 5), (-80, -100, 62, 5)
    vein = (60, -78 + j[3], 10, 8), (20, -60 + j[4], 36, 7), (-30, -66, 58 + j[5], 6.5), (-80, -92, 66, 6)
    inner_iliac = (20, -62, 36, 4), (0, -25 + j[6], 44, 3.5), (-25, 0, 42, 3)
    vessels = np.minimum.reduce([tube(*knots) for knots in (artery, vein, inner_iliac)])
    rectum = tube((-10, -5 + j[7], 0, 13), (-35, 18, 0, 14), (-60, 28, 0, 15), (-90, 20, 0, 14))
    bladder = np.sqrt(((z + 85) / 28) ** 2 + ((y + 62) / 32) ** 2 + (x / 38) ** 2) * 30 - 30 + 3 * j[8]
    wall_mm = np.where(ax > 60, 17, 11)
    levels = {
        "body": outer,
        "cavity": np.maximum.reduce([medial + 14, inner + 20, -psoas, -vessels, -rectum, -bladder]),
        "gluteal": np.maximum(inner, -lateral),
        "iliacus": np.maximum.reduce([lateral, inner, y + 22]),
        "paraspinal": np.maximum.reduce([inner, -behind, lateral, ax - 52, 3 - ax]),
        "psoas": np.maximum(psoas, inner),
        "wall": np.maximum.reduce([inner, -(inner + wall_mm), y + 55, 2.5 - ax]),
        "vessels": vessels,
        "rectum": rectum,
        "bladder": bladder,
        "piriformis": tube((-8, 8, 22, 7), (-22, 10, 55, 11), (-38, 2, 95, 8)),
    }
    if p["arms"]:
        aside = (high[2] - low[2]) / 2 + p["flank_mm"] + 36
        levels["arms"] = np.maximum(tube((120, 10, aside + 8, 38), (-160, -35, aside + 12, 30)), 5 - outer)
        levels["forearm"] = np.minimum(*(
            tube((120, 15 + side, aside + 8 + side, 7), (-160, -38 + side, aside + 10 + side, 7))
            for side in (-8, 8)))
    return levels


def _outline(z: Array, y: Array, x: Array, low: NDArray, high: NDArray, p: Parameters) -> tuple[Array, Array]:
    """Levels of the skin and of the inner border of the subcutaneous fat."""
    front, back = low[1] - p["belly_mm"], high[1] + p["back_mm"]
    half_width = (high[2] - low[2]) / 2 + p["flank_mm"] - 0.05 * np.clip(z, 0, None)
    ry, yc = (back - front) / 2, (back + front) / 2
    u, v = np.abs(x) / half_width, np.abs(y - yc) / ry
    radius = (u**2.5 + v**2.5) ** 0.4
    outer = (1 - 1 / np.maximum(radius, 0.05)) * np.hypot(x, y - yc)
    cleft = np.exp(-((x / 9) ** 2)) * np.clip((-z - 5) / 50, 0, 1) * 35  # between the buttocks
    outer = outer + cleft * np.clip((y - yc) / ry - 0.4, 0, 1)
    thick = p["fat_mm"] * (1 + 0.5 * np.clip((y - yc) / ry, -0.4, 1) + 0.3 * np.clip(u - 0.5, 0, 0.5))
    return outer, outer + thick + 2


def table_level(body: Array, axes: Axes) -> Array:
    """Depth (mm) below the curved top of the couch, on which the body rests."""
    _, y, x = np.meshgrid(*axes, indexing="ij")
    lowest = float(y[body < 0].max()) - 3 if (body < 0).any() else axes[1][-1]
    radius = 420.0
    return np.maximum(np.hypot(x, y - (lowest - radius)) - radius, np.abs(x) - 215)


def _sheets(bones: Bones, points: Axes, centre: NDArray) -> tuple[Array, Array, NDArray, NDArray]:
    """Levels of the sheets on which the hips (negative: medial) and the sacrum (negative: in front) lie.

    Also the box (low, high) of the hips. All in mm from `centre`, the middle between the joints.
    """
    _, y, x = points
    step = max(1, round(4 / bones.spacing))
    pitch = step * bones.spacing
    sacrum, left, right = (
        bone[::step, ::step, ::step] < 0 for bone in (bones.sacrum, bones.left_hip, bones.right_hip))
    index = np.stack([(c + m) / pitch for c, m in zip(points, centre)])
    xs, ys = np.arange(left.shape[2]) * pitch - centre[2], np.arange(left.shape[1]) * pitch - centre[1]
    hips = [_mean_position(side, 2, xs, index[:2]) for side in (left, right)]
    lateral = np.where(x > 0, x - hips[0], hips[1] - x)
    behind = y - _mean_position(sacrum, 1, ys, index[::2])
    corners = np.argwhere(left | right)
    return lateral, behind, corners.min(0) * pitch - centre, corners.max(0) * pitch - centre


def _mean_position(mask: NDArray[np.bool_], axis: int, position: NDArray, index: NDArray) -> Array:
    """Mean position of the mask along an axis, at an index of the other two, smoothed; where the mask has
    none, that of the nearest place."""
    shape = [1, 1, 1]
    shape[axis] = -1
    count = mask.sum(axis)
    mean = (mask * position.reshape(shape)).sum(axis) / np.maximum(count, 1)
    nearest = ndimage.distance_transform_edt(count == 0, return_distances=False, return_indices=True)
    mean = ndimage.gaussian_filter(mean[tuple(nearest)], 1.5)
    return ndimage.map_coordinates(mean, index, order=1, mode="nearest")
