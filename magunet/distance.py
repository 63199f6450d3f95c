"""Distance to the surface of a mask, finer than its voxels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]

FAR = 40.0  # mm, the distances are cut off here
NEAR = 30  # mm, farther away from the mask they are FAR


def mask_distance(mask: NDArray[np.bool_], spacing: Sequence[float], resolution: float) -> Array:
    """Signed distance (mm, negative inside, cut off at 40 mm) to a mask's surface, on an isotropic grid.

    mask: (d, h, w) with `spacing` (z, y, x) in mm. The grid has `resolution` mm and begins at the same voxel
    centre; the surface is where the mask, smoothed by about a voxel, falls to one half.
    """
    zoom = [s / resolution for s in spacing]
    shape = [max(2, round(n * f)) for n, f in zip(mask.shape, zoom)]
    soft = ndimage.gaussian_filter(mask.astype(np.float32), [0.7 * resolution / s for s in spacing])
    soft = ndimage.affine_transform(soft, [1 / f for f in zoom], output_shape=shape, order=1, mode="nearest")
    distance = np.full(shape, FAR, np.float32)
    inside = soft > 0.5
    if not inside.any():
        return distance
    (box,) = ndimage.find_objects(inside.astype(np.uint8))
    pad = int(NEAR / resolution)
    box = tuple(slice(max(0, b.start - pad), b.stop + pad) for b in box)
    inside, soft = inside[box], soft[box]
    rim = inside & ~ndimage.binary_erosion(inside)
    side = np.where(inside, -1, 1)
    signed = side * ndimage.distance_transform_edt(~rim) - 0.5  # the rim lies half a voxel deep
    near = np.abs(signed) < 1
    slope = np.sqrt(2 * np.pi) * 0.85  # of the smoothed edge, in voxels a unit
    signed[near] = np.clip((0.5 - soft[near]) * slope, -1, 1)
    distance[box] = np.clip(signed * resolution, -FAR, FAR)
    return distance


def distance_at_voxels(mask: NDArray[np.bool_], spacing: Sequence[float], resolution: float = 1.0) -> Array:
    """The same distance at the mask's own voxel centres: (d, h, w).

    Unlike a distance transform, which measures from voxel centre to voxel centre, it does not depend on the
    size of the voxels.
    """
    fine = mask_distance(mask, spacing, resolution)
    return ndimage.affine_transform(fine, [s / resolution for s in spacing], output_shape=mask.shape, order=1, mode="nearest")
