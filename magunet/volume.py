"""CT volumes and masks: reading, writing and geometry. SimpleITK only reads and writes files; a `Volume` itself is NumPy."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from magunet import itk
from magunet.base.errors import InputError
from magunet.base.provenance import whole_file
from magunet.headers import check_metaimage, check_nrrd
from magunet.itk import SHEARED
from magunet.nifti import check_nifti
from magunet.series import read_series

ENDING = ".nii.gz"
"""Of the files in a cohort."""
WRITTEN_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
FILE_ENDINGS = (*WRITTEN_ENDINGS, ".mhd")
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
            raise InputError(f"a volume has 3 dimensions, this one has {self.array.ndim} {self.array.shape}; "
                             "split 4D series and drop colour channels first")
        if not self.array.size:
            raise InputError(f"a volume of {self.array.shape} voxels (slices, rows, columns) holds nothing; export it again")
        if self.array.dtype.kind not in "biuf":
            raise InputError(f"voxels must be numbers, these are {self.array.dtype}; export magnitude or HU")
        if not all(SPACINGS[0] <= s <= SPACINGS[1] for s in self.spacing):
            raise InputError(f"voxel spacing must be positive, from {SPACINGS[0]} to {SPACINGS[1]} mm, got {self.spacing} "
                             "(z, y, x); export it again")
        if not np.isfinite(self.origin).all():
            raise InputError(f"the position of a volume must be three numbers, got {self.origin} mm (x, y, z)")
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


def same_geometry(a: Volume, b: Volume, tolerance: float = 0.01) -> bool:
    """True when the grids have one shape and no corner lies more than ``tolerance`` mm apart."""
    return a.array.shape == b.array.shape and bool((np.linalg.norm(corners(a) - corners(b), axis=1) <= tolerance).all())


def corners(volume: Volume) -> np.ndarray:
    """LPS coordinates (8, 3) in mm of the centres of the voxels at the corners."""
    return np.array([volume.to_world(index) for index in itertools.product(*[(0, n - 1) for n in volume.array.shape])])


def _nearest_axes(direction: np.ndarray) -> list[tuple[int, int]]:
    """For array axis x, y, z: (world axis, sign) it runs along most nearly, each world axis once."""
    weight = np.abs(direction).copy()
    found: list[tuple[int, int]] = [(0, 1)] * 3
    for _ in range(3):
        world, axis = np.unravel_index(np.argmax(weight), weight.shape)
        found[axis] = (int(world), 1 if direction[world, axis] > 0 else -1)
        weight[world, :] = weight[:, axis] = -1
    return found


def orientation(volume: Volume) -> str:
    """Three letters such as "LPS": the way the array's x, y and z index grow in the patient."""
    return "".join(AXIS_LETTERS[world][sign > 0] for world, sign in _nearest_axes(volume.direction))


def reorient(volume: Volume, code: str) -> Volume:
    """The same voxels with axes permuted and flipped to ``code``; nothing is interpolated or lost.

    Raises InputError when ``code`` is not three of L/R, A/P, I/S in some order.
    """
    wanted = [(w, letter == AXIS_LETTERS[w][1]) for letter in code for w in range(3) if letter in AXIS_LETTERS[w]]
    if len(code) != 3 or sorted(w for w, _ in wanted) != [0, 1, 2]:
        raise InputError(f"orientation must be three letters such as LPS or RAS, not {code!r}")
    have = _nearest_axes(volume.direction)
    source = [next(a for a in range(3) if have[a][0] == world) for world, _ in wanted]
    flip = [(have[a][1] > 0) != positive for a, (_, positive) in zip(source, wanted)]
    corner = [volume.array.shape[2 - a] - 1 if f else 0 for a, f in zip(source, flip)]   # in x, y, z of the result
    index = [0, 0, 0]
    for a, c in zip(source, corner):
        index[2 - a] = c
    array = np.transpose(volume.array, [2 - source[2], 2 - source[1], 2 - source[0]])
    array = np.flip(array, [2 - k for k in range(3) if flip[k]])
    return Volume(
        np.ascontiguousarray(array),
        tuple(volume.spacing[2 - a] for a in reversed(source)),
        tuple(float(v) for v in volume.to_world(tuple(index))),
        volume.direction[:, source] * [-1 if f else 1 for f in flip],
    )


def read_volume(path: Path | str) -> Volume:
    """Read a DICOM folder, or a NIfTI, NRRD, MHA or MHD file.

    Raises InputError, naming the file, when it is missing, not an image, not 3D, or has colour channels;
    for DICOM also when slices are missing, doubled, or of several series.
    """
    path = Path(path)
    if path.is_dir():
        return _from_sitk(read_series(path), path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if not path.name.lower().endswith(FILE_ENDINGS):
        raise InputError(f"{path}: not a format magunet reads; give a DICOM folder or one of {', '.join(FILE_ENDINGS)}")
    check = {".nrrd": check_nrrd, ".mha": check_metaimage, ".mhd": check_metaimage}.get(path.suffix.lower(), check_nifti)
    check(path)
    return _from_sitk(itk.execute(itk.load().ReadImage, path, str(path)), path)


def read_segments(path: Path | str, names: Sequence[str]) -> Volume:
    """Named segments of a 3D Slicer segmentation (.seg.nrrd) as labels 1, 2, ... (uint8), in one or several layers.

    Raises InputError as `read_volume`, and when the file names none of the segments.
    """
    path = Path(path)
    check_nrrd(path)
    sitk = itk.load()
    image = itk.execute(sitk.ReadImage, path, str(path))
    array = sitk.GetArrayFromImage(image)
    layers = array[..., None] if image.GetNumberOfComponentsPerPixel() == 1 else array     # (d, h, w, layers)
    labels = np.zeros(layers.shape[:3], np.uint8)
    try:
        stored = {image.GetMetaData(key): key.removesuffix("_Name") for key in image.GetMetaDataKeys() if key.endswith("_Name")}
        for number, name in enumerate(names, 1):
            if key := stored.get(name):
                layer = int(image.GetMetaData(f"{key}_Layer")) if image.HasMetaDataKey(f"{key}_Layer") else 0
                labels[layers[..., layer] == int(image.GetMetaData(f"{key}_LabelValue"))] = number
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{path}: does not say which voxels are {', '.join(names)}; save it again in 3D Slicer") from error
    if not set(names) & set(stored):
        raise InputError(f"{path}: no segment is named {', '.join(names)}; rename them in 3D Slicer")
    return _on_grid(labels, image, path)


def write_volume(volume: Volume, path: Path | str) -> None:
    """Write NIfTI, NRRD, MHA (by the ending), whole or not at all. Booleans become uint8, float16 float32."""
    path = Path(path)
    if not path.name.lower().endswith(WRITTEN_ENDINGS):
        raise InputError(f"{path}: cannot write this format; use one of {', '.join(WRITTEN_ENDINGS)}")
    sitk = itk.load()
    stored = {"bool": np.uint8, "float16": np.float32}.get(volume.array.dtype.name, volume.array.dtype.newbyteorder("="))
    array = volume.array.astype(stored, copy=False)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(s) for s in reversed(volume.spacing)])
    image.SetOrigin([float(v) for v in volume.origin])
    image.SetDirection([float(v) for v in volume.direction.ravel()])
    with whole_file(path) as part:
        itk.execute(sitk.WriteImage, path, image, str(part), useCompression=True)


def _from_sitk(image, path: Path) -> Volume:
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{path}: has {image.GetNumberOfComponentsPerPixel()} channels; give a single-channel CT or mask")
    if image.GetDimension() != 3:
        raise InputError(f"{path}: has {image.GetDimension()} dimensions {image.GetSize()}; give a single 3D volume")
    array = itk.load().GetArrayFromImage(image)
    if array.dtype.kind in "iuf" and array.size and not (-LARGEST_VALUE <= array.min() and array.max() <= LARGEST_VALUE):
        raise InputError(f"{path}: holds NaN, infinite values or such beyond {LARGEST_VALUE:,}, which no CT has; export it again")
    return _on_grid(array, image, path)


def _on_grid(array: np.ndarray, image, path: Path) -> Volume:
    """A volume where a SimpleITK image lies. Raises InputError, naming the file."""
    try:
        return Volume(array, tuple(image.GetSpacing()[::-1]), tuple(image.GetOrigin()), np.reshape(image.GetDirection(), (3, 3)))
    except (InputError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error
