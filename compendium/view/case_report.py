"""What an export says of a mask in numbers: volumes, joint spaces, borders, and what it was made of.

Nothing here comes from the scan's header but its grid, and nothing names a path or the patient.
"""

import hashlib

import numpy as np

from compendium.view.joint_space import joint_space
from magunet.joints import JOINTS, midline
from magunet.volume import Volume, orientation, reorient

FACES = ("inferior", "superior", "anterior", "posterior", "right", "left")
"""Ends of the axes of an LPS array (d, h, w): first and last slice, row, column."""
MIDLINES = {True: "halfway between the two joints", False: "middle of the scan, for no two joints were found"}


def voxel_hash(volume: Volume) -> str:
    """sha256 of the voxels as float32 and of the grid's shape, in hex: the same for one image in any file format."""
    voxels = np.ascontiguousarray(volume.array, "<f4")
    return hashlib.sha256(str(volume.array.shape).encode() + voxels.tobytes()).hexdigest()


def describe_scan(scan: Volume) -> dict:
    """A scan's grid, and the hash of its voxels."""
    return {"sha256_of_voxels": voxel_hash(scan), "voxels_zyx": list(scan.array.shape),
            "spacing_zyx_mm": [round(s, 6) for s in scan.spacing], "orientation_xyz": orientation(scan)}


def describe_mask(scan: Volume, labels: Volume) -> dict:
    """A mask and its two joints, as JSON can hold them. scan: CT in HU. labels: from `left_and_right`, on its grid."""
    where = midline(labels)
    joints = {}
    for joint in JOINTS:
        one = labels.with_array(labels.array == joint.label)
        space = joint_space(scan, one)
        joints[joint.side] = _extent(one) | {"joint_space": {
            "mean_mm": _rounded(space.mean), "sd_mm": _rounded(space.sd), "profiles": space.profiles,
            "share_measured": _rounded(space.share), "not_measured_because": space.reason}}
    parted = {"x_mm_lps": round(where.x, 3), "which_is": MIDLINES[where.between_joints]}
    return _extent(labels) | {"sha256_of_voxels": voxel_hash(labels.with_array(labels.array != 0)), "joints": joints,
                              "left_and_right_parted_at": parted}


def _extent(mask: Volume) -> dict:
    faces = touched_faces(mask)
    return {"volume_ml": round(float(np.count_nonzero(mask.array) * np.prod(mask.spacing) / 1000), 4),
            "touches_border": bool(faces), "touched_faces": faces}


def touched_faces(mask: Volume) -> list[str]:
    """The faces of the scan that a mask reaches, where the joint may be cut off, as sides of the patient."""
    array = reorient(mask, "LPS").array
    ends = [np.take(array, end, axis) for axis in range(3) for end in (0, -1)]
    return [name for name, end in zip(FACES, ends) if end.any()]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
