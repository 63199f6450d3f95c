"""A scan and labels made small enough for a viewer, and placed so that every viewer shows them the right way up.

Viewers differ in what they make of directions: itkwidgets ignores them. So a preview always lies along the patient's axes
(LPS: x to the left, y to posterior, z to superior). Oblique scans are interpolated onto such a grid.
"""

import numpy as np
from scipy import ndimage

from compendium.figures.planes import agreement
from compendium.view.parts import LABEL_COLOURS
from magunet.base.errors import InputError
from magunet.prepare import resize
from magunet.volume import Volume, corners, reorient, same_geometry

LARGEST_SIDE = 128
"""Voxels a side of a preview; a browser that draws without a graphics card needs seconds for each picture of more."""
HU_RANGE = (-1000.0, 2000.0)
"""Previews are clipped to it: a speck of metal would spoil every transfer function."""
LABEL_NUMBERS = {name: number for number, name in enumerate(LABEL_COLOURS, 1)}
SHOWN = ("truth", "prediction", "error map")
"""What labels can show."""


def label_map(shown: str, truth: Volume | None, prediction: Volume | None) -> Volume | None:
    """Labels of `SHOWN` as numbers of `LABEL_NUMBERS`, uint8, on the masks' own grid; None where a mask for it is missing.

    The error map tells correct, missed and extra voxels apart. Raises InputError when the masks lie on different grids.
    """
    if shown not in SHOWN:
        raise InputError(f"labels can show {', '.join(SHOWN)}; not {shown!r}")
    if shown != "error map":
        mask = truth if shown == "truth" else prediction
        return mask and mask.with_array(np.where(mask.array != 0, LABEL_NUMBERS[shown], 0).astype(np.uint8))
    if truth is None or prediction is None:
        return None
    if not same_geometry(truth, prediction):
        raise InputError("truth and prediction lie on different grids; resample one onto the other")
    return truth.with_array(agreement(prediction.array, truth.array))


def preview(scan: Volume, labels: Volume | None = None, side: int = LARGEST_SIDE) -> tuple[Volume, Volume | None]:
    """Scan (int16 HU) and labels (uint8) along the patient's axes, at most ``side`` voxels a side, on one grid.

    Where the scan shrinks it is averaged; a label is the one at the centre of the new voxel, so that none is made up.
    The labels lie on the scan's grid.
    """
    small = _shrunk(reorient(scan, "LPS"), side, nearest=False)
    marks = None if labels is None else _shrunk(reorient(labels, "LPS"), side, nearest=True)
    if not np.allclose(small.direction, np.eye(3), atol=1e-3):
        grid = _straight_grid(small, side)
        small = _sampled(small, grid, 1, HU_RANGE[0])
        marks = marks and _sampled(marks, grid, 0, 0)
    image = np.clip(np.rint(small.array), *HU_RANGE).astype(np.int16)
    return small.with_array(image), marks and marks.with_array(marks.array.astype(np.uint8))


def _shrunk(volume: Volume, side: int, nearest: bool) -> Volume:
    """At most ``side`` voxels a side; the outer faces stay where they are."""
    shape = tuple(min(n, side) for n in volume.array.shape)
    factors = np.divide(volume.array.shape, shape)
    if nearest:
        array = volume.array[np.ix_(*(((np.arange(n) + 0.5) * f).astype(int) for n, f in zip(shape, factors)))]
    else:
        array = resize(volume.array, shape)
    return Volume(array, tuple(s * f for s, f in zip(volume.spacing, factors)),
                  tuple(volume.to_world(tuple((f - 1) / 2 for f in factors))), volume.direction)


def _straight_grid(volume: Volume, side: int) -> Volume:
    """An empty grid along the patient's axes around an oblique volume, with its spacing or wider."""
    ends = corners(volume)
    low, extent = ends.min(axis=0), np.ptp(ends, axis=0)
    steps = [max(spacing, length / (side - 1)) for spacing, length in zip(reversed(volume.spacing), extent)]
    shape = [1 + int(np.ceil(length / step - 1e-6)) for length, step in zip(extent, steps)]
    return Volume(np.zeros(shape[::-1], np.uint8), tuple(reversed(steps)), tuple(low))


def _sampled(volume: Volume, grid: Volume, order: int, outside: float) -> Volume:
    """The volume at the voxels of another grid; ``order`` as in scipy, ``outside`` where it does not reach."""
    step = grid.direction * grid.spacing[::-1]                                 # columns: mm along an array axis x, y, z
    to_index = np.linalg.inv(volume.direction * volume.spacing[::-1])
    matrix, offset = to_index @ step, to_index @ np.subtract(grid.origin, volume.origin)
    array = ndimage.affine_transform(volume.array, matrix[::-1, ::-1], offset[::-1], grid.array.shape, order=order, cval=outside)
    return grid.with_array(array)


def centre_of(labels: Volume | None, scan: Volume) -> tuple[float, float, float]:
    """Where slice planes start: the middle of all labels, or of the scan; LPS mm (x, y, z)."""
    marked = None if labels is None or not labels.array.any() else labels.array != 0
    index = np.divide(np.subtract(scan.array.shape, 1), 2) if marked is None else ndimage.center_of_mass(marked)
    return tuple(float(v) for v in scan.to_world(tuple(index)))
