"""The two joints of a mask: which voxels are the patient's left and which the right, and what each is called.

Left and right are sides of the patient, told by world coordinates (LPS: x grows to the left). So flipped, permuted and
oblique grids give the same answer; the order of rows and columns says nothing.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from magunet.volume import Volume

APART_MM = 40.0
"""Centres of two joints lie farther apart than this from side to side; the halves of one joint do not."""
CENTRED_MM = 40.0
"""A plane between two joints lies nearer than this to the middle of the scan, unless the two look like a pair."""
PAIR_MM, LEVEL_MM, LIKE = (60.0, 130.0), 30.0, 4.0
"""A pair: distance from side to side, largest distance to the front and upwards, largest ratio of volumes. The 19 adults of the
anatomy reference have their joints 79 to 110 mm apart."""
SPECK = 0.2
"""Pieces smaller than this fraction of the largest do not count when the midline is looked for."""


@dataclass(frozen=True)
class Joint:
    """One of the two joints: its side, its label in files, its name, its colour (red, green, blue in [0, 1]), and its
    laterality in SNOMED CT (code, meaning)."""

    side: str
    label: int
    colour: tuple[float, float, float]
    laterality: tuple[str, str]

    @property
    def name(self) -> str:
        return f"{self.side} sacroiliac joint"


JOINTS = (Joint("left", 1, (0.0, 0.62, 0.45), ("7771000", "Left")), Joint("right", 2, (0.8, 0.475, 0.655), ("24028007", "Right")))
"""Okabe and Ito's green and pink, told apart by every common colour vision."""


@dataclass(frozen=True)
class Midline:
    """The sagittal plane x = ``x`` (mm, LPS) that parts left from right; ``between_joints`` when two joints were found."""

    x: float
    between_joints: bool


def midline(mask: Volume) -> Midline:
    """The plane between the joints of a mask, on a grid of any orientation.

    Its voxels, specks aside, are parted in two groups from side to side (Otsu's threshold on x). They are two joints, linked or
    not, when their centres lie more than APART_MM apart, and the plane halfway between the centres is near the middle of
    the scan or the groups are a pair by distance, level and size: else one joint and something else on the same side, such as
    a piece of the hip, would be called left and right. In all other cases the plane is the middle of the scan, or the nearer
    end of the mask if that would cut a single joint; so sides are then only as sure as the patient lies in the middle.
    """
    middle = float(mask.to_world(tuple((n - 1) / 2 for n in mask.array.shape))[0])
    index = np.argwhere(_large_pieces(mask.array != 0))
    if not len(index):
        return Midline(middle, False)
    at = _world(mask, index)
    at = at[np.argsort(at[:, 0])]
    x, count = at[:, 0], np.arange(1, len(at))
    low, high = (np.cumsum(part)[:-1] / count for part in (x, x[::-1]))        # mean of the first n, and of the last n
    high = high[::-1]
    cut = int(np.argmax(count * count[::-1] * (high - low) ** 2)) if len(x) > 1 else 0
    apart = len(x) > 1 and high[cut] - low[cut] > APART_MM
    if apart:
        plane = float(low[cut] + high[cut]) / 2
        if abs(plane - middle) < CENTRED_MM or _are_a_pair(at[:cut + 1], at[cut + 1:]):
            return Midline(plane, True)
    if not apart and x[0] < middle < x[-1]:
        middle = float(x[0] if middle - x[0] < x[-1] - middle else np.nextafter(x[-1], np.inf))
    return Midline(middle, False)


def _are_a_pair(right: np.ndarray, left: np.ndarray) -> bool:
    """Whether two groups of voxels, each (n, 3) in LPS mm, lie and measure like the two joints of one patient."""
    across, forward, upward = np.abs(left.mean(axis=0) - right.mean(axis=0))
    return bool(PAIR_MM[0] <= across <= PAIR_MM[1] and max(forward, upward) <= LEVEL_MM
                and max(len(left), len(right)) <= LIKE * min(len(left), len(right)))


def left_and_right(mask: Volume, plane: float | None = None) -> Volume:
    """The mask's voxels as 1, the patient's left joint, and 2, the right one, uint8; parted by ``plane``, x in mm (LPS), or by
    the mask's own `midline`.

    A piece that spans both sides is cut at the midline. Without a joint on one side its label is missing.
    """
    labels = np.zeros(mask.array.shape, np.uint8)
    index = np.argwhere(mask.array != 0)
    plane = midline(mask).x if plane is None else plane
    labels[tuple(index.T)] = np.where(_world(mask, index)[:, 0] >= plane, 1, 2)
    return mask.with_array(labels)


def _world(mask: Volume, index: np.ndarray) -> np.ndarray:
    """LPS mm (n, 3) of array indices (n, 3)."""
    return np.asarray(mask.origin) + index[:, ::-1] * mask.spacing[::-1] @ mask.direction.T


def _large_pieces(inside: np.ndarray) -> np.ndarray:
    pieces, count = ndimage.label(inside, np.ones((3, 3, 3)))
    if count < 2:
        return inside
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return (sizes >= SPECK * sizes.max())[pieces]
