"""CT volumes and masks: where their voxels lie in the patient, and the files that hold them."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
from nibabel import orientations
from numpy.typing import ArrayLike
from scipy import ndimage

from magunet.base import itk
from magunet.base.errors import InputError, require
from magunet.base.nifti import FLIP, read_nifti
from magunet.base.provenance import whole_file
from magunet.series import SHEARED, read_series

ENDING = ".nii.gz"
"""Of the files in a cohort."""
NIFTI_ENDINGS = (ENDING, ".nii")
"""Of the files that `write_volume` writes."""
FILE_ENDINGS = (*NIFTI_ENDINGS, ".nrrd", ".mha", ".mhd")
"""Of the files that `read_volume` reads."""
AXIS_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))
"""World axis x, y, z -> letter of its negative and positive end in LPS coordinates."""
UNSTATED = "does not state which of its sides is the patient's left"
"""Of a NIfTI file with both codes 0, an NRRD without a space, a MetaImage without a matrix."""
BORDERS = ("first slice", "last slice", "first row", "last row", "first column", "last column")
"""Faces of a volume, in the order of its axes."""
GRID_TOLERANCE = 0.1
"""mm between voxel centres that are taken for the same point."""


@dataclass(frozen=True)
class Volume:
    """A 3D array (d, h, w) of numbers and where it lies in the patient.

    spacing: mm (z, y, x). origin: LPS mm (x, y, z) of the centre of voxel [0, 0, 0]. direction: 3 x 3, its
    columns are the world directions of the array's x, y and z axis, orthonormal, None for those of LPS.
    Raises InputError when any of these cannot be.
    """

    array: np.ndarray
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: np.ndarray | None = None

    def __post_init__(self):
        array = self.array
        require(array.ndim == 3, f"has {array.ndim} dimensions {array.shape}, channels included; give a "
                "single 3D volume with one channel")
        require(array.size, f"has no voxels, its shape is {array.shape}; export it again")
        require(array.dtype.kind in "biuf", f"voxels must be real, not {array.dtype}; export magnitude or HU")
        require(all(0.001 <= step <= 1000 for step in self.spacing), "voxel spacing must be positive, from "
                f"0.001 to 1000 mm, and is {self.spacing} (z, y, x); export it again")
        require(np.isfinite(self.origin).all(), f"its position is {self.origin}, no place; export it again")
        direction = np.eye(3) if self.direction is None else np.asarray(self.direction, float).reshape(3, 3)
        require(np.allclose(direction.T @ direction, np.eye(3), atol=1e-3), SHEARED)
        object.__setattr__(self, "direction", direction)

    def with_array(self, array: np.ndarray) -> "Volume":
        """Another array on the same grid. Raises InputError when its shape differs."""
        require(array.shape == self.array.shape, f"{array.shape} does not fit the grid {self.array.shape}")
        return replace(self, array=array)

    def to_world(self, index: ArrayLike) -> np.ndarray:
        """LPS coordinates (..., 3), x-y-z, in mm of array indices (..., 3), z-y-x."""
        return self.origin + np.asarray(index)[..., ::-1] * self.spacing[::-1] @ self.direction.T

    def sample(self, points: np.ndarray, outside: float = np.nan) -> np.ndarray:
        """Values (...), float32, at LPS points (..., 3) in mm; ``outside`` where there are no voxels."""
        index = (points - np.asarray(self.origin)) @ self.direction / self.spacing[::-1]   # (..., 3), x-y-z
        index = np.moveaxis(index[..., ::-1], -1, 0)
        return ndimage.map_coordinates(self.array, index, np.float32, order=1, cval=outside)


def corners(volume: Volume) -> np.ndarray:
    """LPS coordinates (8, 3) in mm of the centres of the voxels at the corners."""
    return volume.to_world([*itertools.product(*((0, n - 1) for n in volume.array.shape))])


def extent_problem(volume: Volume) -> str | None:
    """Why no CT of a pelvis is as large or as small as this one, None if one can be.

    A crop around one joint is 60 mm wide or deep; a scan in cm that is taken to be in mm is not.
    """
    sides = np.abs(volume.direction) @ np.multiply(volume.array.shape, volume.spacing)[::-1]
    return None if 60 <= sides[:2].max() <= 1200 and sides[2] <= 2500 else (
        "is {:.4g} mm wide, {:.4g} mm deep and {:.4g} mm high, which no CT of a pelvis is; perhaps its voxel "
        "spacing is not in mm: export it again".format(*sides))


def same_geometry(a: Volume, b: Volume, tolerance: float = 0.01) -> bool:
    """True when the grids have one shape and no corner lies more than ``tolerance`` mm apart."""
    same_shape = a.array.shape == b.array.shape
    return same_shape and bool(np.linalg.norm(corners(a) - corners(b), axis=1).max() <= tolerance)


def bounding_box(mask: np.ndarray, margin: int | Sequence[int] = 0) -> tuple[slice, slice, slice]:
    """The smallest box that holds all non-zero voxels of a mask (d, h, w), which must not be empty.

    margin: voxels around it, one number or (z, y, x), as far as the array reaches.
    """
    inside = [np.flatnonzero(mask.any(axis=others)).tolist() for others in ((1, 2), (0, 2), (0, 1))]
    return tuple(slice(max(0, places[0] - more), min(size, places[-1] + 1 + more))
                 for places, more, size in zip(inside, np.broadcast_to(margin, 3).tolist(), mask.shape))


def part_of(volume: Volume, box: tuple[slice, slice, slice]) -> Volume:
    """The voxels in a box, where they lie in the patient."""
    corner = volume.to_world(tuple(side.start for side in box))
    return Volume(volume.array[box], volume.spacing, tuple(corner.tolist()), volume.direction)


def orientation(volume: Volume) -> str:
    """Three letters such as "LPS": the way the array's x, y and z index grow in the patient."""
    axes = orientations.io_orientation(np.pad(volume.direction, (0, 1)))
    return "".join(orientations.ornt2axcodes(axes, AXIS_LETTERS))


def directions(code: str) -> np.ndarray:
    """LPS directions (3, 3) of axes whose index grows the way that three letters such as "LPS" say.

    Raises InputError when ``code`` is not three of L/R, A/P, I/S in some order.
    """
    require(len(code) == 3 and all(len(set(code) & set(letters)) == 1 for letters in AXIS_LETTERS),
            f"orientation must be three letters such as LPS or RAS, not {code!r}")
    axes, signs = orientations.axcodes2ornt(code, AXIS_LETTERS).T
    return np.eye(3)[:, axes.astype(int)] * signs + 0.0               # no -0.0


def reorient(volume: Volume, code: str) -> Volume:
    """The same voxels with axes permuted and flipped to ``code``; nothing is interpolated or lost.

    Raises InputError as `directions` does.
    """
    directions(code)
    turn = orientations.ornt_transform(*(
        orientations.axcodes2ornt(letters, AXIS_LETTERS) for letters in (orientation(volume), code)))
    back = orientations.inv_ornt_aff(turn, volume.array.shape[::-1])        # new index -> old index, x-y-z
    array = np.ascontiguousarray(orientations.apply_orientation(volume.array.T, turn).T)
    spacing = np.abs(back[:3, :3].T @ volume.spacing[::-1])[::-1]
    origin = volume.to_world(tuple(back[2::-1, 3]))
    return Volume(array, tuple(spacing.tolist()), tuple(origin.tolist()), volume.direction @ back[:3, :3])


def onto_grid(volume: Volume, grid: Volume, value: float = 0) -> Volume:
    """The voxels of a volume on another grid, axes turned, whole voxels cut or filled with ``value``; nothing
    is interpolated. Raises InputError when the voxels of the two do not coincide."""
    turned = reorient(volume, orientation(grid))
    offset = grid.direction.T @ (np.asarray(turned.origin) - grid.origin) / grid.spacing[::-1]
    start = np.round(offset[::-1]).astype(int)
    expected = Volume(turned.array, grid.spacing, tuple(grid.to_world(start)), grid.direction)
    require(same_geometry(turned, expected, GRID_TOLERANCE),
            "the segmentation lies on another grid than the CT; resample it onto the CT, nearest neighbour")
    size, count = np.array(grid.array.shape), np.array(turned.array.shape)
    margins = np.clip([start, size - start - count], 0, size)           # voxels to add before and behind
    first = np.clip(-start, 0, count)
    inside = turned.array[tuple(map(slice, first, np.clip(size - start, 0, count)))]
    return grid.with_array(np.pad(inside, margins.T, constant_values=value))


def require_there(path: Path) -> None:
    """Raises InputError for a path that is not there, or a link to one, as git-annex leaves."""
    what = "a link to what is not there; fetch it, as by 'git annex get'" if path.is_symlink() else None
    require(path.exists(), f"{path}: {what or 'no such file or folder'}")


def read_volume(path: Path | str, code: str | None = None) -> Volume:
    """Read a DICOM folder, or a NIfTI, NRRD, MHA or MHD file.

    code: the `orientation` of a file that does not state it; its position is turned as its axes are. Raises
    InputError, naming the file, for one that is missing, damaged, no single 3D scan, or states another code.
    """
    path = Path(path)
    require_there(path)
    require(path.is_dir() or path.name.lower().endswith(FILE_ENDINGS), f"{path}: not a format magunet reads; "
            f"give a DICOM folder or one of {', '.join(FILE_ENDINGS)}")
    if path.is_dir():
        for link in filter(Path.is_symlink, path.iterdir()):
            require_there(link)                                 # else the ends of a scan may be missing
        array, *grid, stated = *read_series(path), True
    elif path.name.lower().endswith(NIFTI_ENDINGS):
        array, *grid, stated = read_nifti(path)
    else:
        image, stated = itk.read_image(path)
        array = itk.load().GetArrayFromImage(image)
        grid = image.GetSpacing()[::-1], image.GetOrigin(), image.GetDirection()
    require(stated or code, f"{path}: {UNSTATED}; convert it anew from DICOM, or if you know it, tell "
            "predict or import by --orientation")
    most = max(float(array.max()), -float(array.min())) if array.size and array.dtype.kind in "iuf" else 0
    require(most <= 10**6, f"{path}: holds NaN, infinite values or such beyond 1,000,000, which no CT has; "
            "export it again")                                              # metal is 30,000 HU
    try:
        volume = Volume(array, *grid)
        own = orientation(volume)
        require(not stated or code in (None, own), f"states its own orientation: {own}, not {code}")
        turn = np.eye(3) if stated else directions(code) @ volume.direction.T
        place = tuple((turn @ volume.origin).tolist())
        return replace(volume, origin=place, direction=turn @ volume.direction)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def write_volume(volume: Volume, path: Path | str) -> None:
    """Write NIfTI, with one qform and sform, whole or not at all. Booleans become uint8, float16 float32.

    Raises InputError for another ending, OSError where the file cannot be written.
    """
    path = Path(path)
    require(path.name.lower().endswith(NIFTI_ENDINGS), f"{path}: cannot write this format; use one of "
            f"{', '.join(NIFTI_ENDINGS)}")
    dtype = volume.array.dtype
    dtype = np.dtype({"bool": np.uint8, "float16": np.float32}.get(dtype.name, dtype.newbyteorder("=")))
    matrix = FLIP[:, None] * volume.direction * volume.spacing[::-1]
    affine = nibabel.affines.from_matvec(matrix, FLIP * volume.origin)
    image = nibabel.Nifti1Image(volume.array.astype(dtype, copy=False).T, affine, dtype=dtype)
    image.set_qform(affine, "scanner")
    image.set_sform(affine, "scanner")
    image.header.set_xyzt_units("mm", "sec")
    with whole_file(path) as part:
        nibabel.save(image, part)


def touched_faces(mask: np.ndarray, names: Sequence[str] = BORDERS) -> list[str]:
    """The faces of a volume (d, h, w) that a mask reaches, where a joint may be cut off."""
    faces = [np.take(mask, end, axis) for axis in range(3) for end in (0, -1)]
    return [name for name, face in zip(names, faces) if face.any()]


def voxel_hash(volume: Volume) -> str:
    """sha256 of the voxels as float32 and of the grid's shape: the same for one image in any file format."""
    digest = hashlib.sha256(str(volume.array.shape).encode())
    for plane in volume.array:                                          # one by one, to save memory
        digest.update(np.ascontiguousarray(plane, "<f4"))
    return digest.hexdigest()
