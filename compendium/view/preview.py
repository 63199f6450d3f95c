"""A scan and labels made small enough for a viewer, and placed so that every viewer shows them upright: along
the patient's axes (LPS), since itkwidgets ignores directions; oblique scans are interpolated onto it."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from compendium.figures.planes import AGREEMENT_COLOURS, PREDICTION_COLOUR, TRUTH_COLOUR, agreement
from magunet.base.errors import require
from magunet.region import Region, cut, placed
from magunet.volume import Volume, corners, reorient, same_geometry

HU_RANGE = (-1000.0, 2000.0)
"""Previews are clipped to it: a speck of metal would spoil every transfer function."""
LABEL_COLOURS = AGREEMENT_COLOURS | {"truth": TRUTH_COLOUR, "prediction": PREDICTION_COLOUR}
"""Of labels in viewers and figures."""
LABEL_NUMBERS = {name: number for number, name in enumerate(LABEL_COLOURS, 1)}
"""Of labels in label maps."""
CHOICES = ("truth", "prediction", "error map")
"""What labels can show."""


class ScanWithMasks(NamedTuple):
    """A scan, its true mask, and the mask that a network predicts, on one grid; a mask may be missing."""

    scan: Volume
    truth: Volume | None
    prediction: Volume | None


def labels_of(case: ScanWithMasks, choice: str) -> tuple[str, Volume | None]:
    """Name and labels (LABEL_NUMBERS, uint8) of a choice, or of the first of CHOICES that the masks allow;
    "no mask" and None without one. Raises InputError for an unknown choice, and for masks on another grid
    than the scan."""
    require(choice in CHOICES, f"labels can show {', '.join(CHOICES)}; not {choice!r}")
    require(all(same_geometry(case.scan, mask) for mask in case[1:] if mask),
            "mask and scan lie on different grids; resample the mask onto the scan")
    maps = {name: mask.with_array(np.uint8(LABEL_NUMBERS[name]) * (mask.array != 0))
            for name, mask in zip(CHOICES, case[1:]) if mask}
    if len(maps) == 2:
        maps["error map"] = case.truth.with_array(agreement(case.prediction.array, case.truth.array))
    name = next((name for name in (choice, *CHOICES) if name in maps), "no mask")
    return name, maps.get(name)


def preview(scan: Volume, labels: Volume | None = None, side: int = 128) -> tuple[Volume, Volume | None]:
    """Scan (int16 HU) and labels (uint8) on one grid along the patient's axes, each side at most ``side``.
    Where the scan shrinks it is averaged; a label is the one at the centre of the new voxel. Of more than 128
    voxels a side a browser without a graphics card needs seconds for each picture."""
    scan = reorient(scan, "LPS")
    shape = tuple(np.minimum(scan.array.shape, side).tolist())
    voxel = np.multiply(scan.spacing, scan.array.shape) / shape
    region = Region(tuple((voxel - scan.spacing) / 2), tuple(voxel), shape)
    image = placed(cut(scan, region), region, scan)
    if not np.allclose(image.direction, np.eye(3), atol=1e-3):
        first, extent = corners(image).min(axis=0), np.ptp(corners(image), axis=0)             # x, y, z
        steps = np.maximum(image.spacing[::-1], extent / (side - 1))
        shape = 1 + np.ceil(extent / steps - 1e-6).astype(int)
        empty = Volume(np.zeros(shape[::-1], np.uint8), tuple(steps[::-1]), tuple(first))
        image = _sampled(image, empty, 1, HU_RANGE[0])
    image = image.with_array(np.clip(np.rint(image.array), *HU_RANGE).astype(np.int16))
    return image, labels and _sampled(labels.with_array(labels.array.astype(np.uint8)), image, 0, 0)


def _sampled(volume: Volume, grid: Volume, order: int, outside: float) -> Volume:
    """The volume at the voxels of another grid, ``outside`` beyond it; ``order`` as in scipy."""
    to_index = np.linalg.inv(volume.direction * volume.spacing[::-1])
    matrix = to_index @ (grid.direction * grid.spacing[::-1])      # x, y, z of one grid to those of the other
    offset = to_index @ np.subtract(grid.origin, volume.origin)
    return grid.with_array(ndimage.affine_transform(
        volume.array, matrix[::-1, ::-1], offset[::-1], grid.array.shape, order=order, cval=outside))


def centre_of(labels: Volume | None, scan: Volume) -> tuple[float, float, float]:
    """Where slice planes start: the middle of all labels, or of the scan; LPS mm (x, y, z)."""
    subject = labels.array != 0 if labels is not None and labels.array.any() else np.ones(scan.array.shape)
    return tuple(scan.to_world(ndimage.center_of_mass(subject)).tolist())
