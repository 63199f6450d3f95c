"""One DICOM file: what its header says of its slices, read by pydicom, and the values that they store."""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from magunet.base import itk
from magunet.base.errors import InputError, is_out_of_memory, require

PIXELS = ("SOPClassUID", "SOPInstanceUID", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames",
          "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
"""Tags that say how pixels are stored."""
FRAMES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
"""Where an enhanced CT, whose slices are frames of one file, says where they lie and how they become HU."""
TAGS = (*PIXELS, *FRAMES, "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SeriesNumber",
        "Modality", "ImageType", "FrameType", "RescaleType", "RescaleSlope", "RescaleIntercept",
        "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient",
        "PixelPaddingValue", "PixelPaddingRangeLimit")
"""All that is read of a header here; nothing of the patient."""
OTHER_UNITS = ("OD", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT")
"""Rescale Types of images that were computed from CTs, such as of iodine, and are not in HU."""
NO_SLICE = "a DICOM file that holds no readable slice; export the series again, or remove it"
"""What is wrong with a file among slices."""


class Slice(NamedTuple):
    """The ``frame``-th slice of a file: where it lies (mm, LPS), and how its stored values become HU.

    size: rows, columns. rescaled: whether it states its intercept. padding: the lowest and highest stored
    value that is no measurement, if any.
    """

    path: Path
    frame: int
    position: np.ndarray
    orientation: np.ndarray
    pixel_spacing: np.ndarray
    size: np.ndarray
    slope: float
    intercept: float
    rescaled: bool
    padding: tuple[int, int] | None


@contextlib.contextmanager
def silently() -> Iterator[None]:
    """Silences pydicom and highdicom, whose warnings quote odd values: on stderr, the patient's name."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


@silently()
def read_header(path: Path) -> Any:
    """The pydicom dataset of TAGS of an image, None for a file that is not DICOM, False for other objects.

    Raises InputError for a DICOM file that is damaged.
    """
    import pydicom

    with open(path, "rb") as stream:
        start = stream.read(132)
    if start[128:] != b"DICM" and (start[:1] not in (b"\2", b"\x08") or start[1:2] != b"\0"):
        return None
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS), force=True)
        list(header.iterall())                                          # makes values of bytes
        kind = str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", ""))
        name = pydicom.uid.UID(kind).name                               # itself, of an unknown kind
    except Exception:                                                   # of any kind, by how odd it is
        raise InputError(f"{path}: {NO_SLICE}") from None
    require("Rows" in header or (kind and "Image Storage" not in name), f"{path}: {NO_SLICE}")
    return header if "Image Storage" in name or ("Rows" in header and name == kind) else False


def _numbers(header: Any, name: str, count: int, path: Path, default: float | None = None) -> np.ndarray:
    """The values of a tag. Raises InputError unless there are ``count`` finite ones."""
    import pydicom

    try:
        values = np.array(header.get(name, default), float).ravel()
    except (TypeError, ValueError):
        values = np.array([])
    require(len(values) == count and np.isfinite(values).all(), f"{path}: DICOM tag "
            f"{pydicom.tag.Tag(name)} {pydicom.datadict.dictionary_description(name)} is missing or malformed"
            "; export the series again")
    return values


def _require_hu(tags: Any, path: Path) -> None:
    """Raises InputError for a localiser, and for what says that its values are not HU."""
    kinds = f"{tags.get('ImageType')} {tags.get('FrameType')}"
    require("LOCALIZER" not in kinds, f"{path}: a localiser (scout); keep only the slices in the folder")
    require(str(tags.get("Modality") or "CT") == "CT" and str(tags.get("RescaleType")) not in OTHER_UNITS,
            f"{path}: its Modality or its Rescale Type says that its values are not HU; give a CT")


@silently()
def slices_of(header: Any, path: Path) -> list[Slice]:
    """The slices in a file, more than one in an enhanced CT. Raises InputError where tags are missing."""
    import pydicom

    _require_hu(header, path)
    require(header.get("SamplesPerPixel", 1) == 1, f"{path}: has colours, not one channel; give a CT in HU")
    padding, frames = None, [[]]
    if header.get("PixelPaddingValue") not in (None, "", b""):
        names = [name for name in TAGS[-2:] if header.get(name) not in (None, "", b"")]
        cells = 2 ** int(_numbers(header, "BitsAllocated", 1, path)[0])
        signed = header.get("PixelRepresentation") == 1
        ends = [int(_numbers(header, name, 1, path)[0]) % cells for name in names]
        ends = [end - cells * (signed and end >= cells // 2) for end in ends]
        padding = min(ends), max(ends)
    if all(header.get(name) for name in FRAMES):
        frames = [[header[FRAMES[0]][0], own] for own in header[FRAMES[1]]]
    require(len(frames) == (header.get("NumberOfFrames") or 1), f"{path}: a multi-frame DICOM file that does "
            "not say where each frame lies; convert it to NIfTI")
    slices = []
    for k, groups in enumerate(frames):
        tags = pydicom.Dataset()
        tags.update(header)
        for sequence in (element for group in groups for element in group if element.VR == "SQ"):
            for item in sequence:
                tags.update({element.tag: element for element in item if element.keyword in TAGS})
        _require_hu(tags, path)
        spacing = _numbers(tags, "PixelSpacing", 2, path)
        slope, intercept = (float(_numbers(tags, f"Rescale{name}", 1, path, default)[0])
                            for name, default in (("Slope", 1), ("Intercept", 0)))
        require(spacing.min() > 0 and slope, f"{path}: Pixel Spacing must be positive, not {spacing} mm, and "
                "Rescale Slope not 0; export the series again")
        slices.append(Slice(
            path, k, _numbers(tags, "ImagePositionPatient", 3, path),
            _numbers(tags, "ImageOrientationPatient", 6, path), spacing,
            np.array([_numbers(header, name, 1, path)[0] for name in ("Rows", "Columns")], int),
            slope, intercept, "RescaleIntercept" in tags, padding))
    return slices


@silently()
def stored_values(one: Slice) -> np.ndarray:
    """All that a slice's file stores (frames, h, w), whatever its photometric interpretation and rescaling.

    What is compressed is decoded by SimpleITK, which inverts MONOCHROME1 and rescales by the first frame: it
    is given a copy that has no more than the pixels.
    """
    import pydicom

    try:
        source, copy = pydicom.dcmread(one.path, force=True), pydicom.Dataset()
        copy.file_meta = source.file_meta
        for name in (*PIXELS, "PixelData"):
            if name in source:
                copy[name] = source[name]
        copy.PhotometricInterpretation = "MONOCHROME2"
        require(copy.get("HighBit", copy.BitsStored - 1) == copy.BitsStored - 1, f"{one.path}: High Bit must "
                "be 1 less than Bits Stored; export the series again")
        if not copy.file_meta.get("TransferSyntaxUID", pydicom.uid.ImplicitVRLittleEndian).is_compressed:
            most = 2**(copy.BitsStored - copy.PixelRepresentation)
            if one.padding and not (-most <= one.padding[0] and one.padding[1] < most):
                copy.BitsStored, copy.HighBit = copy.BitsAllocated, copy.BitsAllocated - 1
            return copy.pixel_array.reshape(-1, *one.size)
        with tempfile.TemporaryDirectory(prefix="magunet-") as folder:
            part, sitk = Path(folder, "pixels"), itk.load()
            copy.save_as(part, enforce_file_format=True)
            image = itk.execute(sitk.ReadImage, one.path, str(part))
        return sitk.GetArrayFromImage(image).reshape(-1, *one.size)
    except Exception as error:                                          # of any kind, by how odd it is
        if is_out_of_memory(error) or isinstance(error, InputError):
            raise
        raise InputError(f"{one.path}: {NO_SLICE}") from None
