"""The patient in a scan: where the body lies in the field of view, and whether its values can be HU."""

import numpy as np
from scipy import ndimage

from magunet.base.errors import require
from magunet.series import AIR_HU, PADDING_HU
from magunet.volume import Volume, bounding_box, reorient

COARSE = 4.0
"""mm between the voxels that are looked at to find the body."""
BODY_HU = -300
"""The body is denser: fat lies near -100 HU; air, foam and padding are below."""
SOFT_HU = 200
"""Fat and muscle lie between -200 and 200 HU, noise included; bone reaches higher."""
NARROW_MM = 250
"""An adult's hips are wider; scaled down so far, the real sample CT is no more segmented."""
CENTRAL_MM = 80
"""Only bones that lie no farther from the middle of a pelvis decide where it is: no arms, and no edges."""
MEAN_SHIFTS = 30
"""Steps towards that middle; it moves no more after some ten."""
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


def around_body(scan: Volume, side: float) -> Volume:
    """The body alone, in LPS, in slices cut or filled up with air to squares of ``side`` mm around its bones:
    neither the field of view, nor what lies beside the patient, nor the scanner's coordinates, nor how much
    of the skin is in view decides what a network sees."""
    lps = reorient(scan, "LPS")
    inside, grid = body(lps)
    steps = [part.step for part in grid]
    bones = sum((plane > SOFT_HU).astype(int) for plane in lps.array)   # number in each line of voxels (h, w)
    reach = np.divide(CENTRAL_MM, lps.spacing[1:])
    column = _middle(bones.sum(0), reach[1])
    row = _middle(bones[:, abs(np.arange(bones.shape[1]) - column) <= reach[1]].sum(1), reach[0])   # no arms
    corner = np.subtract((row, column), side / 2 / np.array(lps.spacing[1:]))
    first = np.floor(corner + 0.4999).astype(int)       # halves go down, also where they are off by rounding
    shape, kind = [round(side / s) for s in lps.spacing[1:]], lps.array.dtype
    air = max(PADDING_HU, np.iinfo(kind).min) if kind.kind in "iu" else PADDING_HU
    square = np.full((len(lps.array), *shape), air, kind)
    ends = [(max(0, a), min(n, a + m)) for a, n, m in zip(first, lps.array.shape[1:], shape)]
    source = tuple(slice(start, end) for start, end in ends)
    target = tuple(slice(start - a, end - a) for (start, end), a in zip(ends, first))
    skin = ndimage.binary_dilation(inside, np.ones((3, 3, 3)))          # belongs to the body, too
    coarse = np.ix_(*(np.arange(start, end) // step for (start, end), step in zip(ends, steps[1:])))
    for z, plane in enumerate(lps.array):                               # one by one, to save memory
        np.copyto(square[z][target], plane[source], where=skin[z // steps[0]][coarse])
    return Volume(square, lps.spacing, tuple(lps.to_world((0, *first)).tolist()), lps.direction)


def _middle(counts: np.ndarray, reach: float) -> float:
    """The place that is the mean of the counts (n,) within ``reach`` of it, from their median on; the middle
    where nothing was counted."""
    places = np.repeat(np.arange(len(counts)), counts)
    middle = float(np.median(places)) if len(places) else (len(counts) - 1) / 2
    for _ in range(MEAN_SHIFTS if len(places) else 0):
        middle = float(places[abs(places - middle) <= reach].mean())
    return middle


def body_extent(scan: Volume) -> dict[str, float]:
    """How far the body reaches in the scan, in mm: ``width``, left to right, ``depth`` and ``height``."""
    lps = reorient(scan, "LPS")
    inside, grid = body(lps)
    sides = [(part.stop - part.start) * every.step for part, every in zip(bounding_box(inside), grid)]
    return dict(zip(("height", "depth", "width"), np.multiply(sides, lps.spacing).round(1).tolist()))


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
