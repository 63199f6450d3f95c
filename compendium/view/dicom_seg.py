"""DICOM Segmentation objects of a DICOM series: frame by frame on the source's slices, in its frame of reference.

Of the source is read only what ``KEPT`` names, so nothing else can reach the file: not the institution, the physicians,
comments, or private tags.
"""

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from magunet import __version__
from magunet.base.errors import InputError, is_out_of_memory
from magunet.base.provenance import whole_file
from magunet.joints import JOINTS, Joint
from magunet.volume import Volume

PATIENT_AND_STUDY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
                     "ReferringPhysicianName", "StudyID", "AccessionNumber")
"""All that the modules Patient and General Study want besides the study's UID: present, if only empty (type 2)."""
UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
GEOMETRY = ("Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
LOSSY = {"LossyImageCompression": re.compile("0[01]"), "LossyImageCompressionRatio": re.compile(r"[\d.]+"),
         "LossyImageCompressionMethod": re.compile(r"ISO_\d+_\d+")}
"""Of the slices' compression, and what may stand there: some scanners write text of their own into any field."""
OPTIONAL = ("SpecificCharacterSet", "SliceThickness", "SpacingBetweenSlices", *LOSSY)
KEPT = (*PATIENT_AND_STUDY, *UIDS, *GEOMETRY, *OPTIONAL, "SOPClassUID", "Modality")
SEXES = ("M", "F", "O", "")
DATE = re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?")
CATEGORY, TYPE = codes.cid7150.AnatomicalStructure, codes.cid7151.SacroiliacJoint
"""SNOMED CT 91723000 and 39723000. The category is the standard's present one; before, and in 3D Slicer, 123037004."""
ANONYMOUS, CREATOR = "anonymous", "magunet^"
"""A trailing ^ marks a name of one part."""
METHOD = "Patient and study attributes emptied, UIDs replaced by hashes"


@contextlib.contextmanager
def _silently() -> Iterator[None]:
    """pydicom and highdicom warn, and log, of values that they find odd, and quote them: on stderr, the patient's name."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@_silently()
def read_source(folder: Path | str, scan: Volume) -> list[pydicom.Dataset]:
    """Headers of a folder's slices, the first for ``scan.array[0]`` as `read_volume` read it from there, and so on.

    Raises InputError when a slice lacks what a segmentation must refer to, or the slices are not those of the scan.
    """
    folder = Path(folder)
    headers = [header for path in sorted(folder.iterdir()) if path.is_file() and (header := _header(path)) is not None]
    for header in headers:
        for name in (*UIDS, *GEOMETRY, "SOPClassUID"):
            if not header.get(name):
                raise InputError(f"{folder}: slices lack {name}, which a DICOM SEG must refer to; export the series again from "
                                 "the archive, or choose other formats")
    headers.sort(key=_along_normal)
    expected = [scan.to_world((k, 0, 0)) for k in range(len(scan.array))]
    near = scan.spacing[0] / 2                                              # slices need not be evenly spaced
    if (len(headers) != len(expected) or (headers[0].Rows, headers[0].Columns) != scan.array.shape[1:]
            or any(np.linalg.norm(np.subtract(h.ImagePositionPatient, at)) > near for h, at in zip(headers, expected))):
        raise InputError(f"{folder}: the slices do not lie where the scan does; do not change the folder while it is read")
    return headers


def _header(path: Path) -> pydicom.Dataset | None:
    """What is kept of a slice's header; None for files that are no slice."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(KEPT))
    except InvalidDicomError:
        try:                                                                # old slices begin without a preamble
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(KEPT), force=True)
        except Exception:                                                   # of whatever else lies in the folder
            return None
    return header if "ImagePositionPatient" in header and "SOPClassUID" in header else None


def _along_normal(header: pydicom.Dataset) -> float:
    row, column = np.reshape(np.array(header.ImageOrientationPatient, float), (2, 3))
    return float(np.cross(row, column) @ np.array(header.ImagePositionPatient, float))


@_silently()
def write_dicom_seg(labels: Volume, source: list[pydicom.Dataset], path: Path | str, *, network: str, run: str,
                    anonymise: bool = False) -> None:
    """Write labels of `left_and_right` as a binary DICOM SEG with a segment a joint, whole or not at all.

    source: from `read_source`, of the scan that the labels lie on. network, run: what made them, for the segments'
    algorithm and the equipment. Of the source's patient and study only what the standard requires is kept. With
    ``anonymise`` that is emptied too (the patient is called "anonymous"), and every UID is replaced by a hash of itself:
    one series always gets the same new UIDs, so its exports stay together, but refer to slices that only a copy of the
    series with the same replacement holds. Raises InputError for an empty mask, and when
    the headers do not make a valid segmentation.
    """
    held = [joint for joint in JOINTS if (labels.array == joint.label).any()]
    if not held:
        raise InputError("the mask is empty, and a DICOM SEG must hold a frame; choose other formats")
    for header in source:
        _complete(header, labels.spacing[0])
        if anonymise:
            _anonymise(header)
    numbers = np.zeros(labels.array.shape, np.uint8)                        # segments count from 1 without a gap
    for number, joint in enumerate(held, 1):
        numbers[labels.array == joint.label] = number
    segments = [_segment(number, joint, network) for number, joint in enumerate(held, 1)]
    try:
        made = Segmentation(
            source, numbers, "BINARY", segments, series_instance_uid=generate_uid(), series_number=1,
            sop_instance_uid=generate_uid(), instance_number=1, manufacturer="magunet", manufacturer_model_name=network[:64],
            software_versions=__version__, device_serial_number=run[:64], content_label="SIJ",
            content_description="Sacroiliac joints", content_creator_name=CREATOR,
            series_description="Sacroiliac joints by magunet")
    except Exception as error:                                              # of any kind, by how odd the headers are
        if is_out_of_memory(error):
            raise
        reason = _without_patient(" ".join(str(error).split()), source[0])
        raise InputError(f"no DICOM SEG can be made of this series ({reason}); choose other formats") from None
    if anonymise:
        made.PatientIdentityRemoved, made.DeidentificationMethod = "YES", METHOD
    with whole_file(Path(path)) as part:
        made.save_as(part)


def _segment(number: int, joint: Joint, network: str) -> SegmentDescription:
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=network, version=__version__, family=codes.cid7162.ArtificialIntelligence)
    segment = SegmentDescription(
        number, joint.name, CATEGORY, TYPE, "AUTOMATIC", algorithm,
        display_color=CIELabColor.from_rgb(*[round(255 * v) for v in joint.colour]))
    code, meaning = joint.laterality
    side = highdicom.sr.CodedConcept.from_code(Code(code, "SCT", meaning))
    segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    return segment


def _complete(header: pydicom.Dataset, slice_mm: float) -> None:
    """Adds what the standard requires and sources leave out, empty, and empties what it does not allow; text in UTF-8."""
    for name in PATIENT_AND_STUDY:
        value = header.get(name)
        value = value[0] if isinstance(value, MultiValue) and value else value
        setattr(header, name, str(value or "").strip())
    header.SpecificCharacterSet = "ISO_IR 192"
    header.PatientSex = header.PatientSex if header.PatientSex in SEXES else ""
    for name, form in (("PatientBirthDate", DATE), ("StudyDate", DATE), ("StudyTime", TIME)):
        setattr(header, name, header[name].value if form.fullmatch(str(header[name].value)) else "")
    for name, form in LOSSY.items():
        if not form.fullmatch(str(header.get(name))):
            header.pop(name, None)
    if not header.get("SliceThickness"):
        header.SliceThickness = f"{slice_mm:.6g}"
    header.SpacingBetweenSlices = f"{slice_mm:.6g}"                         # negative in some sources


def _without_patient(text: str, header: pydicom.Dataset) -> str:
    """The text with the names of the patient's and the study's attributes in place of their values."""
    for name in PATIENT_AND_STUDY:
        value = str(header.get(name) or "")
        text = text.replace(value, name) if len(value) > 2 else text
    return text


def _anonymise(header: pydicom.Dataset) -> None:
    for name in PATIENT_AND_STUDY:
        setattr(header, name, "")
    header.PatientName, header.PatientID = f"{ANONYMOUS}^", ANONYMOUS
    for name in UIDS:
        setattr(header, name, generate_uid(entropy_srcs=["magunet", header[name].value]))
