"""The bones of a pelvis as signed distances, from a label map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from magunet.base.errors import require
from magunet.target import mask_distance
from sijphantom.fields import Array

Parameters = dict[str, float]
"""Sizes, angles, HU and strengths of one person, by name."""


@dataclass(frozen=True)
class Bones:
    """Signed distances (mm, negative inside, cut off at 40 mm) to the bones of a pelvis, float32 (d, h, w).

    The grid is isotropic with `spacing` mm in LPS patient axes: index x grows to the patient's left, y to
    posterior, z to superior. `other` holds all other bones (L3 to L5, femurs, coccyx). `parameters` are what
    the pelvis was drawn from.
    """

    sacrum: Array
    left_hip: Array
    right_hip: Array
    other: Array
    spacing: float
    parameters: Parameters = field(default_factory=dict)


LABELS = {"sacrum": (1,), "left hip": (3, 4), "right hip": (5, 6)}
"""Bone -> its labels in the label maps of the Visible Human."""
_CLEFT = 1.5
"""mm between two bones at least: label maps often let them touch."""


def label_map_pelvis(labels: NDArray[np.integer], spacing: Sequence[float], resolution: float = 1.0,
                     values: Mapping[str, Sequence[int]] = LABELS) -> Bones:
    """Returns the bones of a label map (d, h, w) in LPS order with `spacing` (z, y, x) in mm.

    All nonzero labels but `values` become `other`. The surfaces are smoothed by about a voxel, and both moved
    back by the same amount where they are closer than _CLEFT. Raises `InputError` when a bone is missing.
    """
    masks = {name: np.isin(labels, values[name]) for name in ("sacrum", "left hip", "right hip")}
    for name, mask in masks.items():
        require(mask.any(), f"no {name} in the label map: no voxel has a label of {tuple(values[name])}")
    masks["other"] = (labels != 0) & ~np.any(list(masks.values()), axis=0)
    sacrum, *hips, other = (mask_distance(mask, spacing, resolution) for mask in masks.values())
    for hip in hips:
        missing = np.maximum(_CLEFT - sacrum - hip, 0) / 2
        sacrum += missing
        hip += missing
    return Bones(sacrum, *hips, other, float(resolution), {"resolution": float(resolution)})
