"""From any segmentation with sacrum and hips to solid bones, left told from right, and the joint mask."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from magunet.base.errors import InputError
from magunet.target import THICKNESS, sij_mask
from magunet.volume import Volume, orientation, reorient, same_geometry

GRID_TOLERANCE = 0.1  # mm between voxel centres that are taken for the same point
MARGIN = 2 * THICKNESS  # mm around the bones: the joint mask and its smoothing reach no farther
SMALLEST_JOINT = 2.0  # mL; the mask of a whole joint has some 10 to 60 mL
IN_PLANE = np.zeros((3, 3, 3), bool)
IN_PLANE[1] = ndimage.generate_binary_structure(2, 1)


class BoneNumbers(NamedTuple):
    """The values of each bone in a segmentation, more than one where a bone is in parts.

    The defaults are TotalSegmentator's: 25 sacrum, 26 first sacral vertebra, 77 and 78 the hips. The same
    values for both hips mean one label for the two, which is then divided at the middle of the sacrum.
    """

    sacrum: tuple[int, ...] = (25, 26)
    left_hip: tuple[int, ...] = (77,)
    right_hip: tuple[int, ...] = (78,)


class Pelvis(NamedTuple):
    """bones: uint8, 1 sacrum, 2 left hip, 3 right hip; mask: uint8, 1 joint; notes: what was put right."""

    bones: Volume
    mask: Volume
    notes: list[str]


def onto_grid(labels: Volume, image: Volume) -> Volume:
    """The labels on the image's grid, axes turned and whole voxels cut or added; nothing is interpolated.

    Raises InputError when the voxels of the two do not coincide.
    """
    turned = reorient(labels, orientation(image))
    offset = image.direction.T @ (np.asarray(turned.origin) - image.origin) / image.spacing[::-1]
    start = [round(v) for v in offset[::-1]]
    if not same_geometry(turned, Volume(turned.array, image.spacing, tuple(image.to_world(tuple(start))), image.direction),
                         GRID_TOLERANCE):
        raise InputError("the segmentation lies on another grid than the CT; resample it onto the CT, nearest neighbour")
    array = np.zeros(image.array.shape, turned.array.dtype)
    sizes = list(zip(start, turned.array.shape, array.shape))
    there = tuple(slice(max(0, s), max(0, min(n, s + m))) for s, m, n in sizes)
    array[there] = turned.array[tuple(slice(t.start - s, max(t.start, t.stop) - s) for t, (s, *_) in zip(there, sizes))]
    return image.with_array(array)


def derive_pelvis(labels: Volume, numbers: BoneNumbers) -> Pelvis:
    """Bones and joint mask on the grid of a segmentation in any orientation (d, h, w).

    Left is the hip that lies farther to the left (LPS x), whatever the labels say. Raises InputError when a
    bone is missing, both hips lie on one side, or the joints are not both wholly in view.
    """
    check_present(labels.array, numbers)
    box = _box(np.isin(labels.array, sum(numbers, ())), labels.spacing)
    near = Volume(labels.array[box], labels.spacing, tuple(labels.to_world(tuple(b.start for b in box))), labels.direction)
    sacrum, left, right = (np.isin(near.array, values) for values in numbers)
    middle = _centre_x(near, sacrum)
    if numbers.left_hip == numbers.right_hip:
        left, right = left & (_x(near) > middle), right & (_x(near) <= middle)
    notes = []
    if left.any() and right.any() and _centre_x(near, left) < _centre_x(near, right):
        left, right = right, left
        notes.append("left and right hip named the other way round, told apart by position")
    if not (left.any() and right.any() and _centre_x(near, right) < middle < _centre_x(near, left)):
        raise InputError("both hips lie on one side of the sacrum; check the label numbers")
    bones = np.zeros(near.array.shape, np.uint8)
    for value, bone in ((2, left), (3, right), (1, sacrum)):
        bones[solid(bone)] = value
    joints = sij_mask(bones == 1, bones == 2, bones == 3, near.spacing)
    _check_in_view(near.with_array(joints), middle)
    both = [np.zeros(labels.array.shape, np.uint8) for _ in range(2)]
    both[0][box], both[1][box] = bones, joints
    _check_whole(both[1])
    return Pelvis(labels.with_array(both[0]), labels.with_array(both[1]), notes)


def check_present(values: NDArray, numbers: BoneNumbers) -> None:
    """Raises InputError when a bone has no voxel."""
    for name, wanted in zip(("sacrum", "left hip", "right hip"), numbers):
        if not np.isin(values, wanted).any():
            raise InputError(f"no {name} in view (label {', '.join(map(str, wanted))}); give a scan of the whole pelvis, or the "
                             "right label")


def solid(bone: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A bone (d, h, w) together with the hollow inside it, as in a shell of cortex.

    Inside is what the bone encloses in at least two of the three planes: a gap in the shell then costs a
    thin channel only, and the sacral canal and the obturator foramen, rings in one plane, stay open.
    """
    enclosed = bone * np.uint8(2)
    for axis in range(3):
        enclosed += np.moveaxis(_enclosed(np.moveaxis(bone, axis, 0)), 0, axis)
    return enclosed > 1


def _enclosed(bone: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Background that has no way to the edge of its plane; the planes lie along the first axis."""
    pieces, count = ndimage.label(~np.pad(bone, ((0, 0), (1, 1), (1, 1))), IN_PLANE)
    inside = np.ones(count + 1, bool)
    inside[pieces[:, 0, 0]] = inside[0] = False     # the piece at the corner is the outside, 0 the bone
    return inside[pieces][:, 1:-1, 1:-1]


def _box(mask: NDArray[np.bool_], spacing: tuple[float, float, float]) -> tuple[slice, ...]:
    (box,) = ndimage.find_objects(mask.view(np.uint8))
    pads = [int(np.ceil(MARGIN / s)) for s in spacing]
    return tuple(slice(max(0, b.start - p), min(n, b.stop + p)) for b, p, n in zip(box, pads, mask.shape))


def _x(grid: Volume) -> NDArray[np.floating]:
    """LPS x in mm of every voxel (d, h, w): larger is more to the patient's left."""
    step = grid.direction[0] * grid.spacing[::-1]
    z, y, x = np.ogrid[tuple(slice(n) for n in grid.array.shape)]
    return grid.origin[0] + (x * step[0] + y * step[1] + z * step[2])


def _centre_x(grid: Volume, bone: NDArray[np.bool_]) -> float:
    index = [np.average(np.arange(n), weights=bone.sum(tuple({0, 1, 2} - {axis}))) for axis, n in enumerate(bone.shape)]
    return float(grid.to_world(tuple(index))[0])


def _check_in_view(joints: Volume, middle: float) -> None:
    left = _x(joints)[joints.array > 0] > middle
    for side, count in (("left", left.sum()), ("right", (~left).sum())):
        if (volume := count * np.prod(joints.spacing) / 1000) < SMALLEST_JOINT:
            raise InputError(f"no {side} sacroiliac joint in view ({volume:.1f} mL of it); give a scan of the whole pelvis")


def _check_whole(joints: NDArray[np.uint8]) -> None:
    for axis, name in enumerate(("slice", "row", "column")):
        for end, which in ((0, "first"), (-1, "last")):
            if joints.take(end, axis).any():
                raise InputError(f"a sacroiliac joint is cut off by the {which} {name} of the scan; give one that "
                                 "reaches farther")
