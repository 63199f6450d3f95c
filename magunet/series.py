"""DICOM series: the slices of one CT, checked one by one, and put together where their headers say."""

from pathlib import Path

import numpy as np

from magunet import itk
from magunet.base.errors import InputError

AIR_HU = -500
"""Every CT holds air, whose HU are below."""
SPACING_TOLERANCE = 0.1
"""Largest deviation of one slice distance from the median, as a fraction of it."""
ASIDE_TOLERANCE = 0.1
"""Largest shift of a slice against the first, across the normal, in mm."""
SHEARED = "its axes are not perpendicular (sheared or tilted gantry); resample it to a rectangular grid first"
"""What is wrong with a volume that is no box."""


def read_series(folder: Path):
    """The SimpleITK image of the one series in a folder. Raises InputError that names the folder or slice."""
    sitk = itk.load()
    paths, headers = ordered_slices(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in paths])
    image = itk.execute(reader.Execute, folder)
    single = image.GetNumberOfComponentsPerPixel() == 1
    if single and not headers[0]["rescaled"] and sitk.GetArrayViewFromImage(image).min() >= AIR_HU:
        raise InputError(f"{folder}: has no Rescale Intercept and no voxel below {AIR_HU}, so its values are "
                         "not HU; export the series again with Rescale Slope and Intercept")
    axes = _axes(headers[0])
    slice_mm = np.mean(np.diff([header["position"] @ axes[:, 2] for header in headers]))
    row_mm, column_mm = headers[0]["pixel_spacing"]
    image.SetSpacing([float(column_mm), float(row_mm), float(slice_mm)])
    image.SetOrigin([float(v) for v in headers[0]["position"]])
    image.SetDirection([float(v) for v in axes.ravel()])
    return image


def ordered_slices(folder: Path) -> tuple[list[Path], list[dict]]:
    """Files of the one series in a folder, in order along its normal, and of each what says where it lies.

    Raises InputError when slices are missing, doubled, of several series, or do not make a box.
    """
    paths = _one_series(folder)
    headers = [_slice_header(path) for path in paths]
    for key, name in (("orientation", "image orientations"), ("pixel_spacing", "pixel spacings"),
                      ("size", "image sizes"), ("rescaled", "ways to HU (some lack a rescale intercept)")):
        values = np.array([header[key] for header in headers])
        if np.abs(values - values[0]).max() > 1e-3:
            raise InputError(f"{folder}: slices have different {name}, so they are not one series; keep one "
                             "series in the folder")
    axes = _axes(headers[0])
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
        raise InputError(f"{folder}: {SHEARED}")
    places = np.array([header["position"] for header in headers])
    along = places @ axes[:, 2]
    aside = places - along[:, None] * axes[:, 2]
    if np.abs(aside - aside[0]).max() > ASIDE_TOLERANCE:
        raise InputError(f"{folder}: slices are shifted against each other (tilted gantry); resample the "
                         "series to a rectangular grid first")
    order = np.argsort(along)
    steps, along = np.diff(along[order]), along[order]
    if steps.min() < 1e-3:
        raise InputError(f"{folder}: two slices lie at the same position ({along[int(np.argmin(steps))]:.2f} "
                         "mm); remove the duplicate")
    usual = float(np.median(steps))
    worst = int(np.argmax(np.abs(steps - usual)))
    if abs(steps[worst] - usual) > SPACING_TOLERANCE * usual:
        raise InputError(f"{folder}: slices are {usual:.2f} mm apart but {steps[worst]:.2f} mm at "
                         f"{along[worst]:.2f} mm; a slice is missing or the series mixes spacings: export it "
                         "completely")
    return [paths[i] for i in order], [headers[i] for i in order]


def _axes(header: dict) -> np.ndarray:
    """Directions of the array's x, y and z axis in the patient, as columns (3, 3)."""
    row, column = header["orientation"][:3], header["orientation"][3:]
    return np.stack([row, column, np.cross(row, column)], axis=1)


def _one_series(folder: Path) -> list[Path]:
    reader = itk.load().ImageSeriesReader
    series = itk.execute(reader.GetGDCMSeriesIDs, folder, str(folder))
    if not series:
        raise InputError(f"{folder}: no DICOM images in this folder; give the folder that holds the slices")
    if len(series) > 1:
        raise InputError(f"{folder}: holds {len(series)} DICOM series; move one into a folder of its own")
    names = itk.execute(reader.GetGDCMSeriesFileNames, folder, str(folder), series[0])
    paths = [Path(name) for name in names]
    for path in set(folder.iterdir()) - set(paths):
        if path.name != "DICOMDIR" and path.is_file() and _is_slice(path, paths[0].suffix):
            raise InputError(f"{path}: a DICOM file that holds no readable slice; export the series again, "
                             "or remove the file")
    if len(paths) < 2:
        _slice_header(paths[0])                                         # perhaps many slices in one file
        raise InputError(f"{folder}: holds a single slice, not at least 2; give the folder of the series")
    return paths


def _is_slice(path: Path, ending: str) -> bool:
    """Whether a file is a DICOM file, or named like one of the slices and the rest of one."""
    with open(path, "rb") as stream:
        start = stream.read(132)                                        # a preamble, and then "DICM"
    return start[128:] == b"DICM" or (path.suffix == ending and (ending != "" or len(start) < 132))


def _slice_header(path: Path) -> dict:
    """Position (3,), orientation (6,), pixel_spacing (2,) and size (2,), and whether a slice is rescaled."""
    reader = itk.load().ImageFileReader()
    reader.SetFileName(str(path))
    itk.execute(reader.ReadImageInformation, path)

    def numbers(tag: str, name: str, count: int) -> np.ndarray:
        try:
            values = np.array([float(v) for v in reader.GetMetaData(tag).split("\\")])
        except (RuntimeError, ValueError):
            values = np.array([])
        if len(values) != count or not np.isfinite(values).all():
            raise InputError(f"{path}: DICOM tag ({tag.replace('|', ',')}) {name} is missing or malformed; "
                             "export the series again as axial CT slices")
        return values

    if reader.GetSize()[2:] != (1,) * len(reader.GetSize()[2:]):
        raise InputError(f"{path}: a multi-frame DICOM file, which is not read; convert it to NIfTI")
    if reader.HasMetaDataKey("0008|0008") and "LOCALIZER" in reader.GetMetaData("0008|0008"):
        raise InputError(f"{path}: a localiser (scout), no CT slice; keep only the slices in the folder")
    spacing = numbers("0028|0030", "Pixel Spacing", 2)
    if spacing.min() <= 0:
        raise InputError(f"{path}: Pixel Spacing must be positive, not {spacing} mm; export the series again")
    return {"position": numbers("0020|0032", "Image Position (Patient)", 3), "pixel_spacing": spacing,
            "orientation": numbers("0020|0037", "Image Orientation (Patient)", 6),
            "size": np.array(reader.GetSize()[:2]), "rescaled": float(reader.HasMetaDataKey("0028|1052"))}
