"""Measures of a pelvis on a label map: sizes of the bones, and extent, width and angles of the joints."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from magunet.base.errors import InputError

LABELS = {"sacrum": 1, "left hip": 2, "right hip": 3}
"""Bone -> its number on the label map."""
CLEFT_MM = 6.0
"""The cleft is where the distances to both bones sum to at most this."""

Mask = NDArray[np.bool_]


def pelvimetry(bones: NDArray[np.integer], spacing: Sequence[float]) -> dict[str, float]:
    """Measures of a label map (d, h, w) in LPS order: 1 sacrum, 2 left hip, 3 right hip; spacing (z, y, x) in
    mm.

    Lengths are in mm, `sacrum_cm3` in cm3, `joint_area_cm2` in cm2. `gap` is the distance to the sacrum plus
    that to the hip, between voxel centres, in the middle of the cleft, and so reads about a voxel too wide.
    `obliq` is the angle of the cleft from the sagittal axis in degrees in the lower, middle and upper third,
    negative on the left and positive on the right where the joints converge behind. Raises InputError when a
    bone or a joint is missing.
    """
    masks = {name: bones == label for name, label in LABELS.items()}
    for name, mask in masks.items():
        if not mask.any():
            raise InputError(f"the label map has no {name}")
    sacrum, hips = masks["sacrum"], masks["left hip"] | masks["right hip"]
    sizes = {f"sacrum_{name}": extent(sacrum, axis, spacing)
             for name, axis in (("width", 2), ("height", 0), ("depth", 1))}
    sizes |= {"sacrum_cm3": float(sacrum.sum() * np.prod(spacing) / 1000),
              "biiliac_width": extent(hips, 2, spacing), "hip_height": extent(hips, 0, spacing)}
    sides = {side: joint_measures(sacrum, masks[name], spacing)
             for side, name in (("L", "left hip"), ("R", "right hip"))}
    midline = np.mean([side["joint_centre_lat"] for side in sides.values()])
    for side, measures in sides.items():
        measures["joint_centre_lat"] = abs(measures["joint_centre_lat"] - midline)
        sizes |= {f"{name}_{side}": float(value) for name, value in measures.items()}
    return sizes


def extent(mask: Mask, axis: int, spacing: Sequence[float]) -> float:
    """Length in mm of a mask (d, h, w) along an axis."""
    where = np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis)))
    return float((where[-1] - where[0] + 1) * spacing[axis])


def joint_measures(sacrum: Mask, hip: Mask, spacing: Sequence[float]) -> dict[str, float]:
    """Measures of one joint; `joint_centre_lat` is x in mm from the first column."""
    boxes = [ndimage.find_objects(mask.astype(np.uint8))[0] for mask in (sacrum, hip)]
    reach = [int(np.ceil(2 * CLEFT_MM / s)) for s in spacing]
    box = tuple(slice(max(0, max(a.start, b.start) - r), min(a.stop, b.stop) + r)
                for a, b, r in zip(*boxes, reach))
    sacrum, hip = sacrum[box], hip[box]
    if not (sacrum.any() and hip.any()):
        raise InputError("the label map has no joint: sacrum and hip are apart")
    to_sacrum, to_hip = (ndimage.distance_transform_edt(~mask, sampling=spacing) for mask in (sacrum, hip))
    gap = to_sacrum + to_hip
    middle = ~sacrum & ~hip & (gap <= CLEFT_MM) & (np.abs(to_sacrum - to_hip) <= max(spacing))
    if np.count_nonzero(middle) < 10:
        raise InputError("the label map has no joint: sacrum and hip are apart")
    z, y, x = (np.argwhere(middle) * spacing).T
    thirds = np.clip(3 * (z - z.min()) / max(np.ptp(z), 1e-6), 0, 2.999).astype(int)
    if min(np.bincount(thirds, minlength=3)) < 3:
        raise InputError("the joint is seen on too few slices to measure its angles")
    angles = [np.degrees(np.arctan(np.polyfit(y[thirds == third], x[thirds == third], 1)[0]))
              for third in range(3)]
    return {
        "joint_height": extent(middle, 0, spacing), "joint_ap": extent(middle, 1, spacing),
        "gap_median": np.median(gap[middle]), "gap_p10": np.percentile(gap[middle], 10),
        "joint_area_cm2": level_area(to_sacrum - to_hip, gap <= CLEFT_MM, spacing) / 100,
        "obliq_lower": angles[0], "obliq_middle": angles[1], "obliq_upper": angles[2],
        "joint_centre_lat": x.mean() + box[2].start * spacing[2],
    }


def level_area(level: NDArray, where: Mask, spacing: Sequence[float]) -> float:
    """Area in mm2 of the surface level = 0 (d, h, w) inside `where`: the integral of delta(level) |grad
    level|."""
    width = 2 * max(spacing)
    delta = np.clip(1 - np.abs(level) / width, 0, None) / width
    steep = np.sqrt(sum(slope**2 for slope in np.gradient(level, *spacing)))
    return float((delta * steep)[where].sum() * np.prod(spacing))
