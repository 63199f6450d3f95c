"""DICOM series: the slices of one CT, checked one by one, and put together where their headers say."""

from pathlib import Path

import numpy as np

from magunet.base.dicom import NO_SLICE, Slice, read_header, slices_of, stored_values
from magunet.base.errors import require
from magunet.base.progress import say

AIR_HU = -500
"""Every CT holds air, whose HU are below."""
PADDING_HU = -1000
"""Air, which stands for what is no measurement, and lies beyond the ends of a scan."""
SHEARED = "its axes are not perpendicular (sheared or tilted gantry); resample it to a rectangular grid first"
"""What is wrong with a volume that is no box."""
LARGEST_GAP = 1.5
"""Usual distances between neighbours; in a wider gap a slice is missing."""
UNEVEN_MM = (0.1, 0.3)
"""Slices may lie a tenth of their distance off an even grid, but no less, as scanners round positions, and no
more, so that no bone is moved."""
SAME = ("StudyInstance", "SeriesInstance", "FrameOfReference")
"""What slices of one series share, so that those of two patients are never mixed."""
SCOUTS = 3
"""Images at most, in another plane, of a series of localisers that does not say so."""


def read_series(folder: Path) -> tuple[np.ndarray, tuple, tuple, np.ndarray]:
    """Array in HU, spacing, origin and direction of the one series in a folder, as `read_nifti` returns them.

    HU are slope * stored value + intercept, whatever the photometric interpretation; padding is air. Slices
    at uneven distances are resampled to even ones, with a note. Raises InputError that names folder or slice.
    """
    slices, axes, ignored = ordered_slices(folder)
    array, padded = np.zeros((len(slices), *slices[0].size), np.int16), 0
    for k, one in enumerate(slices):
        if k == 0 or one.path != slices[k - 1].path:                    # one file may hold many
            values = stored_values(one)
        hu, (low, high) = values[one.frame] * one.slope + one.intercept, one.padding or (1, 0)
        padding = (values[one.frame] >= low) & (values[one.frame] <= high)
        padded += np.count_nonzero(padding & (hu > AIR_HU))
        hu[padding] = PADDING_HU
        kind = np.float32 if (hu != np.rint(hu)).any() else np.int16 if np.abs(hu).max() < 2**15 else np.int32
        array = array.astype(np.result_type(array, kind), copy=False)
        array[k] = hu
    if ignored:
        say(f"note: {folder}: {ignored} files are ignored, for they are localisers or no slices of a CT")
    if padded:
        say(f"note: {folder}: {100 * padded / array.size:.1f} % of the voxels are padding and taken as air")
    along = np.array([one.position for one in slices]) @ axes[:, 2]
    usual, even = np.median(np.diff(along)), np.linspace(along[0], along[-1], len(along))
    if (off := np.abs(along - even).max()) > np.clip(0.1 * usual, *UNEVEN_MM):
        even = np.linspace(along[0], along[-1], round((along[-1] - along[0]) / usual) + 1)
        say(f"note: {folder}: slices lie up to {off:.2f} mm off even distances, so the scan is resampled to "
            f"slices {even[1] - even[0]:.3f} mm apart")
        array = _between(array, np.interp(even, along, np.arange(len(along))))
    return (array, (float(even[1] - even[0]), *slices[0].pixel_spacing.tolist()),
            tuple(slices[0].position.tolist()), axes)


def _between(array: np.ndarray, places: np.ndarray) -> np.ndarray:
    """An array's slices at places between them, linearly."""
    result = np.empty((len(places), *array.shape[1:]), array.dtype)
    for k, place in enumerate(places):
        below = min(int(place), len(array) - 2)
        plane = (below + 1 - place) * array[below] + (place - below) * array[below + 1]
        result[k] = plane if array.dtype.kind == "f" else np.rint(plane)
    return result


def ordered_slices(folder: Path) -> tuple[list[Slice], np.ndarray, int]:
    """Slices of the one series in a folder, in order along its normal; the directions of the array's x, y and
    z axis in the patient, as columns (3, 3); and how many other such files are there. Raises InputError."""
    slices, ignored = _one_series(folder)
    for key, name in (("orientation", "image orientations"), ("pixel_spacing", "pixel spacings"),
                      ("size", "image sizes"), ("rescaled", "ways to HU (some lack a rescale intercept)")):
        values = np.array([getattr(one, key) for one in slices], float)
        require(np.abs(values - values[0]).max() <= 1e-3, f"{folder}: slices have different {name}, so they "
                "are not one series; keep one series in the folder")
    row, column = slices[0].orientation[:3], slices[0].orientation[3:]
    axes = np.stack([row, column, np.cross(row, column)], axis=1)
    require(np.allclose(axes.T @ axes, np.eye(3), atol=1e-3), f"{folder}: {SHEARED}")
    places = np.array([one.position for one in slices]) @ axes              # (slices, 3), mm
    require(np.abs(places - places[0])[:, :2].max() <= 0.1, f"{folder}: slices are shifted against each "
            "other (tilted gantry); resample the series to a rectangular grid first")
    order = np.argsort(places[:, 2])
    along = places[order, 2]
    steps, usual = np.diff(along), float(np.median(np.diff(along)))
    require(steps.min() >= 1e-3, f"{folder}: two slices lie at the same position "
            f"({along[steps.argmin()]:.2f} mm); remove the duplicate")
    worst = steps.argmax()
    require(steps[worst] <= LARGEST_GAP * usual, f"{folder}: slices are {usual:.2f} mm apart but "
            f"{steps[worst]:.2f} mm at {along[worst]:.2f} mm; a slice is missing or the series mixes "
            "spacings: export it completely")
    return [slices[i] for i in order], axes, ignored


def _one_series(folder: Path) -> tuple[list[Slice], int]:
    """Slices of the one CT series in a folder, at least two, and how many files are no part of it: localisers
    in series of their own, images without a place, objects without images, and what is no DICOM although its
    name has no ending, or ends in a number, as those of the slices."""
    headers = {path: read_header(path) for path in sorted(filter(Path.is_file, folder.iterdir()))}
    series = {}
    for path, header in headers.items():
        if header:
            uids = [str(header.get(f"{kind}UID")) for kind in SAME]
            series.setdefault(tuple(uids), {})[path] = header
    require(series, f"{folder}: no DICOM images in this folder; give the folder that holds the slices")
    largest = max(series.values(), key=len)
    scans = [files for files in series.values() if not _is_aside(files, largest)] or [largest]
    counts = "; ".join(f"{len(files)} files of number {next(iter(files.values())).get('SeriesNumber')}"
                       for files in scans)
    require(len(scans) == 1, f"{folder}: holds {len(scans)} DICOM series ({counts}); move one elsewhere")
    endings, others = set(map(_ending, scans[0])), {*headers} - {*scans[0]}
    others -= {path for path in others if headers[path] is None
               and (_ending(path) not in endings or path.name.startswith("."))}
    for path in sorted(path for path in others if headers[path] is None):
        require(_ending(path) in ("", ".0") and path.stat().st_size >= 132, f"{path}: {NO_SLICE}")
    slices = [one for path, header in scans[0].items() for one in slices_of(header, path)]
    require(len(slices) > 1, f"{folder}: holds a single slice, not at least 2; give the folder of the series")
    return slices, len(others)


def _ending(path: Path) -> str:
    """Of a file's name; ".0" for all that end in a number, as a UID does."""
    return ".0" if path.suffix[1:].isdecimal() else path.suffix


def _is_aside(files: dict, largest: dict) -> bool:
    """Whether a series is none of slices: images without a place, or localisers by name, or by plane."""
    headers = list(files.values())
    own, other = ({str(one.get("ImageOrientationPatient")) for one in part}
                  for part in (headers, largest.values()))
    return (not any("NumberOfFrames" in one or one.get("ImagePositionPatient") for one in headers)
            or all("LOCALIZER" in str(one.get("ImageType")) for one in headers)
            or (len(files) <= SCOUTS < len(largest) and own.isdisjoint(other)))
