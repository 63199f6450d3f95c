"""The patient in a scan: where the body lies in the field of view, and whether its values can be HU."""

import numpy as np
from scipy import ndimage

from magunet.base.errors import require
from magunet.series import AIR_HU
from magunet.volume import Volume, bounding_box, reorient

COARSE = 4.0
"""mm between the voxels that are looked at to find the body."""
BODY_HU = -300
"""The body is denser: fat lies near -100 HU; air, foam and padding are below."""
SOFT_HU = 200
"""Fat and muscle lie between -200 and 200 HU, noise included; bone reaches higher."""
NARROW_MM = 250
"""An adult's hips are wider; scaled down so far, the real sample CT is no more segmented."""
OFFSET = 1024
"""What scanners add to HU so that stored values are positive; the rescale intercept takes it off again."""


def body(scan: Volume) -> tuple[np.ndarray, tuple[slice, ...]]:
    """The body on some voxels of a scan (d, h, w), and which: without tables, blankets, and arms that lie
    apart from it. Raises InputError where nothing is as dense as a body."""
    grid = tuple(slice(None, None, max(1, int(COARSE / s))) for s in scan.spacing)
    dense = scan.array[grid] > BODY_HU
    require(dense.any(), f"no voxel is denser than {BODY_HU} HU, so there is no body; give a CT in HU")
    opened = ndimage.binary_opening(dense, iterations=2)                # cuts what is thinner than 16 mm
    pieces, _ = ndimage.label(opened if opened.any() else dense)
    inside = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
    return ndimage.binary_dilation(inside, iterations=2, mask=dense), grid


def body_box(scan: Volume) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Where the body begins and how far it reaches, mm (z, y, x), in a scan turned to LPS, from its first
    voxel on. Raises InputError as `body`."""
    lps = reorient(scan, "LPS")
    inside, grid = body(lps)
    steps = [part.step * s for part, s in zip(grid, lps.spacing)]
    sides = list(zip(bounding_box(inside), steps))
    return (tuple(side.start * step for side, step in sides),
            tuple((side.stop - side.start) * step for side, step in sides))


def hu_problem(scan: Volume) -> str | None:
    """Why the values of a CT of the pelvis cannot be HU, None if they can.

    Padding does not matter, since they are judged on the body: in our phantoms and a real CT at least 0.86 of
    it is as dense as fat and muscle, and at most 0.13 as bone.
    """
    low, high = float(scan.array.min()), float(scan.array.max())
    if low >= AIR_HU:
        guess = (f"perhaps an offset of {OFFSET} was not taken off" if high > OFFSET else
                 "perhaps normalised" if low < 0 or high > 255 else
                 "a label map or a picture" if high > 1 else "scaled to 0 to 1")
        reason = f"no voxel is below {AIR_HU} HU, so there is no air ({low:g} to {high:g}: {guess})"
    elif high <= SOFT_HU:
        reason = f"no voxel is above {SOFT_HU} HU, so there is no bone"
    else:
        inside, grid = body(scan)
        values = scan.array[grid][inside]
        dense = values[values > SOFT_HU]
        bone, soft = len(dense) / len(values), np.mean(values >= -SOFT_HU) - len(dense) / len(values)
        if soft >= 0.6 and bone <= 0.3:
            return None
        raised = np.count_nonzero((dense > OFFSET - 250) & (dense < OFFSET + 250)) > len(dense) / 2
        reason = (f"most of the body lies near {OFFSET}, so perhaps an offset of {OFFSET} was not taken off"
                  if raised else f"{soft:.0%} of the body are as dense as fat and muscle, and {bone:.0%} as "
                  "bone, which no patient is")
    return f"the intensities are not HU: {reason}; export the CT again with rescale slope and intercept"
