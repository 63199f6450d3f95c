"""The one definition of left and right: the patient's, by LPS coordinates, where x grows to the left."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from magunet.volume import Volume, bounding_box, part_of


class Joint(NamedTuple):
    """A joint: its side, label in files, colour (red, green, blue in [0, 1]), and laterality in SNOMED CT."""

    side: str
    label: int
    colour: tuple[float, float, float]
    laterality: tuple[str, str] | None

    @property
    def name(self) -> str:
        return f"{self.side} sacroiliac joint" if self.laterality else "sacroiliac joint"


JOINTS = (Joint("left", 1, (0.0, 0.62, 0.45), ("7771000", "Left")),
          Joint("right", 2, (0.8, 0.475, 0.655), ("24028007", "Right")))
"""Okabe and Ito's green and pink, told apart by every common colour vision."""
UNKNOWN = Joint("unknown", 3, (0.9, 0.6, 0.0), None)
"""Of all voxels where nothing tells left from right; Okabe and Ito's orange."""
SIDES = tuple(joint.side for joint in JOINTS)
"""Of the patient, in the order of all tables."""
SPECK = 500.0
"""mm3; smaller pieces are noise, of which none has a side."""
HALF_APART = 47.0
"""mm from a joint to the midline, in the middle of the 19 adults."""


class Midline(NamedTuple):
    """The sagittal plane at ``x`` (mm, LPS; NaN if unknown) that parts left from right, and what told it."""

    x: float
    told_by: str


def sides(scan: Volume | None, *masks: Volume) -> tuple[Midline, list[Volume]]:
    """The `midline` of the first of a scan's masks that is not empty, and labels of all, parted there.

    Scores, exports and pictures tell sides by this alone: of a case by its truth first.
    """
    plane = midline(next((mask for mask in masks if mask.array.any()), masks[0]), scan)
    return plane, [left_and_right(mask, plane.x) for mask in masks]


def joints_of(*labels: Volume) -> tuple[Joint, ...]:
    """What labels tell apart: left and right, which may have no voxels, or all of UNKNOWN side."""
    unknown = any((one.array == UNKNOWN.label).any() for one in labels)
    return (UNKNOWN,) if unknown else JOINTS


def midline(mask: Volume, scan: Volume | None = None) -> Midline:
    """The plane between the joints of a mask (non-zero voxels), on a grid of any orientation.

    Otsu's threshold on x parts the voxels, specks aside, in two groups: two joints, if they look like a pair
    (79 to 110 mm apart in the 19 adults of the anatomy reference). Otherwise there is one joint, the larger
    group, or all where their centres lie less than 40 mm apart; its side is told by the anatomy in ``scan``,
    of any grid, see `_side`. Where that does not tell, and without a scan, no side is known.
    """
    if mask.array.any():                                                # to save memory
        mask = part_of(mask, bounding_box(mask.array))
    pieces, _ = ndimage.label(mask.array != 0, np.ones((3, 3, 3)))
    sizes = np.bincount(pieces[pieces > 0], minlength=1)
    if sizes.max() < 2 or sizes.max() * np.prod(mask.spacing) < SPECK:
        return Midline(np.nan, "nothing, for the mask is empty or of specks only")
    places = mask.to_world(np.argwhere((sizes >= max(1, 0.2 * sizes.max()))[pieces]))       # no specks
    places = places[np.argsort(places[:, 0])]
    x, count, gap = places[:, 0], np.arange(1, len(places)), 0.0
    right, left = np.cumsum(x)[:-1] / count, (np.cumsum(x[::-1])[:-1] / count)[::-1]     # means by cut
    cut = int(np.argmax(count * count[::-1] * (left - right) ** 2))
    if left[cut] - right[cut] > 40:          # mm; pieces of one joint are nearer
        groups = places[:cut + 1], places[cut + 1:]
        across, *level = np.abs(groups[1].mean(axis=0) - groups[0].mean(axis=0))
        ratio = max(map(len, groups)) / min(map(len, groups))
        if 60 <= across <= 130 and max(level) <= 30 and ratio <= 4:         # mm, and ratio of volumes
            return Midline(float(right[cut] + left[cut]) / 2, "the two joints, halfway between which it lies")
        places, gap = (groups[1], across) if len(groups[1]) > len(groups[0]) else (groups[0], -across)
    if not (side := 0 if scan is None or len(places) < 20 else _side(places, scan)):
        return Midline(np.nan, "nothing, for no two joints were found, and the slant of the one and the bone "
                       "beside it do not tell its side")
    x = side * places[:, 0]                                             # to the outside; a joint is never cut
    away = side * gap / 2 if 0 < side * gap < 2 * HALF_APART else HALF_APART         # a child's are nearer
    return Midline(side * min(float(x.mean() - away), float(x.min()) - 1e-6),
                   "the slant of one joint and the bone beside it")


def is_pair(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two pieces of a mask, with middles at LPS points in mm, can be two joints, also of a patient
    turned by 30 degrees: those of the 19 adults of the anatomy reference are 79 to 110 mm apart."""
    across, *level = np.abs(np.subtract(a, b))
    return 50 <= across <= 150 and max(level) <= 60


def _side(places: np.ndarray, scan: Volume) -> int:
    """1 for the left joint, -1 for the right, by two signs that must agree, else 0. places: (n, 3), LPS mm.

    The upper half of a joint runs from the front and outside to the back and middle; and 12 to 30 mm beside
    its front half the ilium is denser than the sacrum on its other side.
    """
    _, y, z = np.median(places, axis=0)
    upper, front = places[places[:, 2] >= z], places[places[:, 1] <= y]
    spread = np.cov(upper.T)
    flat = spread[:2, :2] - np.outer(spread[2, :2], spread[2, :2]) / max(spread[2, 2], 1e-6)     # x and y
    (short, long), axes = np.linalg.eigh(flat)
    slant = np.degrees(np.arctan(-axes[0, 1] / axes[1, 1])) if axes[1, 1] else 90
    steps = np.multiply.outer(np.arange(12, 31, 3), [1, 0, 0])                  # mm, to the left
    left, right = (scan.sample(front[::len(front) // 500 + 1, None] + way) for way in (steps, -steps))
    known = (left > -500) & (right > -500)                              # neither air, padding nor beyond
    if long < 2 * short or not 7 <= abs(slant) <= 75 or known.mean() < 0.2:
        return 0
    denser = np.mean(left[known].clip(max=500) - right[known].clip(max=500))
    return int(np.sign(slant)) if slant * denser > 0 and abs(denser) >= 10 else 0


def left_and_right(mask: Volume, plane: float | None = None) -> Volume:
    """Labels (d, h, w), uint8: 1 the patient's left joint, 2 the right, parted at x = ``plane`` (mm, LPS).

    The default plane is the mask's own `midline` without a scan. A piece on both sides is cut; a side may
    have no voxels. Where the plane is NaN all have the label of UNKNOWN.
    """
    plane = midline(mask).x if plane is None else plane
    labels = np.uint8(UNKNOWN.label) * (mask.array != 0)
    if not np.isnan(plane):
        x = mask.to_world(np.argwhere(labels))[:, 0]
        labels[labels > 0] = np.where(x >= plane, *(joint.label for joint in JOINTS))
    return mask.with_array(labels)
