"""DICOM series: the slices of one CT, found, checked one by one, and put together where their headers say."""

from pathlib import Path

import numpy as np

from magunet import itk
from magunet.base.errors import InputError

SHEARED = "the axes of the volume are not perpendicular (sheared or tilted gantry); resample it to a rectangular grid first"
"""What no volume may be."""
POSITION, ORIENTATION, PIXEL_SPACING = "0020|0032", "0020|0037", "0028|0030"
IMAGE_TYPE, INTERCEPT = "0008|0008", "0028|1052"
PREAMBLE = 132
"""Bytes of a DICOM file before its header."""
AIR_HU = -500
"""Every CT holds air, whose HU are below."""
SPACING_TOLERANCE = 0.1
"""Largest deviation of one slice distance from the median, as a fraction of it."""
ASIDE_TOLERANCE = 0.1
"""Largest shift of a slice against the first, across the normal, in mm."""


def read_series(folder: Path):
    """The SimpleITK image of the one series in a folder. Raises InputError that names the folder or the slice."""
    sitk = itk.load()
    names = _one_series(folder)
    headers = [_slice_header(Path(name)) for name in names]
    for key, what in (("orientation", "image orientations"), ("pixel_spacing", "pixel spacings"), ("size", "image sizes"),
                      ("rescaled", "ways to HU (some have a rescale intercept, some none)")):
        values = np.array([h[key] for h in headers])
        if np.abs(values - values[0]).max() > 1e-3:
            raise InputError(f"{folder}: slices have different {what}, so they are not one series; keep one series in the folder")
    row, column = headers[0]["orientation"][:3], headers[0]["orientation"][3:]
    if not np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-3):
        raise InputError(f"{folder}: {SHEARED}")
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
    image = itk.execute(reader.Execute, folder)
    single = image.GetNumberOfComponentsPerPixel() == 1
    if single and not headers[0]["rescaled"] and sitk.GetArrayViewFromImage(image).min() >= AIR_HU:
        raise InputError(f"{folder}: has no Rescale Intercept and no voxel below {AIR_HU}, so its values are not HU; export the "
                         "series again with Rescale Slope and Intercept")
    in_plane = headers[0]["pixel_spacing"]                       # row distance (y), column distance (x)
    image.SetSpacing([float(in_plane[1]), float(in_plane[0]), spacing])
    image.SetOrigin([float(v) for v in headers[order[0]]["position"]])
    image.SetDirection([float(v) for v in np.stack([row, column, normal], axis=1).ravel()])
    return image


def _one_series(folder: Path) -> list[str]:
    reader = itk.load().ImageSeriesReader
    series = itk.execute(reader.GetGDCMSeriesIDs, folder, str(folder))
    if not series:
        raise InputError(f"{folder}: no DICOM images in this folder; give the folder that holds the slices of one series")
    if len(series) > 1:
        raise InputError(f"{folder}: holds {len(series)} DICOM series; move the wanted one into a folder of its own")
    names = list(itk.execute(reader.GetGDCMSeriesFileNames, folder, str(folder), series[0]))
    for path in set(folder.iterdir()) - set(map(Path, names)):
        if path.name != "DICOMDIR" and path.is_file() and (_is_dicom(path) or _is_stump(path, Path(names[0]))):
            raise InputError(f"{path}: a DICOM file that holds no readable slice; export the series again, or remove the file")
    if len(names) < 2:
        _slice_header(Path(names[0]))                           # perhaps a file of many slices, which is worth saying
        raise InputError(f"{folder}: holds a single slice; a CT volume needs at least 2; give the folder of the whole series")
    return names


def _is_dicom(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(PREAMBLE)[128:] == b"DICM"


def _is_stump(path: Path, sibling: Path) -> bool:
    """Whether a file that is named like a slice is what is left of one."""
    return path.suffix == sibling.suffix and (path.suffix != "" or path.stat().st_size < PREAMBLE)


def _slice_header(path: Path) -> dict:
    reader = itk.load().ImageFileReader()
    reader.SetFileName(str(path))
    itk.execute(reader.ReadImageInformation, path)

    def numbers(tag: str, what: str, count: int) -> np.ndarray:
        try:
            values = np.array([float(v) for v in reader.GetMetaData(tag).split("\\")])
        except (RuntimeError, ValueError):
            values = np.array([])
        if len(values) != count or not np.isfinite(values).all():
            raise InputError(f"{path}: DICOM tag ({tag.replace('|', ',')}) {what} is missing or malformed; "
                             "export the series again as axial CT slices")
        return values

    if reader.GetSize()[2:] != (1,) * len(reader.GetSize()[2:]):
        raise InputError(f"{path}: a multi-frame DICOM file, which magunet does not read; convert it to NIfTI")
    if reader.HasMetaDataKey(IMAGE_TYPE) and "LOCALIZER" in reader.GetMetaData(IMAGE_TYPE):
        raise InputError(f"{path}: is a localiser (scout) and no CT slice; keep only the slices of one series in the folder")
    spacing = numbers(PIXEL_SPACING, "Pixel Spacing", 2)
    if spacing.min() <= 0:
        raise InputError(f"{path}: Pixel Spacing must be positive, and is {spacing} mm; export the series again")
    return {
        "position": numbers(POSITION, "Image Position (Patient)", 3),
        "orientation": numbers(ORIENTATION, "Image Orientation (Patient)", 6),
        "pixel_spacing": spacing,
        "size": np.array(reader.GetSize()[:2]),
        "rescaled": float(reader.HasMetaDataKey(INTERCEPT)),
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
