"""The bones of a pelvis as signed distances, from a label map."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from magunet.base.errors import InputError
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


def label_map_pelvis(
    labels: NDArray[np.integer],
    spacing: Sequence[float],
    sacrum: Sequence[int] = (1,),
    left_hip: Sequence[int] = (3, 4),
    right_hip: Sequence[int] = (5, 6),
    resolution: float = 1.0,
) -> Bones:
    """Returns the bones of a label map (d, h, w) in LPS order with `spacing` (z, y, x) in mm.

    All other nonzero labels become `other`. The surfaces are smoothed by about a voxel, and a cleft tighter
    than 1.5 mm is opened to that, since label maps often let the two bones touch. Raises `InputError` when a
    bone is missing.
    """
    labels = np.asarray(labels)
    bones = {"sacrum": sacrum, "left hip": left_hip, "right hip": right_hip}
    masks = {name: np.isin(labels, list(values)) for name, values in bones.items()}
    for name, mask in masks.items():
        if not mask.any():
            raise InputError(f"no {name} in the label map: no voxel has a label of {tuple(bones[name])}")
    masks["other"] = (labels != 0) & ~np.any(list(masks.values()), axis=0)
    fields = {name: mask_distance(mask, spacing, resolution) for name, mask in masks.items()}
    cleft = _open_cleft(*(fields[name] for name in bones))
    return Bones(*cleft, fields["other"], float(resolution), {"resolution": float(resolution)})


def _open_cleft(sacrum: Array, left_hip: Array, right_hip: Array, gap: float = 1.5
                ) -> tuple[Array, Array, Array]:
    """Moves both surfaces apart by the same amount wherever they are closer than `gap` mm."""
    hips = []
    for hip in (left_hip, right_hip):
        missing = np.maximum(gap - sacrum - hip, 0) / 2
        sacrum = sacrum + missing
        hips.append(hip + missing)
    return sacrum, hips[0], hips[1]
