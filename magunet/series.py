"""DICOM series: the slices of one CT, checked one by one, and put together where their headers say."""

from pathlib import Path

import numpy as np

from magunet.base import itk
from magunet.base.errors import require

AIR_HU = -500
"""Every CT holds air, whose HU are below."""
SHEARED = "its axes are not perpendicular (sheared or tilted gantry); resample it to a rectangular grid first"
"""What is wrong with a volume that is no box."""


def read_series(folder: Path) -> tuple[np.ndarray, tuple, tuple, np.ndarray]:
    """Array, spacing, origin and direction of the one series in a folder, as `read_nifti` returns them.

    Raises InputError that names the folder or the slice.
    """
    paths, headers, axes = ordered_slices(folder)
    first, sitk = headers[0], itk.load()
    array = sitk.GetArrayFromImage(itk.execute(sitk.ReadImage, folder, [str(path) for path in paths]))
    require(first["rescaled"] or array.ndim > 3 or array.min() < AIR_HU, f"{folder}: has no Rescale "
            f"Intercept and no voxel below {AIR_HU}, so is not HU; export the series again with that")
    slice_mm = np.mean(np.diff([header["position"] @ axes[:, 2] for header in headers]))
    return array, (float(slice_mm), *first["pixel_spacing"].tolist()), tuple(first["position"].tolist()), axes


def ordered_slices(folder: Path) -> tuple[list[Path], list[dict], np.ndarray]:
    """Files of the one series in a folder, in order along its normal, of each what says where it lies, and
    the directions of the array's x, y and z axis in the patient, as columns (3, 3).

    Raises InputError when slices are missing, doubled, of several series, or do not make a box.
    """
    paths = _one_series(folder)
    headers = [_slice_header(path) for path in paths]
    for key, name in (("orientation", "image orientations"), ("pixel_spacing", "pixel spacings"),
                      ("size", "image sizes"), ("rescaled", "ways to HU (some lack a rescale intercept)")):
        values = np.array([header[key] for header in headers])
        require(np.abs(values - values[0]).max() <= 1e-3, f"{folder}: slices have different {name}, so they "
                "are not one series; keep one series in the folder")
    row, column = headers[0]["orientation"][:3], headers[0]["orientation"][3:]
    axes = np.stack([row, column, np.cross(row, column)], axis=1)
    require(np.allclose(axes.T @ axes, np.eye(3), atol=1e-3), f"{folder}: {SHEARED}")
    places = np.array([header["position"] for header in headers]) @ axes            # (slices, 3), mm
    require(np.abs(places - places[0])[:, :2].max() <= 0.1, f"{folder}: slices are shifted against each "
            "other (tilted gantry); resample the series to a rectangular grid first")
    order = np.argsort(places[:, 2])
    along = places[order, 2]
    steps, usual = np.diff(along), float(np.median(np.diff(along)))
    require(steps.min() >= 1e-3, f"{folder}: two slices lie at the same position "
            f"({along[steps.argmin()]:.2f} mm); remove the duplicate")
    worst = np.abs(steps - usual).argmax()
    require(abs(steps[worst] - usual) <= 0.1 * usual, f"{folder}: slices are {usual:.2f} mm apart but "
            f"{steps[worst]:.2f} mm at {along[worst]:.2f} mm; a slice is missing or the series mixes "
            "spacings: export it completely")
    return [paths[i] for i in order], [headers[i] for i in order], axes


def _one_series(folder: Path) -> list[Path]:
    """Files that GDCM takes for the slices of the one series in a folder, at least two."""
    reader = itk.load().ImageSeriesReader
    series = itk.execute(reader.GetGDCMSeriesIDs, folder, str(folder))
    require(series, f"{folder}: no DICOM images in this folder; give the folder that holds the slices")
    require(len(series) < 2, f"{folder}: holds {len(series)} DICOM series; move one to a folder of its own")
    paths = [*map(Path, itk.execute(reader.GetGDCMSeriesFileNames, folder, str(folder), series[0]))]
    for path in filter(Path.is_file, {*folder.iterdir()} - {*paths, folder / "DICOMDIR"}):
        with open(path, "rb") as stream:
            start = stream.read(132)                                    # a preamble, and then "DICM"
        alike = path.suffix == paths[0].suffix and (path.suffix != "" or len(start) < 132)     # only a rest
        require(not alike and start[128:] != b"DICM", f"{path}: a DICOM file that holds no readable slice; "
                "export the series again, or remove it")
    _slice_header(paths[0])                                             # perhaps many slices in one file
    require(len(paths) > 1, f"{folder}: holds a single slice, not at least 2; give the folder of the series")
    return paths


def _slice_header(path: Path) -> dict:
    """Position (3,), orientation (6,), pixel_spacing (2,) and size (2,), and whether a slice is rescaled."""
    reader = itk.load().ImageFileReader()
    reader.SetFileName(str(path))
    itk.execute(reader.ReadImageInformation, path)

    def numbers(tag: str, name: str, count: int) -> np.ndarray:
        try:
            values = np.array(reader.GetMetaData(tag).split("\\"), float)
        except (RuntimeError, ValueError):
            values = np.array([])
        require(len(values) == count and np.isfinite(values).all(), f"{path}: DICOM tag "
                f"({tag.replace('|', ',')}) {name} is missing or malformed; export the series again")
        return values

    size, frames = reader.GetSize()[:2], reader.GetSize()[2:]
    require(max(frames, default=1) == 1, f"{path}: a multi-frame DICOM file; convert it to NIfTI")
    kind = reader.GetMetaData("0008|0008") if reader.HasMetaDataKey("0008|0008") else ""
    require("LOCALIZER" not in kind, f"{path}: a localiser (scout); keep only the slices in the folder")
    spacing = numbers("0028|0030", "Pixel Spacing", 2)
    require(spacing.min() > 0, f"{path}: Pixel Spacing must be positive, not {spacing} mm; export the series "
            "again")
    return {"position": numbers("0020|0032", "Image Position (Patient)", 3), "pixel_spacing": spacing,
            "orientation": numbers("0020|0037", "Image Orientation (Patient)", 6), "size": np.array(size),
            "rescaled": float(reader.HasMetaDataKey("0028|1052"))}
