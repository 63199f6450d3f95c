"""Distances between the surfaces of two masks: HD95, ASSD and NSD.

**Surface.** Every eight voxels that meet at a corner, and are not all alike, hold one element of the surface,
at the mean of the midpoints between unlike neighbours among them (surface nets: Gibson, MICCAI 1998). Its
area is |gradient of the mask| x volume of a voxel, the gradient from the differences of the eight. Faces
along the axes are exact at any spacing, edges are rounded; a sphere has 6 % too much area in cubic voxels and
16 % in voxels of 3 x 0.7 x 0.7 mm, which cancels in ASSD and NSD as far as it is even. DeepMind's
``surface-distance`` (Nikolov et al., J Med Internet Res 2021;23:e26151) weighs by area too, but puts elements
on the corner: spheres 3 mm apart come out 2.6 mm apart, here 3.0 (cubic voxels of 1 mm). nnU-Net and MONAI
take border voxels, each counting the same; nnU-Net pools both directions. Outside the scan is background.

**Empty masks.** Both empty: 0 mm and NSD 1. Only one: no distance is defined, so the worst case is taken, NSD
0 and for HD95 and ASSD a penalty, the diagonal of the scan; ``undefined`` says so, and tables count it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.spatial import KDTree, distance_matrix

from magunet.metrics import check_same_shape
from magunet.volume import bounding_box

TOLERANCE_MM = 1.0
"""Default of NSD: surfaces this near count as one."""
CORNERS = np.argwhere(np.ones((2, 2, 2)))
"""The eight voxels around a corner, (8, 3)."""
EDGES = np.argwhere(np.triu(distance_matrix(CORNERS, CORNERS) == 1))
"""The twelve pairs of neighbours among the eight, (12, 2)."""
MIDPOINTS = CORNERS[EDGES].mean(axis=1)
"""Halfway between them, (12, 3)."""


class SurfaceDistances(NamedTuple):
    """From each element of one surface to the nearest of the other, in mm, and the elements' areas in mm²."""

    from_prediction: np.ndarray
    prediction_areas: np.ndarray
    from_truth: np.ndarray
    truth_areas: np.ndarray

    def hausdorff(self, share: float) -> float:
        """The larger of the distances that ``share`` of each surface's area does not exceed; HD95 at 0.95."""
        return max(weighted_quantile(*self[:2], share), weighted_quantile(*self[2:], share))

    def median(self) -> float:
        """Distance in mm that half of the area of both surfaces does not exceed."""
        return weighted_quantile(np.concatenate(self[::2]), np.concatenate(self[1::2]), 0.5)

    def assd(self) -> float:
        """Average symmetric surface distance in mm: the mean over the area of both surfaces."""
        weighted = self.from_prediction @ self.prediction_areas + self.from_truth @ self.truth_areas
        return float(weighted / (self.prediction_areas.sum() + self.truth_areas.sum()))

    def nsd(self, tolerance: float) -> float:
        """Normalised surface Dice: the share of area within ``tolerance`` mm of the other; Nikolov, Eq. 1."""
        limit = tolerance + 1e-6                             # mm; many distances are a whole number of voxels
        near = self.prediction_areas[self.from_prediction <= limit].sum()
        near += self.truth_areas[self.from_truth <= limit].sum()
        return float(near / (self.prediction_areas.sum() + self.truth_areas.sum()))


@dataclass(frozen=True)
class SurfaceScores:
    """HD95 and ASSD in mm, NSD in [0, 1]; ``undefined`` where penalties stand because one mask is empty."""

    hd95: float
    assd: float
    nsd: float
    undefined: bool = False


def surface_scores(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float],
                   penalty: float | None = None, tolerance: float = TOLERANCE_MM) -> SurfaceScores:
    """Scores of a prediction by its surface, symmetric in prediction and truth; InputError if shapes differ.

    prediction, truth: (d, h, w), non-zero is foreground. spacing: mm, (z, y, x). penalty: mm, for HD95 and
    ASSD where only one mask is empty; by default the diagonal of the array. tolerance: mm, of NSD.
    """
    distances = surface_distances(prediction, truth, spacing)
    if distances is not None:
        return SurfaceScores(distances.hausdorff(0.95), distances.assd(), distances.nsd(tolerance))
    if not (prediction.any() or truth.any()):
        return SurfaceScores(0.0, 0.0, 1.0)
    worst = diagonal(truth.shape, spacing) if penalty is None else penalty
    return SurfaceScores(worst, worst, 0.0, undefined=True)


def surface_distances(prediction: np.ndarray, truth: np.ndarray,
                      spacing: Sequence[float]) -> SurfaceDistances | None:
    """All distances between the surfaces of two masks, as in `surface_scores`; None where one is empty."""
    check_same_shape(prediction, truth)
    if not (prediction.any() and truth.any()):
        return None
    (a, a_areas), (b, b_areas) = (surface_elements(mask, spacing) for mask in (prediction, truth))
    return SurfaceDistances(KDTree(b).query(a)[0], a_areas, KDTree(a).query(b)[0], b_areas)


def surface_elements(mask: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Places (n, 3), mm from the centre of voxel [0, 0, 0], and areas (n,), mm², of a mask not empty."""
    box = bounding_box(mask)
    inside = np.pad(mask[box] != 0, 1)
    size = np.subtract(inside.shape, 1)
    filled = sum(inside[tuple(map(slice, corner, corner + size))].view(np.int8) for corner in CORNERS)
    first = np.argwhere((filled > 0) & (filled < 8))                         # (n, 3), first of eight voxels
    eight = inside[tuple((first[:, None] + CORNERS).transpose(2, 0, 1))]     # (n, 8)
    unlike = eight[:, EDGES[:, 0]] != eight[:, EDGES[:, 1]]                  # (n, 12)
    place = first + unlike @ MIDPOINTS / unlike.sum(axis=1, keepdims=True)   # (n, 3)
    cube = eight.reshape(-1, 2, 2, 2).astype(float)
    slopes = [np.diff(cube, axis=axis + 1).mean((1, 2, 3)) / spacing[axis] for axis in range(3)]
    start = np.array([side.start for side in box]) - 1                       # of the padded box
    return (place + start) * spacing, np.linalg.norm(np.stack(slopes, axis=1), axis=1) * np.prod(spacing)


def weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """The smallest value at or below which at least ``share`` of the weight lies."""
    return float(np.quantile(values, share * (1 - 1e-12), weights=weights, method="inverted_cdf"))


def diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Longest distance in a grid (z, y, x), from corner to corner, in mm."""
    return float(np.linalg.norm(np.multiply(shape, spacing)))
