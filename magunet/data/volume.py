"""CT volumes and masks: reading, writing and geometry. The only module that needs SimpleITK, and only to
read and write files; a `Volume` itself is NumPy."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from magunet.data.nifti import SHEARED, check_nifti
from magunet.errors import InputError
from magunet.provenance import whole_file

ENDING = ".nii.gz"
"""Of the files in a cohort."""
WRITTEN_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
FILE_ENDINGS = (*WRITTEN_ENDINGS, ".mhd")
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
        if self.array.dtype.kind not in "biuf":
            raise InputError(f"voxels must be numbers, these are {self.array.dtype}; export magnitude or HU")
        if not all(np.isfinite(s) and s > 0 for s in self.spacing):
            raise InputError(f"voxel spacing must be positive, got {self.spacing} mm (z, y, x)")
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
        return _from_sitk(_read_dicom(path), path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if not path.name.lower().endswith(FILE_ENDINGS):
        raise InputError(f"{path}: not a format magunet reads; give a DICOM folder or one of {', '.join(FILE_ENDINGS)}")
    if path.name.lower().endswith((".nii", ".nii.gz")):
        check_nifti(path)
    return _from_sitk(_execute(_sitk().ReadImage, path, str(path)), path)


def read_segments(path: Path | str, names: Sequence[str]) -> Volume:
    """Named segments of a 3D Slicer segmentation (.seg.nrrd) as labels 1, 2, ... (uint8), in one or several layers.

    Raises InputError as `read_volume`, and when the file names none of the segments.
    """
    path = Path(path)
    sitk = _sitk()
    image = _execute(sitk.ReadImage, path, str(path))
    stored = {image.GetMetaData(key): key.removesuffix("_Name") for key in image.GetMetaDataKeys() if key.endswith("_Name")}
    array = sitk.GetArrayFromImage(image)
    layers = array[..., None] if image.GetNumberOfComponentsPerPixel() == 1 else array     # (d, h, w, layers)
    labels = np.zeros(layers.shape[:3], np.uint8)
    for number, name in enumerate(names, 1):
        if key := stored.get(name):
            layer = int(image.GetMetaData(f"{key}_Layer")) if image.HasMetaDataKey(f"{key}_Layer") else 0
            labels[layers[..., layer] == int(image.GetMetaData(f"{key}_LabelValue"))] = number
    if not set(names) & set(stored):
        raise InputError(f"{path}: no segment is named {', '.join(names)}; rename them in 3D Slicer")
    return Volume(labels, tuple(image.GetSpacing()[::-1]), tuple(image.GetOrigin()), np.reshape(image.GetDirection(), (3, 3)))


def write_volume(volume: Volume, path: Path | str) -> None:
    """Write NIfTI, NRRD, MHA (by the ending), whole or not at all. Booleans become uint8, float16 float32."""
    path = Path(path)
    if not path.name.lower().endswith(WRITTEN_ENDINGS):
        raise InputError(f"{path}: cannot write this format; use one of {', '.join(WRITTEN_ENDINGS)}")
    sitk = _sitk()
    stored = {"bool": np.uint8, "float16": np.float32}.get(volume.array.dtype.name, volume.array.dtype.newbyteorder("="))
    array = volume.array.astype(stored, copy=False)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(s) for s in reversed(volume.spacing)])
    image.SetOrigin([float(v) for v in volume.origin])
    image.SetDirection([float(v) for v in volume.direction.ravel()])
    with whole_file(path) as part:
        _execute(sitk.WriteImage, path, image, str(part), useCompression=True)


def _sitk():
    import SimpleITK  # here, so that phantoms, training and scoring run where it is not installed

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def _execute(call, path: Path, *arguments, **named):
    """Run a SimpleITK call; its long C++ message becomes one line about the file."""
    try:
        return call(*arguments, **named)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].split("ERROR:")[-1].strip()
        if "orthonormal" in reason:
            raise InputError(f"{path}: {SHEARED}") from error
        raise InputError(f"{path}: cannot be read or written as a medical image ({reason}); is the file complete?") from error


def _from_sitk(image, path: Path) -> Volume:
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{path}: has {image.GetNumberOfComponentsPerPixel()} channels; give a single-channel CT or mask")
    if image.GetDimension() != 3:
        raise InputError(f"{path}: has {image.GetDimension()} dimensions {image.GetSize()}; give a single 3D volume")
    array = _sitk().GetArrayFromImage(image)
    try:
        return Volume(array, tuple(image.GetSpacing()[::-1]), tuple(image.GetOrigin()), np.reshape(image.GetDirection(), (3, 3)))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


# DICOM ------------------------------------------------------------------------------------------------

POSITION, ORIENTATION, PIXEL_SPACING = "0020|0032", "0020|0037", "0028|0030"
SPACING_TOLERANCE = 0.1
"""Largest deviation of one slice distance from the median, as a fraction of it."""
ASIDE_TOLERANCE = 0.1
"""Largest shift of a slice against the first, across the normal, in mm."""


def _read_dicom(folder: Path):
    sitk = _sitk()
    names = _one_series(folder)
    headers = [_slice_header(Path(name)) for name in names]
    for key, what in (("orientation", "image orientations"), ("pixel_spacing", "pixel spacings"), ("size", "image sizes")):
        values = np.array([h[key] for h in headers])
        if np.abs(values - values[0]).max() > 1e-3:
            raise InputError(f"{folder}: slices have different {what}, so they are not one series; keep one series in the folder")
    row, column = headers[0]["orientation"][:3], headers[0]["orientation"][3:]
    normal = np.cross(row, column)
    position = np.array([h["position"] @ normal for h in headers])
    aside = np.array([h["position"] for h in headers]) - position[:, None] * normal
    if np.abs(aside - aside[0]).max() > ASIDE_TOLERANCE:
        raise InputError(f"{folder}: slices are shifted against each other (tilted gantry); resample the series to a "
                         "rectangular grid first")
    order = np.argsort(position)
    spacing = _slice_spacing(folder, position[order])
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([names[i] for i in order])
    image = _execute(reader.Execute, folder)
    in_plane = headers[0]["pixel_spacing"]                       # row distance (y), column distance (x)
    image.SetSpacing([float(in_plane[1]), float(in_plane[0]), spacing])
    image.SetOrigin([float(v) for v in headers[order[0]]["position"]])
    image.SetDirection([float(v) for v in np.stack([row, column, normal], axis=1).ravel()])
    return image


def _one_series(folder: Path) -> list[str]:
    reader = _sitk().ImageSeriesReader
    series = reader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise InputError(f"{folder}: no DICOM images in this folder; give the folder that holds the slices of one series")
    if len(series) > 1:
        raise InputError(f"{folder}: holds {len(series)} DICOM series; move the wanted one into a folder of its own")
    names = list(reader.GetGDCMSeriesFileNames(str(folder), series[0]))
    for path in set(folder.iterdir()) - set(map(Path, names)):
        if path.name != "DICOMDIR" and path.is_file() and _is_dicom(path):
            raise InputError(f"{path}: a DICOM file that holds no readable slice; export the series again, or remove the file")
    if len(names) < 2:
        if _slice_count(Path(names[0])) > 1:
            raise InputError(f"{folder}: a multi-frame DICOM file, which magunet does not read; convert it to NIfTI")
        raise InputError(f"{folder}: holds a single slice; a CT volume needs at least 2")
    return names


def _is_dicom(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _slice_count(path: Path) -> int:
    reader = _sitk().ImageFileReader()
    reader.SetFileName(str(path))
    _execute(reader.ReadImageInformation, path)
    return reader.GetSize()[2]


def _slice_header(path: Path) -> dict:
    reader = _sitk().ImageFileReader()
    reader.SetFileName(str(path))
    _execute(reader.ReadImageInformation, path)

    def numbers(tag: str, what: str, count: int) -> np.ndarray:
        try:
            values = np.array([float(v) for v in reader.GetMetaData(tag).split("\\")])
        except (RuntimeError, ValueError):
            values = np.array([])
        if len(values) != count:
            raise InputError(f"{path}: DICOM tag ({tag.replace('|', ',')}) {what} is missing or malformed; "
                             "export the series again as axial CT slices")
        return values

    return {
        "position": numbers(POSITION, "Image Position (Patient)", 3),
        "orientation": numbers(ORIENTATION, "Image Orientation (Patient)", 6),
        "pixel_spacing": numbers(PIXEL_SPACING, "Pixel Spacing", 2),
        "size": np.array(reader.GetSize()[:2]),
    }


def _slice_spacing(folder: Path, position: np.ndarray) -> float:
    """Distance of neighbouring slices in mm, from sorted positions along the normal."""
    steps = np.diff(position)
    if steps.min() < 1e-3:
        at = position[int(np.argmin(steps))]
        raise InputError(f"{folder}: two slices lie at the same position ({at:.2f} mm); remove the duplicate")
    spacing = float(np.median(steps))
    worst = int(np.argmax(np.abs(steps - spacing)))
    if abs(steps[worst] - spacing) > SPACING_TOLERANCE * spacing:
        raise InputError(f"{folder}: slices are {spacing:.2f} mm apart but {steps[worst]:.2f} mm at {position[worst]:.2f} mm; "
                         "a slice is missing or the series mixes spacings: export it completely")
    return float(np.mean(steps))
