"""CT volumes and masks: where their voxels lie in the patient, and the files that hold them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from magunet import itk
from magunet.base.errors import InputError
from magunet.base.provenance import whole_file
from magunet.nifti import read_nifti, write_nifti
from magunet.series import SHEARED, read_series

ENDING = ".nii.gz"
"""Of the files in a cohort."""
NIFTI_ENDINGS = (".nii.gz", ".nii")
"""Of the files that nibabel reads and writes."""
WRITTEN_ENDINGS = (*NIFTI_ENDINGS, ".nrrd", ".mha")
"""Of the files that `write_volume` writes."""
FILE_ENDINGS = (*WRITTEN_ENDINGS, ".mhd")
"""Of the files that `read_volume` reads."""
LARGEST_VALUE = 10**6
"""Of a voxel; metal is 30,000 HU."""
SPACINGS = (0.001, 1000)
"""Smallest and largest in mm."""
AXIS_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))
"""World axis x, y, z -> letter of its negative and positive end in LPS coordinates."""


@dataclass(frozen=True)
class Volume:
    """A 3D array and where it lies in the patient.

    array: (d, h, w), any number type. spacing: mm, array order (z, y, x). origin: LPS mm (x, y, z) of the
    centre of voxel [0, 0, 0]. direction: 3 x 3, its columns are the world directions of the array's
    x, y and z axis, orthonormal. Raises InputError when any of these cannot be.
    """

    array: np.ndarray
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: np.ndarray | None = None

    def __post_init__(self):
        if self.array.ndim != 3:
            raise InputError(f"has {self.array.ndim} dimensions {self.array.shape}, channels included; give "
                             "a single 3D volume with one channel")
        if not self.array.size:
            raise InputError(f"has no voxels, its shape is {self.array.shape}; export it again")
        if self.array.dtype.kind not in "biuf":
            raise InputError(f"voxels must be single numbers, not {self.array.dtype}; export magnitude or HU")
        if not all(SPACINGS[0] <= s <= SPACINGS[1] for s in self.spacing):
            raise InputError(f"voxel spacing must be positive, from {SPACINGS[0]} to {SPACINGS[1]} mm, "
                             f"and is {self.spacing} (z, y, x); export it again")
        if not np.isfinite(self.origin).all():
            raise InputError(f"the position must be three numbers, not {self.origin}; export it again")
        direction = np.eye(3) if self.direction is None else np.asarray(self.direction, float).reshape(3, 3)
        if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-3):
            raise InputError(SHEARED)
        object.__setattr__(self, "direction", direction)

    def with_array(self, array: np.ndarray) -> "Volume":
        """Another array on the same grid. Raises InputError when its shape differs."""
        if array.shape != self.array.shape:
            raise InputError(f"array {array.shape} does not fit the grid {self.array.shape}")
        return replace(self, array=array)

    def to_world(self, index: tuple[float, float, float]) -> np.ndarray:
        """LPS coordinates (x, y, z) in mm of an array index (z, y, x)."""
        step = np.asarray(index[::-1]) * np.asarray(self.spacing[::-1])
        return np.asarray(self.origin) + self.direction @ step

    def sample(self, points: np.ndarray, outside: float = np.nan) -> np.ndarray:
        """Values (...), float32, at LPS points (..., 3) in mm; ``outside`` where there are no voxels."""
        index = (points - np.asarray(self.origin)) @ self.direction / self.spacing[::-1]   # (..., 3), x-y-z
        index = np.moveaxis(index[..., ::-1], -1, 0)
        return ndimage.map_coordinates(self.array, index, np.float32, order=1, cval=outside)


def corners(volume: Volume) -> np.ndarray:
    """LPS coordinates (8, 3) in mm of the centres of the voxels at the corners."""
    ends = itertools.product(*[(0, n - 1) for n in volume.array.shape])
    return np.array([volume.to_world(index) for index in ends])


def same_geometry(a: Volume, b: Volume, tolerance: float = 0.01) -> bool:
    """True when the grids have one shape and no corner lies more than ``tolerance`` mm apart."""
    if a.array.shape != b.array.shape:
        return False
    return bool(np.linalg.norm(corners(a) - corners(b), axis=1).max() <= tolerance)


def bounding_box(mask: np.ndarray, margin: int | Sequence[int] = 0) -> tuple[slice, slice, slice]:
    """The smallest box that holds all non-zero voxels of a mask (d, h, w), which must not be empty.

    margin: voxels around it, one number or (z, y, x), as far as the array reaches.
    """
    box = []
    for axis, (more, size) in enumerate(zip(np.broadcast_to(margin, 3).tolist(), mask.shape)):
        inside = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))).tolist()
        box.append(slice(max(0, inside[0] - more), min(size, inside[-1] + 1 + more)))
    return tuple(box)


def _nearest_axes(direction: np.ndarray) -> list[tuple[int, int]]:
    """For array axis x, y, z: (world axis, sign) it runs along most nearly, each world axis once."""
    axes = {}
    for place in np.argsort(-np.abs(direction), axis=None, kind="stable").tolist():
        world, axis = divmod(place, 3)
        if axis not in axes and world not in axes.values():
            axes[axis] = world
    return [(axes[axis], 1 if direction[axes[axis], axis] > 0 else -1) for axis in range(3)]


def orientation(volume: Volume) -> str:
    """Three letters such as "LPS": the way the array's x, y and z index grow in the patient."""
    return "".join(AXIS_LETTERS[world][sign > 0] for world, sign in _nearest_axes(volume.direction))


def reorient(volume: Volume, code: str) -> Volume:
    """The same voxels with axes permuted and flipped to ``code``; nothing is interpolated or lost.

    Raises InputError when ``code`` is not three of L/R, A/P, I/S in some order.
    """
    target = [(world, 1 if letter == AXIS_LETTERS[world][1] else -1)
              for letter in code for world in range(3) if letter in AXIS_LETTERS[world]]
    if len(code) != 3 or sorted(world for world, _ in target) != [0, 1, 2]:
        raise InputError(f"orientation must be three letters such as LPS or RAS, not {code!r}")
    axes = _nearest_axes(volume.direction)
    source = [[world for world, _ in axes].index(world) for world, _ in target]     # old axis of new x, y, z
    flips = [axes[old][1] * sign for old, (_, sign) in zip(source, target)]         # -1: the other way round
    order, steps = [2 - old for old in reversed(source)], flips[::-1]               # the same for z, y, x
    start = [0, 0, 0]                                                               # old index of its origin
    for axis, step in zip(order, steps):
        start[axis] = volume.array.shape[axis] - 1 if step < 0 else 0
    array = np.transpose(volume.array, order)[tuple(slice(None, None, step) for step in steps)]
    return Volume(np.ascontiguousarray(array), tuple(volume.spacing[axis] for axis in order),
                  tuple(volume.to_world(tuple(start)).tolist()), volume.direction[:, source] * flips)


def read_volume(path: Path | str) -> Volume:
    """Read a DICOM folder, or a NIfTI, NRRD, MHA or MHD file.

    Raises InputError, naming the file, when it is missing, damaged, not 3D, has colour channels, or does not
    state where it lies; for DICOM also when slices are missing, doubled, or of several series.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if not path.is_dir() and not path.name.lower().endswith(FILE_ENDINGS):
        raise InputError(f"{path}: not a format magunet reads; give a DICOM folder or one of "
                         f"{', '.join(FILE_ENDINGS)}")
    if path.name.lower().endswith(NIFTI_ENDINGS) and not path.is_dir():
        array, *grid = read_nifti(path)
    else:
        array, *grid = itk.parts(read_series(path) if path.is_dir() else itk.read_image(path))
    most = max(float(array.max()), -float(array.min())) if array.size and array.dtype.kind in "iuf" else 0
    if not most <= LARGEST_VALUE:
        raise InputError(f"{path}: holds NaN, infinite values or such beyond {LARGEST_VALUE:,}, which no CT "
                         "has; export it again")
    try:
        return Volume(array, *grid)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def write_volume(volume: Volume, path: Path | str) -> None:
    """Write NIfTI, NRRD or MHA (by the ending), whole or not at all. Booleans become uint8, float16 float32.

    Raises InputError for another ending, OSError where the file cannot be written.
    """
    path = Path(path)
    if not path.name.lower().endswith(WRITTEN_ENDINGS):
        raise InputError(f"{path}: cannot write this format; use one of {', '.join(WRITTEN_ENDINGS)}")
    write = write_nifti if path.name.lower().endswith(NIFTI_ENDINGS) else itk.write_image
    dtype = volume.array.dtype
    dtype = {"bool": np.uint8, "float16": np.float32}.get(dtype.name, dtype.newbyteorder("="))
    with whole_file(path) as part:
        write(volume.array.astype(dtype, copy=False), volume.spacing, volume.origin, volume.direction, part)
