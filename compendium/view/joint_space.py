"""The width of the joint space, measured on the CT across the joint that a mask marks.

The mask alone cannot tell it, for it is a band that reaches into both bones. But it says where the joint is and how it lies.
Through its middle a surface is laid, and across that, every ``CELL`` mm, a profile of HU is read. In a profile the cleft is the
lowest point near the middle, with a subchondral plate, the highest point, on each side; its width is the distance between the
two places where HU rise halfway from the cleft to a plate (full width at half maximum).

Half maxima are right for clefts wider than the scanner's blur; a narrower cleft is filled up and reads too wide, or is not
seen at all. So a profile counts only where both plates rise ``CONTRAST`` HU above the cleft, and a joint is measured only where
voxels are small enough and half of its profiles count; else the answer is None, with the reason. The mean is over the profiles
that count: bridged and blurred parts of the joint are left out of it, and ``share`` says how much that was.
``python benchmarks/joint_space.py`` measures the error on phantoms, whose clefts are known.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from magunet.volume import Volume

CELL, SMOOTH = 1.5, 3.0
"""Distance of profiles, and sigma of the smoothing of the middle surface, in mm."""
STEP, REACH, SEARCH, BESIDE = 0.25, 10.0, 3.0, 1.0
"""mm. Along a profile: distance of its points, and its half length. The cleft lies at most SEARCH from the mask's middle.
Each profile is the mean of itself and four parallel ones BESIDE it, against noise."""
PLATE = 5.5
"""A plate lies at most so many mm from the lowest point of the cleft."""
CONTRAST = 150.0
"""HU."""
LEAST_SHARE, LEAST_PROFILES, LARGEST_VOXEL = 0.5, 50, 1.0
"""Below the share or the number of profiles that count, and above the size of a voxel across the joint in mm, nothing is
measured."""


@dataclass(frozen=True)
class JointSpace:
    """Mean and SD of the width in mm, or None and the ``reason``; of ``profiles`` read, ``share`` in [0, 1] counted."""

    mean: float | None
    sd: float | None
    profiles: int
    share: float
    reason: str | None = None


def joint_space(scan: Volume, joint: Volume) -> JointSpace:
    """The width of one joint's space. scan: CT in HU. joint: its mask on the scan's grid, non-zero is the joint.

    Both may lie in any orientation; all lengths are in mm of the patient.
    """
    if not joint.array.any():
        return JointSpace(None, None, 0, 0.0, "the mask has no joint on this side")
    too_small = f"the joint is too small for {LEAST_PROFILES} profiles"
    if np.count_nonzero(joint.array) < LEAST_PROFILES:
        return JointSpace(None, None, 0, 0.0, too_small)
    places, normals, widths = measured_widths(scan, joint)
    if len(places) < LEAST_PROFILES:
        return JointSpace(None, None, len(places), 0.0, too_small)
    voxel = float(np.mean(np.linalg.norm(normals @ joint.direction * joint.spacing[::-1], axis=1)))
    if voxel > LARGEST_VOXEL:
        reason = f"voxels measure {voxel:.2f} mm across the joint; at most {LARGEST_VOXEL:g} mm resolve it"
        return JointSpace(None, None, len(places), 0.0, reason)
    counted = widths[np.isfinite(widths)]
    share = len(counted) / len(widths)
    if share < LEAST_SHARE or len(counted) < LEAST_PROFILES:
        return JointSpace(None, None, len(widths), share,
                          f"a cleft is seen in {share:.0%} of the profiles; at least {LEAST_SHARE:.0%} are needed")
    return JointSpace(float(counted.mean()), float(counted.std()), len(widths), share)


def measured_widths(scan: Volume, joint: Volume) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the profiles are (n, 3) in mm, LPS, which way they run (n, 3), and the cleft's width in each (n,) in mm, NaN where
    none is seen. Arguments as for `joint_space`; of a mask in pieces, the largest."""
    places, normals = middle_surface(_largest_piece(joint))
    return places, normals, np.array([cleft_width(profile) for profile in _profiles(scan, places, normals)])


def middle_surface(joint: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Places (n, 3) in mm, LPS, on the surface halfway through a mask's thinnest direction, and the normals (n, 3) there.

    The surface is a height over the plane that fits the mask best, smoothed; its rim is left out.
    """
    index = np.argwhere(joint.array != 0)[:, ::-1]                                     # x-y-z
    points = np.asarray(joint.origin) + index * joint.spacing[::-1] @ joint.direction.T
    centre = points.mean(axis=0)
    axes = np.linalg.eigh(np.cov((points - centre).T))[1].T[::-1]                      # rows: along, along, across
    along, across = np.split((points - centre) @ axes.T, [2], axis=1)
    low = along.min(axis=0)
    cell = np.floor((along - low) / CELL).astype(int)
    shape = tuple(cell.max(axis=0) + 1)
    top, bottom = np.full(shape, -np.inf), np.full(shape, np.inf)
    np.maximum.at(top, tuple(cell.T), across[:, 0])
    np.minimum.at(bottom, tuple(cell.T), across[:, 0])
    held = np.isfinite(top)
    sums = np.where(held, top, 0) / 2 + np.where(held, bottom, 0) / 2
    weight, height = (ndimage.gaussian_filter(a, SMOOTH / CELL, mode="constant") for a in (held.astype(float), sums))
    height /= np.maximum(weight, 1e-6)
    slopes = np.gradient(height, CELL) if min(shape) > 1 else np.zeros((2, *shape))
    inner = held & (weight > 0.6)                                                      # 0.5 is the rim
    normals = np.stack([-slopes[0][inner], -slopes[1][inner], np.ones(inner.sum())], axis=1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    places = np.column_stack([low + (np.argwhere(inner) + 0.5) * CELL, height[inner]])
    return centre + places @ axes, normals @ axes


def cleft_width(profile: np.ndarray) -> float:
    """Width in mm of the cleft in a profile of HU (2 REACH / STEP + 1,) whose middle is the middle of the joint; NaN where
    there is none: a plate missing, too little contrast, or the profile leaves the scan."""
    middle, search, plate = len(profile) // 2, round(SEARCH / STEP), round(PLATE / STEP)
    near = profile[middle - search:middle + search + 1]
    if not np.isfinite(profile).all():
        return np.nan
    lowest = middle - search + int(near.argmin())
    cleft, width = profile[lowest], 0.0
    for side in (profile[lowest::-1][:plate + 1], profile[lowest:][:plate + 1]):       # outwards from the lowest point
        if side.max() - cleft < CONTRAST:
            return np.nan
        half = (side.max() + cleft) / 2
        first = int(np.argmax(side >= half))
        width += first - 1 + (half - side[first - 1]) / (side[first] - side[first - 1])
    return width * STEP


def _profiles(scan: Volume, places: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """HU (n, points) along the normals (n, 3) through the places (n, 3), linear, NaN outside the scan."""
    beside = np.cross(normals, np.eye(3)[np.abs(normals).argmin(axis=1)])
    beside /= np.linalg.norm(beside, axis=1, keepdims=True)
    other = np.cross(normals, beside)
    offsets = [0 * beside, *(sign * BESIDE * vector for sign in (-1, 1) for vector in (beside, other))]
    along = np.arange(-REACH, REACH + STEP / 2, STEP)[:, None] * normals[:, None]      # (n, points, 3)
    total = 0.0
    for offset in offsets:
        world = (places + offset)[:, None] + along - np.asarray(scan.origin)
        index = world @ scan.direction / scan.spacing[::-1]
        total += ndimage.map_coordinates(scan.array, np.moveaxis(index[..., ::-1], -1, 0), np.float32, 1, cval=np.nan)
    return total / len(offsets)


def _largest_piece(joint: Volume) -> Volume:
    pieces, _ = ndimage.label(joint.array != 0, np.ones((3, 3, 3)))
    return joint.with_array(pieces == 1 + np.bincount(pieces.ravel())[1:].argmax())
