"""The segmentation target: the band of tissue around each sacroiliac joint.

One definition serves phantoms and every bone-labelled data set: all points closer than ``thickness`` mm to
the sacrum and to the hip bone of that side. It holds the joint space and the subchondral bone on both sides
of it, where the erosions, the sclerosis and the bridges of sacroiliitis sit.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from magunet.base.errors import require
from magunet.volume import bounding_box

THICKNESS = 6.0
"""Default thickness of the band on either side of the joint, in mm."""
FAR = 40.0
"""Largest distance in mm; what is farther away counts as this far."""
NEAR = 30
"""Distances are computed in the box around the mask that is this much larger on every side, in mm."""


def sij_mask(sacrum: np.ndarray, left_hip: np.ndarray, right_hip: np.ndarray, spacing: Sequence[float],
             thickness: float = THICKNESS) -> np.ndarray:
    """Mask of the sacroiliac joints (1), uint8, of both sides from masks of the bones, nonzero inside.

    All are (d, h, w); spacing is (z, y, x) in mm.
    Raises InputError when shapes differ, a bone is empty, or no joint is found on either side.
    """
    bones = {"sacrum": sacrum != 0, "left hip": left_hip != 0, "right hip": right_hip != 0}
    shapes = {bone.shape for bone in bones.values()}
    require(len(shapes) == 1, f"the bone masks differ in shape {sorted(shapes)}; resample them to one grid")
    for name, bone in bones.items():
        require(bone.any(), f"the mask of the {name} is empty; check which label is the {name}")
    margin = [int(np.ceil(2 * thickness / s)) + 1 for s in spacing]
    boxes = {name: bounding_box(bone, margin) for name, bone in bones.items()}
    mask = np.zeros(*shapes, np.uint8)
    for side in ("left hip", "right hip"):
        pairs = zip(boxes["sacrum"], boxes[side])
        near = tuple(slice(max(a.start, b.start), max(b.start, min(a.stop, b.stop))) for a, b in pairs)
        if bones["sacrum"][near].any() and bones[side][near].any():
            distances = [distance_at_voxels(bones[name][near], spacing) for name in ("sacrum", side)]
            mask[near] |= joint_band(*distances, spacing, thickness)
    require(mask.any(), f"no sacroiliac joint: neither hip comes within {thickness:g} mm of the sacrum; "
            "check the labels and the spacing, or raise the thickness")
    return mask


def joint_band(to_sacrum: np.ndarray, to_hip: np.ndarray, spacing: Sequence[float],
               thickness: float = THICKNESS) -> np.ndarray:
    """Where both bones are closer than ``thickness`` mm, smoothed, without specks.

    to_sacrum, to_hip: distances in mm (d, h, w), 0 or negative inside the bone. spacing: (z, y, x) in mm. The
    result (d, h, w) is empty where the bones never come close.
    """
    band = (to_sacrum < thickness) & (to_hip < thickness)
    if not band.any():
        return band
    sigma = [1.5 / s for s in spacing]                                  # rounds the edge of the band
    box = bounding_box(band, [int(np.ceil(4 * s)) + 1 for s in sigma])
    smooth = ndimage.gaussian_filter(band[box].astype(np.float32), sigma) > 0.5
    pieces, _ = ndimage.label(smooth, np.ones((3, 3, 3)))
    sizes = np.bincount(pieces[smooth], minlength=1)                    # voxels of each piece
    band[box] = smooth & (sizes >= 0.2 * sizes.max())[pieces]
    return band


def distance_at_voxels(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Signed distance in mm to the surface of a mask (d, h, w) at its own voxel centres, as `mask_distance`;
    unlike a distance transform's, the same for voxels of any size."""
    fine = mask_distance(mask, spacing, 1)
    return ndimage.affine_transform(fine, spacing, output_shape=mask.shape, order=1, mode="nearest")


def mask_distance(mask: np.ndarray, spacing: Sequence[float], resolution: float) -> np.ndarray:
    """Signed distance (mm, negative inside, at most 40 mm) to a mask's surface, on an isotropic grid.

    mask: (d, h, w) with spacing (z, y, x) in mm. The grid's voxels are ``resolution`` mm wide, and it begins
    at the same voxel centre; the surface is where the mask, smoothed by about a voxel, falls to one half.
    """
    zoom = [s / resolution for s in spacing]
    shape = [max(2, round(n * f)) for n, f in zip(mask.shape, zoom)]
    soft = ndimage.gaussian_filter(mask.astype(np.float32), [0.7 * resolution / s for s in spacing])
    soft = ndimage.affine_transform(soft, [1 / f for f in zoom], output_shape=shape, order=1, mode="nearest")
    distance = np.full(shape, FAR, np.float32)
    inside = soft > 0.5
    if not inside.any():
        return distance
    box = bounding_box(inside, int(NEAR / resolution))
    inside, soft = inside[box], soft[box]
    rim = inside & ~ndimage.binary_erosion(inside)
    side = np.where(inside, -1, 1)
    signed = side * ndimage.distance_transform_edt(~rim) - 0.5              # the rim lies half a voxel deep
    near = np.abs(signed) < 1
    slope = 0.85 * np.sqrt(2 * np.pi)               # voxels for each unit of the smoothed mask's difference
    signed[near] = np.clip((0.5 - soft[near]) * slope, -1, 1)
    distance[box] = np.clip(signed * resolution, -FAR, FAR)
    return distance
