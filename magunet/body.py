"""The patient in a scan: where the body lies in the field of view, and whether its values can be HU."""

import numpy as np
from scipy import ndimage

from magunet.base.errors import require
from magunet.volume import Volume, bounding_box, onto_grid, reorient

COARSE = 4.0
"""mm between the voxels that are looked at to find the body."""
BODY_HU = -300
"""The body is denser: fat lies near -100 HU; air, foam and padding are below."""
AIR = -1000
"""HU of what is filled in where a scan ends."""


def body(scan: Volume) -> tuple[np.ndarray, tuple[int, ...]]:
    """The body on every so many voxels of a scan (d, h, w), and how many: without tables, blankets, and arms
    that lie apart from it. Raises InputError where nothing is as dense as a body."""
    steps = tuple(max(1, int(COARSE / s)) for s in scan.spacing)
    dense = scan.array[tuple(slice(None, None, step) for step in steps)] > BODY_HU
    require(dense.any(), f"no voxel is denser than {BODY_HU} HU, so there is no body; give a CT in HU")
    opened = ndimage.binary_opening(dense, iterations=2)                # cuts what is thinner than 16 mm
    pieces, _ = ndimage.label(opened if opened.any() else dense)
    inside = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
    return ndimage.binary_dilation(inside, iterations=2, mask=dense) if opened.any() else inside, steps


def around_body(scan: Volume, side: float, step: float) -> Volume:
    """The body alone, in LPS, in slices cut or filled up with air to squares of ``side`` mm around it: so
    neither the field of view nor what lies in it beside the patient decides what a network sees.

    The square moves in steps of ``step`` mm, so that it stays in place when something small comes into view.
    """
    lps = reorient(scan, "LPS")
    inside, steps = body(lps)
    middle = lps.to_world(tuple(np.multiply(ndimage.center_of_mass(inside), steps))) @ lps.direction
    corner = step * np.round(middle / step) - side / 2 - lps.origin @ lps.direction     # mm, along x, y, z
    first = np.round(corner / lps.spacing[::-1])[1::-1]                                 # row, column
    shape = len(lps.array), *(round(side / s) for s in lps.spacing[1:])
    square = Volume(np.broadcast_to(np.uint8(0), shape), lps.spacing, tuple(lps.to_world((0, *first))),
                    lps.direction)
    inside = ndimage.binary_dilation(inside, np.ones((3, 3, 3)))        # the skin, too
    for axis, (count, size) in enumerate(zip(steps, lps.array.shape)):
        inside = inside.repeat(count, axis).take(range(size), axis)
    kind = lps.array.dtype
    air = kind.type(max(AIR, np.iinfo(kind).min) if kind.kind in "iu" else AIR)
    return onto_grid(lps.with_array(np.where(inside, lps.array, air)), square, air)


def body_extent(scan: Volume) -> dict[str, float]:
    """How far the body reaches in the scan, in mm: ``width``, left to right, ``depth`` and ``height``."""
    lps = reorient(scan, "LPS")
    inside, steps = body(lps)
    sides = [(part.stop - part.start) * step for part, step in zip(bounding_box(inside), steps)]
    return dict(zip(("height", "depth", "width"), np.multiply(sides, lps.spacing).round(1).tolist()))
