"""From any segmentation with sacrum and hips to solid bones, left told from right, and the joint mask."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from magunet.base.errors import InputError, require
from magunet.target import THICKNESS, sij_mask
from magunet.volume import Volume, bounding_box, touched_faces

RIM = 6.0
"""mm: how deep the rim of a bone is, and how wide what is around it, 2 mm outside of it, in `misplaced`."""
CONTRAST = 50
"""HU that a rim must be denser than what is around it: a real CT has 177 and more, phantoms 175 and more,
and 87 with marrow of 50 HU, soft cortex and slices of 5 mm."""
MOVES = (8.0, 16.0, 24.0, 32.0)
"""mm along each axis to other places of a bone, none of which may be a better one."""
SWAPPED = "left and right hip named the other way round, told apart by position"
"""The note on labels that call the patient's left hip the right one."""


class BoneNumbers(NamedTuple):
    """The values of each bone in a segmentation, more than one where a bone is in parts; the defaults are
    TotalSegmentator's. One label for both hips is divided at the middle of the sacrum."""

    sacrum: tuple[int, ...] = (25, 26)
    left_hip: tuple[int, ...] = (77,)
    right_hip: tuple[int, ...] = (78,)


class Pelvis(NamedTuple):
    """bones: uint8, 1 sacrum, 2 left hip, 3 right hip; mask: uint8, 1 joint; notes: what was put right."""

    bones: Volume
    mask: Volume
    notes: list[str]


def derive_pelvis(labels: Volume, numbers: BoneNumbers) -> Pelvis:
    """Bones and joint mask on the grid of a segmentation in any orientation (d, h, w). Left is the hip that
    lies farther to the left (LPS x), whatever the labels say. Raises InputError when a bone is missing, both
    hips lie on one side, or the joints are not both wholly in view."""
    for name, values in zip(("sacrum", "left hip", "right hip"), numbers):
        require(np.isin(labels.array, values).any(), f"no {name} in view (label "
                f"{', '.join(map(str, values))}); give a scan of the whole pelvis, or the right label")
    margin = [int(np.ceil(2 * THICKNESS / s)) for s in labels.spacing]      # the joint mask ends within it
    box = bounding_box(np.isin(labels.array, sum(numbers, ())), margin)
    step, (z, y, x) = labels.direction[0] * labels.spacing[::-1], np.ogrid[box]
    leftward = labels.origin[0] + (x * step[0] + y * step[1] + z * step[2])         # LPS x in mm (d, h, w)
    sacrum, left, right = (np.isin(labels.array[box], values) for values in numbers)
    middle, notes, volumes = leftward[sacrum].mean(), [], []
    if numbers.left_hip == numbers.right_hip:
        left, right = left & (leftward > middle), right & (leftward <= middle)
    centres = [leftward[hip].mean() if hip.any() else middle for hip in (left, right)]
    if centres[0] < centres[1]:
        left, right = right, left
        notes.append(SWAPPED)
    require(min(centres) < middle < max(centres),
            "both hips lie on one side of the sacrum; check the label numbers")
    bones, joints = np.zeros((2, *labels.array.shape), np.uint8)
    for value, bone in ((2, left), (3, right), (1, sacrum)):
        bones[box][solid(bone)] = value
    joints[box] = sij_mask(*(bones[box] == value for value in (1, 2, 3)), labels.spacing)
    for side, where in (("left", leftward > middle), ("right", leftward <= middle)):
        volume = np.count_nonzero(joints[box][where]) * np.prod(labels.spacing) / 1000  # mL; whole: 10 to 60
        require(volume >= 2, f"no {side} sacroiliac joint in view ({volume:.1f} mL of it); give a scan of "
                "the whole pelvis")
        require(volume <= 100, f"the {side} sacroiliac joint has {volume:.0f} mL, which none has; see "
                "whether the voxel spacing is in mm, and the label numbers")
        volumes.append(volume)
    if min(volumes) < 0.6 * max(volumes):
        notes.append("left and right joint have {:.0f} and {:.0f} mL, so one may be cut off".format(*volumes))
    for face in touched_faces(joints):
        raise InputError(f"a sacroiliac joint is cut off by the {face} of the scan; give one that reaches "
                         "farther")
    return Pelvis(labels.with_array(bones), labels.with_array(joints), notes)


def misplaced(bones: Volume, image: Volume) -> str:
    """What speaks against bones of a `Pelvis` that lie where they are in a CT, or "". The rim of a bone is
    mostly cortex: denser than what is around it and is no other bone, and less so when it is moved. Labels in
    place lose a third or more of that contrast by any of `MOVES`; those 7 mm beside the bone more than double
    it by one."""
    spacing, problems = np.array(image.spacing), []
    moves = [np.zeros(3), *(sign * mm * axis for mm in MOVES for axis in np.eye(3) for sign in (-1, 1))]
    for number, name in enumerate(("sacrum", "left hip", "right hip"), 1):
        box = bounding_box(bones.array == number, np.ceil((RIM + 2) / spacing).astype(int) + 1)
        steps = [max(1, int(1.5 / s)) for s in spacing]                 # finer than that is only slow
        part = bones.array[tuple(slice(side.start, side.stop, step) for side, step in zip(box, steps))]
        depth, height = (ndimage.distance_transform_edt(where, spacing * steps)
                         for where in (part == number, part != number))
        areas = (part == number) & (depth <= RIM), (part == 0) & (height > 2) & (height <= RIM + 2)
        rim, shell = (np.argwhere(area) * steps + [side.start for side in box] for area in areas)
        here, *others = (_density(image, rim, move) - _density(image, shell, move) for move in moves)
        best = max(filter(np.isfinite, others), default=0.0)
        if not here >= max(CONTRAST, best):
            problems.append(f"{name} ({here:.0f} HU denser at its rim than around it, {best:.0f} if moved)")
    return ", ".join(problems)


def _density(image: Volume, points: NDArray[np.int_], move: NDArray[np.float64]) -> float:
    """Mean HU at points (n, 3) moved by mm (z, y, x), NaN if outside; metal counts as bone, air as fat."""
    places = points + np.rint(move / image.spacing).astype(int)
    places = places[((places >= 0) & (places < image.array.shape)).all(1)]
    values = image.array[tuple(places.T)].clip(-200, 600)
    return float(values.mean()) if 2 * len(values) > len(points) else np.nan


def solid(bone: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A bone (d, h, w) with the hollow inside a shell of cortex: what it encloses in at least two of three
    planes, so that a gap in the shell costs a thin channel only, and canal and foramina stay open."""
    cross = ndimage.generate_binary_structure(2, 1)
    planes = (ndimage.binary_fill_holes(bone, np.expand_dims(cross, axis)) for axis in range(3))
    return sum(filled.astype(np.uint8) for filled in planes) > 1
