"""Distances between the surfaces of two masks: HD95, ASSD and NSD.

**Surface.** Every eight voxels that meet at a corner, and are not all alike, hold one element of the surface. It lies
at the mean of the midpoints between unlike neighbours among them (surface nets: Gibson, MICCAI 1998), and its area is
|gradient of the mask| x volume of a voxel, the gradient from the differences of the eight. Outside the scan is
background, so a mask that touches the border ends there. Faces along the axes are exact at any spacing, edges are
rounded; a sphere has 6 % too much area in cubic voxels and 16 % in voxels of 3 x 0.7 x 0.7 mm, which cancels in ASSD
and NSD as far as it is even. DeepMind's ``surface-distance`` (Nikolov et al., J Med Internet Res 2021;23:e26151) weighs
by area too, from the same eight, but puts all elements on the corner; so placed, spheres 3 mm apart come out 2.6 mm
apart, here 3.0 (cubic voxels of 1 mm). nnU-Net and MONAI take border voxels, each counting the same.

**Empty masks.** Both empty: 0 mm and NSD 1. Only one: no distance is defined, so the worst case is taken, NSD 0 and
for HD95 and ASSD a penalty, the diagonal of the scan; ``undefined`` says so, and tables count it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from magunet.base.errors import InputError

TOLERANCE_MM = 1.0
CORNERS = np.array(list(itertools.product((0, 1), repeat=3)))
"""The eight voxels around a corner, (8, 3)."""
EDGES = np.array([(i, j) for i, j in itertools.combinations(range(8), 2) if np.abs(CORNERS[i] - CORNERS[j]).sum() == 1])
"""Of the eight, the twelve pairs of neighbours."""
MIDPOINTS = CORNERS[EDGES].mean(axis=1)
"""Halfway between them, (12, 3)."""


@dataclass(frozen=True)
class SurfaceDistances:
    """From each element of one surface to the nearest of the other, in mm, and the elements' areas in mm²."""

    from_prediction: np.ndarray
    prediction_areas: np.ndarray
    from_truth: np.ndarray
    truth_areas: np.ndarray

    def hausdorff(self, share: float) -> float:
        """The larger of the two distances that ``share`` of each surface's area does not exceed; HD95 at 0.95.

        As in DeepMind's code and MONAI. nnU-Net's evaluation pools both directions first, which gives less.
        """
        return max(weighted_quantile(self.from_prediction, self.prediction_areas, share),
                   weighted_quantile(self.from_truth, self.truth_areas, share))

    def median(self) -> float:
        """Distance in mm that half of the area of both surfaces does not exceed."""
        return weighted_quantile(np.concatenate([self.from_prediction, self.from_truth]),
                                 np.concatenate([self.prediction_areas, self.truth_areas]), 0.5)

    def assd(self) -> float:
        """Average symmetric surface distance in mm: the mean over the area of both surfaces."""
        total = self.prediction_areas.sum() + self.truth_areas.sum()
        return float((self.from_prediction @ self.prediction_areas + self.from_truth @ self.truth_areas) / total)

    def nsd(self, tolerance: float) -> float:
        """Normalised surface Dice: the share of the area of both surfaces that lies within ``tolerance`` mm of the
        other. Nikolov et al. 2021, Eq. 1."""
        limit = tolerance + 1e-6                                 # mm; many distances are a whole number of voxels
        near = self.prediction_areas[self.from_prediction <= limit].sum() + self.truth_areas[self.from_truth <= limit].sum()
        return float(near / (self.prediction_areas.sum() + self.truth_areas.sum()))


@dataclass(frozen=True)
class SurfaceScores:
    """HD95 and ASSD in mm, NSD in [0, 1]; ``undefined`` where just one mask is empty and penalties stand for them."""

    hd95: float
    assd: float
    nsd: float
    undefined: bool = False


def surface_scores(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float], penalty: float | None = None,
                   tolerance: float = TOLERANCE_MM) -> SurfaceScores:
    """Scores of a prediction by its surface, symmetric in prediction and truth.

    prediction, truth: (d, h, w), non-zero is foreground. spacing: mm, (z, y, x). penalty: mm, for HD95 and ASSD
    where only one mask is empty; by default the diagonal of the array. tolerance: mm, of NSD.
    Raises InputError when the shapes differ.
    """
    distances = surface_distances(prediction, truth, spacing)
    if distances is not None:
        return SurfaceScores(distances.hausdorff(0.95), distances.assd(), distances.nsd(tolerance))
    if not (prediction.any() or truth.any()):
        return SurfaceScores(0.0, 0.0, 1.0)
    worst = diagonal(truth.shape, spacing) if penalty is None else penalty
    return SurfaceScores(worst, worst, 0.0, undefined=True)


def surface_distances(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> SurfaceDistances | None:
    """All distances between the surfaces of two masks (d, h, w), non-zero is foreground; None where one is empty.

    spacing: mm, (z, y, x). Raises InputError when the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise InputError(f"prediction {prediction.shape} and truth {truth.shape} lie on different grids; "
                         "resample the prediction onto the scan's grid first")
    if not (prediction.any() and truth.any()):
        return None
    (a, a_areas), (b, b_areas) = (surface_elements(mask, spacing) for mask in (prediction, truth))
    return SurfaceDistances(KDTree(b).query(a)[0], a_areas, KDTree(a).query(b)[0], b_areas)


def surface_elements(mask: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Places (n, 3) in mm from the centre of voxel [0, 0, 0], z-y-x, and areas (n,) in mm² of a mask's surface.

    mask: (d, h, w), non-zero is foreground, not empty. spacing: mm, (z, y, x).
    """
    box = bounding_box(mask)
    inside = np.pad(mask[box] != 0, 1)
    cells = [n - 1 for n in inside.shape]
    filled = sum(inside[tuple(slice(c, c + n) for c, n in zip(corner, cells))].view(np.int8) for corner in CORNERS)
    at = np.argwhere((filled > 0) & (filled < 8))                                   # (n, 3), first of the eight voxels
    eight = inside[tuple((at[:, None] + CORNERS).transpose(2, 0, 1))]               # (n, 8)
    crossed = eight[:, EDGES[:, 0]] != eight[:, EDGES[:, 1]]                        # (n, 12)
    place = at + crossed @ MIDPOINTS / crossed.sum(axis=1, keepdims=True)
    cube = eight.reshape(-1, 2, 2, 2).astype(float)
    gradient = np.stack([np.diff(cube, axis=axis + 1).mean((1, 2, 3)) / spacing[axis] for axis in range(3)], axis=1)
    first = np.array([b.start for b in box]) - 1                                    # of the padded box
    return (place + first) * spacing, np.linalg.norm(gradient, axis=1) * np.prod(spacing)


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds all non-zero voxels of a mask (d, h, w), which is not empty."""
    box = []
    for axes in ((1, 2), (0, 2), (0, 1)):
        held = np.flatnonzero(mask.any(axis=axes))
        box.append(slice(int(held[0]), int(held[-1]) + 1))
    return tuple(box)


def weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """The smallest value at or below which at least ``share`` of the weight lies."""
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulative, share * cumulative[-1] * (1 - 1e-12))])


def diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Longest distance in a grid (z, y, x), from corner to corner, in mm."""
    return float(np.linalg.norm(np.multiply(shape, spacing)))
