"""What a network sees of a scan: a region of it in voxels of another size, cut out and put back.

The paper shrinks whole planes; a box of isotropic voxels about both joints, the region of interest, spends
all of its voxels on them.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage, sparse

from magunet.base.errors import require
from magunet.base.profiles import Settings, box_shape
from magunet.body import body_box
from magunet.joints import is_pair
from magunet.volume import Volume, orientation, reorient

NEAR = 20.0
"""mm from a joint within which a piece of a mask can be part of it."""
CANDIDATES = 8
"""Of a mask's pieces, the largest, which may be joints."""
SURE = 0.86
"""Mean probability of one of the joints that the locator finds. Whole joints of 48 phantoms (seeds from
96000) had .89 and more; five of 181 other pieces, in parts of scans, had this and LEAST_ML."""
LEAST_ML = 8.0
"""Of a joint that the locator finds; a whole one has 25 and more."""

Triple = tuple[float, float, float]


class Region(NamedTuple):
    """Voxels along z, y and x of a scan turned to LPS: ``first`` is mm (z, y, x) from the centre of the
    scan's first voxel to that of the region's, ``voxel`` mm lie between them, and there are ``shape``."""

    first: Triple
    voxel: Triple
    shape: tuple[int, int, int]


def region_about(centre: Triple, scan: Volume, voxel: float, margin: float = 0) -> Region:
    """The box about a centre, in mm (z, y, x) from the first voxel of a scan turned to LPS.

    It begins at the centre of a voxel of the scan, so that one of the same spacing is not interpolated.
    """
    shape, spacing = box_shape(voxel, margin), reorient(scan, "LPS").spacing
    first = (s * round((c - (n - 1) / 2 * voxel) / s) for c, n, s in zip(centre, shape, spacing))
    return Region(tuple(first), (voxel,) * 3, shape)


def whole(scan: Volume, voxel: float, body: bool = False) -> Region:
    """All of a scan, or its body alone; raises InputError as `magunet.body.body`."""
    lps = reorient(scan, "LPS")
    first, extent = body_box(lps) if body else ((0.0,) * 3, np.multiply(lps.array.shape, lps.spacing))
    return Region(first, (voxel,) * 3, tuple(math.ceil(side / voxel) for side in extent))


def whole_planes(scan: Volume, settings: Settings, side: float | None = None) -> Region:
    """All slices of a scan, ``slice_mm`` apart, as squares of ``size`` pixels, Sec. 2.1.2. The paper gives no
    slice distance, and as its "N x 256 x 256" suggests, None is the scan's own.

    side: mm of squares about the middle of the body; None: of the scan, as wide as the longer of its sides.
    Raises InputError as `magunet.body.body`.
    """
    lps = reorient(scan, "LPS")
    first, extent = body_box(lps) if side else (np.zeros(3), np.multiply(lps.array.shape, lps.spacing))
    slices = max(1, round(len(lps.array) * lps.spacing[0] / (settings.slice_mm or lps.spacing[0])))
    pixel = (side or max(extent[1:])) / settings.size
    voxel = np.array([len(lps.array) * lps.spacing[0] / slices, pixel, pixel])
    corner = np.array([0, *(np.add(first, np.divide(extent, 2))[1:] - settings.size * pixel / 2)])
    return Region(tuple((corner + (voxel - lps.spacing) / 2).tolist()), tuple(voxel.tolist()),
                  (slices, settings.size, settings.size))


def joints_centre(mask: Volume) -> Triple:
    """The middle between the two joints of a mask, from the first voxel of the grid in LPS: mm (z, y, x).

    The two joints are the largest pieces; of a single piece its own middle is returned.
    Raises InputError when the mask is empty.
    """
    lps = reorient(mask, "LPS")
    pieces, count = ndimage.label(lps.array != 0, np.ones((3, 3, 3)))
    require(count, "the mask is empty, so there is no region of interest; remove the case or label it")
    sizes = np.bincount(pieces.ravel())[1:]
    boxes, largest = ndimage.find_objects(pieces), np.argsort(sizes)[::-1][:2]
    middles = [[(part.start + part.stop - 1) / 2 for part in boxes[number]] for number in largest]
    return tuple((np.mean(middles, axis=0) * lps.spacing).tolist())


def joints(mask: Volume, least_ml: float = 0, sure: float = 0) -> Volume:
    """Those two pieces of a mask, or of probabilities above one half, uint8, that lie apart as two joints do
    and have the largest volume together, or else the largest piece. What is smaller than least_ml is left
    out; both, or else one of the two, or the only one, have a mean probability of ``sure`` or more."""
    pieces, _ = ndimage.label(mask.array > 0.5, np.ones((3, 3, 3)))
    volumes = np.bincount(pieces.ravel()) * np.prod(mask.spacing) / 1000
    largest = [1 + n for n in np.argsort(volumes[1:])[::-1][:CANDIDATES] if volumes[1 + n] >= least_ml]
    middles = map(mask.to_world, ndimage.center_of_mass(pieces > 0, pieces, largest))
    safe = np.array(ndimage.mean(mask.array, pieces, largest)) >= sure
    pairs = [(p and q, volumes[[a, b]].sum(), a, b) for (a, p, at), (b, q, to) in itertools.combinations(
        zip(largest, safe, middles), 2) if (p or q) and is_pair(at, to)]
    _, _, *pair = max(pairs, default=(0, 0, *[*itertools.compress(largest, safe)][:1]))
    return mask.with_array(np.isin(pieces, pair).astype(np.uint8))


def joints_alone(mask: Volume) -> Volume:
    """A mask, uint8, without pieces that lie more than NEAR from both of its `joints`."""
    pieces, count = ndimage.label(mask.array != 0, np.ones((3, 3, 3)))
    away = ndimage.distance_transform_edt(joints(mask).array == 0, mask.spacing)
    nearest = np.array(ndimage.minimum(away, pieces, range(1, count + 1)))
    return mask.with_array(np.isin(pieces, 1 + np.flatnonzero(nearest <= NEAR)).astype(np.uint8))


def linear(n: int, spacing: float, first: float, step: float, m: int) -> sparse.csr_array:
    """(m, n): linear interpolation of n values ``spacing`` apart at m places, ``step`` apart from ``first``
    on, averaging where they are coarser; rows of 0 for places beyond the outer faces."""
    places = first + step * np.arange(m)[:, None]
    weights = np.clip(1 - np.abs(places - spacing * np.arange(n)) / max(step, spacing), 0, None)
    weights *= (places > -spacing / 2) & (places < (n - 0.5) * spacing)
    total = weights.sum(1, keepdims=True)
    return sparse.csr_array((weights / np.where(total > 0, total, 1)).astype(np.float32))


def resample(array: np.ndarray, axes: list[sparse.csr_array], outside: float = 0) -> np.ndarray:
    """An array (d, h, w) by a matrix of `linear` for each axis, float32; ``outside`` where a row is 0."""
    z, y, x = axes
    used, rows, columns = (np.flatnonzero(axis.sum(0)) for axis in axes)
    ends = [slice(part[0], part[-1] + 1) if len(part) else slice(0, 0) for part in (rows, columns)]
    planes = np.zeros((len(used), y.shape[0], x.shape[0]), np.float32)
    for target, k in zip(planes, used):
        plane = array[k][ends[0], ends[1]].astype(np.float32) - np.float32(outside)
        if plane.any():                                     # most planes of a mask are empty
            target[:] = (x[:, columns[0]:columns[-1] + 1] @ (y[:, rows[0]:rows[-1] + 1] @ plane).T).T
    result = (z[:, used] @ planes.reshape(len(used), -1)).reshape(z.shape[0], y.shape[0], x.shape[0])
    return result + np.float32(outside)


def resize(array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """All of an array (d, h, w) in another shape, float32. Its outer faces stay where they are, so that
    resizing back returns to the same place."""
    return resample(array, [linear(n, 1, (n / m - 1) / 2, n / m, m) for n, m in zip(array.shape, shape)])


def cut(scan: Volume, region: Region, outside: float = 0) -> np.ndarray:
    """The region of a scan (d, h, w), float32; ``outside`` is what lies beyond the scan."""
    lps = reorient(scan, "LPS")
    return resample(lps.array, [linear(*axis) for axis in zip(
        lps.array.shape, lps.spacing, region.first, region.voxel, region.shape)], outside)


def placed(values: np.ndarray, region: Region, scan: Volume) -> Volume:
    """Values (d, h, w) of a region as a volume of its own, where it lies in the patient."""
    lps = reorient(scan, "LPS")
    origin = lps.to_world(np.divide(region.first, lps.spacing))
    return Volume(values, region.voxel, tuple(origin.tolist()), lps.direction)


def put_back(values: np.ndarray, region: Region, scan: Volume) -> Volume:
    """Values (d, h, w) of a region on the scan's own grid, float32; 0 beyond it."""
    lps = reorient(scan, "LPS")
    array = resample(values, [linear(m, voxel, -first, s, n) for n, s, first, voxel, m in zip(
        lps.array.shape, lps.spacing, *region)])
    return scan.with_array(reorient(lps.with_array(array), orientation(scan)).array)
