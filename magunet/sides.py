"""The left and the right joint of a scan, told apart by where the truth has them."""

import numpy as np

SIDES = ("left", "right")
"""Of the patient."""
GAP_MM = 10.0
"""Columns without truth between the joints, at least; a narrower gap lies within one joint."""


def halves(truth: np.ndarray, pixel_mm: float) -> dict[str, tuple]:
    """Side -> index of its half of an LPS array (d, h, w), given the true mask and the width of a column in mm.

    The cut runs along the grid, between two columns: see `midline`.
    """
    middle = midline(truth, pixel_mm)
    return {"left": np.s_[..., middle:], "right": np.s_[..., :middle]}       # columns run to the patient's left


def midline(truth: np.ndarray, pixel_mm: float) -> int:
    """The first column of the patient's left half of an LPS mask (d, h, w).

    The middle of the widest gap between columns that hold truth. Where no gap is wider than GAP_MM there is one joint
    or none: then the middle of the grid, or the nearer end of that joint if the middle would cut it.
    """
    middle = truth.shape[2] // 2
    columns = np.flatnonzero(truth.any((0, 1)))
    if not len(columns):
        return middle
    gaps = np.diff(columns) - 1
    if len(gaps) and gaps.max() * pixel_mm > GAP_MM:
        before = int(gaps.argmax())
        return int(columns[before] + columns[before + 1] + 1) // 2
    first, end = int(columns[0]), int(columns[-1]) + 1
    if first < middle < end:
        return first if middle - first < end - middle else end
    return middle
