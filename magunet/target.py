"""The segmentation target: the band of tissue around each sacroiliac joint.

One definition serves phantoms and every bone-labelled data set: all points closer than `thickness` mm to the
sacrum AND to the hip bone of that side. It holds the joint space and the subchondral bone on both sides of
it, where the erosions, the sclerosis and the bridges of sacroiliitis sit.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from magunet.base.errors import InputError
from magunet.distance import distance_at_voxels

THICKNESS = 6.0  # mm
_EDGE_SIGMA = 1.5  # mm, rounds the edge of the band
_SPECK = 0.2  # pieces smaller than this fraction of the largest piece are dropped

Array = NDArray[np.floating]


def joint_band(
    to_sacrum: Array, to_hip: Array, spacing: Sequence[float], thickness: float = THICKNESS
) -> NDArray[np.bool_]:
    """Returns where both bones are closer than `thickness` mm, smoothed, without specks.

    `to_sacrum` and `to_hip` are distances in mm (d, h, w), 0 or negative inside the bone; `spacing` is
    (z, y, x) in mm. The result is a boolean array (d, h, w), empty where the bones never come close.
    """
    band = (to_sacrum < thickness) & (to_hip < thickness)
    if not band.any():
        return band
    box = _bounding_box(band, 4 * _EDGE_SIGMA, spacing)
    smooth = ndimage.gaussian_filter(band[box].astype(np.float32), [_EDGE_SIGMA / s for s in spacing]) > 0.5
    band[box] = _drop_specks(smooth)
    return band


def sij_mask(
    sacrum: NDArray,
    left_hip: NDArray,
    right_hip: NDArray,
    spacing: Sequence[float],
    thickness: float = THICKNESS,
) -> NDArray[np.uint8]:
    """Returns the sacroiliac joints (1) of both sides from masks of the three bones.

    The masks are (d, h, w), nonzero inside the bone; `spacing` is (z, y, x) in mm; the result is uint8
    (d, h, w). Raises `InputError` when shapes differ, a bone is empty, or no joint is found on either side.
    """
    bones = {"sacrum": sacrum, "left hip": left_hip, "right hip": right_hip}
    bones = {name: np.asarray(bone) != 0 for name, bone in bones.items()}
    _check(bones)
    mask = np.zeros(bones["sacrum"].shape, np.uint8)
    for side in ("left hip", "right hip"):
        near = _common_box(bones["sacrum"], bones[side], thickness, spacing)
        if near is None or not (bones["sacrum"][near].any() and bones[side][near].any()):
            continue
        distances = [distance_at_voxels(bones[name][near], spacing) for name in ("sacrum", side)]
        mask[near] |= joint_band(*distances, spacing, thickness)
    if not mask.any():
        raise InputError(
            f"no sacroiliac joint: neither hip comes within {thickness:g} mm of the sacrum; "
            "check the labels and the spacing, or raise the thickness"
        )
    return mask


def _check(bones: dict[str, NDArray[np.bool_]]) -> None:
    shapes = {name: bone.shape for name, bone in bones.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"the bone masks differ in shape ({shapes}); resample them to one grid")
    for name, bone in bones.items():
        if not bone.any():
            raise InputError(f"the mask of the {name} is empty; check which label is the {name}")


def _bounding_box(mask: NDArray[np.bool_], margin: float, spacing: Sequence[float]) -> tuple[slice, ...]:
    """The slices that hold the mask and `margin` mm around it."""
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    pads = [int(np.ceil(margin / s)) + 1 for s in spacing]
    return tuple(slice(max(0, b.start - p), b.stop + p) for b, p in zip(box, pads))


def _common_box(
    first: NDArray[np.bool_], second: NDArray[np.bool_], margin: float, spacing: Sequence[float]
) -> tuple[slice, ...] | None:
    """Where the two bounding boxes, each grown by `margin`, overlap; None when they do not."""
    boxes = [_bounding_box(mask, 2 * margin, spacing) for mask in (first, second)]
    common = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(*boxes))
    return None if any(s.start >= s.stop for s in common) else common


def _drop_specks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pieces, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count < 2:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return (sizes >= _SPECK * sizes.max())[pieces]
