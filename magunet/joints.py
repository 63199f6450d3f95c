"""The one definition of left and right: the patient's, by LPS coordinates, where x grows to the left."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from magunet.volume import Volume


class Joint(NamedTuple):
    """A joint: its side, label in files, colour (red, green, blue in [0, 1]), and laterality in SNOMED CT."""

    side: str
    label: int
    colour: tuple[float, float, float]
    laterality: tuple[str, str]

    @property
    def name(self) -> str:
        return f"{self.side} sacroiliac joint"


JOINTS = (Joint("left", 1, (0.0, 0.62, 0.45), ("7771000", "Left")),
          Joint("right", 2, (0.8, 0.475, 0.655), ("24028007", "Right")))
"""Okabe and Ito's green and pink, told apart by every common colour vision."""
SIDES = tuple(joint.side for joint in JOINTS)
"""Of the patient, in the order of all tables."""


class Midline(NamedTuple):
    """The sagittal plane at ``x`` (mm, LPS) that parts left from right."""

    x: float
    between_joints: bool


def midline(mask: Volume) -> Midline:
    """The plane between the joints of a mask (non-zero voxels), on a grid of any orientation.

    Otsu's threshold on x parts the voxels, specks aside, in two groups: two joints, if their centres lie more
    than 40 mm apart and the plane halfway is near the middle of the scan, or they look like a pair (79 to
    110 mm apart in the 19 adults of the anatomy reference). Otherwise the plane is the middle of the scan, or
    the nearer end of a joint that it would cut.
    """
    middle = float(mask.to_world(tuple((n - 1) / 2 for n in mask.array.shape))[0])
    pieces, _ = ndimage.label(mask.array != 0, np.ones((3, 3, 3)))
    sizes = np.bincount(pieces[pieces > 0], minlength=1)
    places = _world(mask, (sizes >= max(1, 0.2 * sizes.max()))[pieces])        # specks count no more
    if len(places) < 2:
        return Midline(middle, False)
    places = places[np.argsort(places[:, 0])]
    x, count = places[:, 0], np.arange(1, len(places))
    right, left = np.cumsum(x)[:-1] / count, (np.cumsum(x[::-1])[:-1] / count)[::-1]     # means by cut
    cut = int(np.argmax(count * count[::-1] * (left - right) ** 2))
    if left[cut] - right[cut] > 40:                         # mm; pieces of one joint are nearer
        plane = float(right[cut] + left[cut]) / 2
        across, *level = np.abs(places[cut + 1:].mean(axis=0) - places[:cut + 1].mean(axis=0))
        ratio = max(count[cut], count[-1 - cut]) / min(count[cut], count[-1 - cut])
        pair = 60 <= across <= 130 and max(level) <= 30 and ratio <= 4      # mm, and ratio of volumes
        return Midline(plane, True) if pair or abs(plane - middle) < 40 else Midline(middle, False)
    if x[0] < middle < x[-1]:
        middle = float(x[0] if middle - x[0] < x[-1] - middle else np.nextafter(x[-1], np.inf))
    return Midline(middle, False)


def left_and_right(mask: Volume, plane: float | None = None) -> Volume:
    """Labels (d, h, w), uint8: 1 the patient's left joint, 2 the right, parted at x = ``plane`` (mm, LPS).

    The default plane is the mask's own `midline`. A piece on both sides is cut; a side may have no voxels.
    """
    plane = midline(mask).x if plane is None else plane
    labels = (mask.array != 0).astype(np.uint8)
    labels[labels > 0] = np.where(_world(mask, labels)[:, 0] >= plane, *(joint.label for joint in JOINTS))
    return mask.with_array(labels)


def _world(grid: Volume, inside: np.ndarray) -> np.ndarray:
    """LPS coordinates (n, 3) in mm of the voxels inside, in the array's order."""
    return np.asarray(grid.origin) + np.argwhere(inside)[:, ::-1] * grid.spacing[::-1] @ grid.direction.T
