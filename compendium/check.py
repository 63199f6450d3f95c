"""What is wrong with a case: rules that each say what, in which file, and what to do.

Training refuses what makes a case useless (`magunet.cohort`); ``magunet check`` also tells what a person should look at
(`scale_problems`, `border_problems`, `fingerprints`).
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from magunet.cohort import EXPORT, OFFSET
from magunet.series import AIR_HU
from magunet.volume import Volume, reorient

BONE_HU = 200
SOFT_HU = (-200, 200)
"""Fat is near -100, muscle and organs near 50; noise spreads them."""
RAISED_HU = (SOFT_HU[0] + OFFSET, SOFT_HU[1] + OFFSET)
LEAST_SOFT, MOST_DENSE = 0.03, 0.2
"""Shares that tell a scale. Our phantoms and a real CT hold at least 0.36 of soft tissue, and at most 0.02 (0.06
in a box around the joints) of what it would be with the offset still on."""
BORDERS = ("first slice", "last slice", "first row", "last row", "first column", "last column")


def scale_problems(path: Path, image: Volume) -> Iterator[str]:
    """A scan whose values look wrong though some are below those of air, such as one padded with -2000.

    In a CT of the pelvis there is bone, fat and muscle are the most common tissue, and little is as dense
    as they are with the offset of 1024 still on. Neither padding nor metal matters.
    """
    values = image.array
    soft, dense = (np.count_nonzero((values >= low) & (values <= high)) for low, high in (SOFT_HU, RAISED_HU))
    if values.max() <= BONE_HU:
        yield f"{path}: no voxel above {BONE_HU} HU, so there is no bone; the intensities are not HU. {EXPORT}"
    elif dense > MOST_DENSE * np.count_nonzero(values > AIR_HU):
        yield (f"{path}: much lies near {OFFSET}, where fat and muscle are when an offset of {OFFSET} was not taken off; "
               f"the intensities are not HU. {EXPORT}")
    elif soft < LEAST_SOFT * values.size:
        yield (f"{path}: {soft / values.size:.1%} of the voxels are from {SOFT_HU[0]} to {SOFT_HU[1]} HU, so there is hardly "
               f"any fat or muscle; the intensities are not HU. {EXPORT}")


def border_problems(path: Path, label: Volume) -> Iterator[str]:
    """A mask that touches the border of its volume, where the scan cuts the joint off."""
    faces = [np.take(label.array, end, axis) for axis in range(3) for end in (0, -1)]
    touched = [name for name, face in zip(BORDERS, faces) if face.any()]
    if touched and not label.array.all():
        yield (f"{path}: the mask touches the {' and the '.join(touched)}, so the joint may be cut off; take a scan that "
               "holds all of it, or remove the case")


def fingerprints(image: Volume) -> set[str]:
    """Hashes of a scan's voxels, as stored and turned to LPS.

    Two scans that share one hold the same voxels, whatever their names, number types and headers.
    """
    arrays = [image.array, reorient(image, "LPS").array]
    return {hashlib.sha256(str(a.shape).encode() + np.ascontiguousarray(a, "<f4").tobytes()).hexdigest() for a in arrays}
