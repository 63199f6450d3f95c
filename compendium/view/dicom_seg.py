"""DICOM Segmentation objects, frame by frame on a DICOM series' slices, in its frame of reference. Only what
kept_tags.toml names is read of the series, so nothing else can reach the file."""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from magunet import __version__
from magunet.base.dicom import silently
from magunet.base.errors import InputError, is_out_of_memory, require
from magunet.base.provenance import whole_file
from magunet.joints import JOINTS, UNKNOWN, Joint
from magunet.series import ordered_slices
from magunet.volume import Volume

TAGS = tomllib.loads(Path(__file__).with_name("kept_tags.toml").read_text(encoding="utf-8"))
"""All that is read of a slice's header, and what may stand in its text."""


@silently()
def read_source(folder: Path, scan: Volume) -> list[pydicom.Dataset]:
    """Headers of a folder's slices in the order of ``scan``, which `read_volume` read from there. Raises
    InputError when a slice lacks what a segmentation refers to, or for slices of another scan."""
    require(folder.is_dir(), f"{folder}: is no DICOM series, so no DICOM SEG can be made of it; give the "
            "folder of the series, or leave dicom-seg out of --formats")
    names = [name for group in TAGS.values() for name in group]
    paths = [one.path for one in ordered_slices(folder)[0]]
    require(len({*paths}) == len(paths), f"{folder}: the slices of an enhanced CT are one file, of which no "
            "DICOM SEG is made; choose other formats")
    headers = [pydicom.dcmread(path, stop_before_pixels=True, specific_tags=names, force=True)
               for path in paths]
    for name in TAGS["uids"] + TAGS["geometry"]:
        require(all(header.get(name) for header in headers), f"{folder}: slices lack {name}, which a DICOM "
                "SEG must refer to; export the series again from the archive, or choose other formats")
    places, nearest = _nearest(headers, scan)
    off = np.linalg.norm(places - [scan.to_world((k, 0, 0)) for k in nearest], axis=1)
    require((headers[0].Rows, headers[0].Columns) == scan.array.shape[1:] and off.max() <= scan.spacing[0] / 2
            and nearest[[0, -1]].tolist() == [0, len(scan.array) - 1],
            f"{folder}: the slices do not lie where the scan does; leave the folder alone")
    return headers


def _nearest(headers: Sequence[pydicom.Dataset], grid: Volume) -> tuple[np.ndarray, np.ndarray]:
    """World coordinates of slices' first voxels, and the indices of a grid's slices that lie nearest."""
    places = np.array([header.ImagePositionPatient for header in headers], float)
    index = (places - grid.origin) @ grid.direction[:, 2] / grid.spacing[0]
    return places, np.rint(index).astype(int).clip(0, len(grid.array) - 1)


@silently()
def write_dicom_seg(labels: Volume, source: Sequence[pydicom.Dataset], network: str, run: str,
                    anonymise: bool, path: Path | str) -> None:
    """Write labels of `sides` as a binary DICOM SEG with a segment a joint. source: from `read_source`, of
    the labels' scan. With ``anonymise`` the patient is called "anonymous", the rest of patient and study is
    empty, and every UID is a hash of the old one, so exports of a series stay together. Raises InputError for
    an empty mask or unfit headers."""
    joints = [joint for joint in (*JOINTS, UNKNOWN) if (labels.array == joint.label).any()]
    require(joints, "the mask is empty, and a DICOM SEG must hold a frame; choose other formats")
    for header in source:
        _complete(header, labels.spacing[0], anonymise)
    numbers = labels.array[_nearest(source, labels)[1]].clip(max=len(joints))        # segments count from 1
    segments = [_segment(number, joint, network) for number, joint in enumerate(joints, 1)]
    try:
        dataset = Segmentation(
            source, numbers, "BINARY", segments, series_instance_uid=generate_uid(), series_number=1,
            sop_instance_uid=generate_uid(), instance_number=1, manufacturer="magunet",
            manufacturer_model_name=network[:64], software_versions=__version__,
            device_serial_number=run[:64], content_label="SIJ", content_description="Sacroiliac joints",
            content_creator_name="magunet^", series_description="Sacroiliac joints by magunet")
    except Exception as error:                                       # of any kind, by how odd the headers are
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())
        for name in TAGS["patient_and_study"]:                                   # which the error may quote
            value = str(source[0].get(name) or "")
            reason = reason.replace(value, name) if len(value) > 2 else reason
        raise InputError(f"no DICOM SEG can be made of this series ({reason}); take other formats") from None
    if anonymise:
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = "Patient and study attributes emptied, UIDs replaced by hashes"
    with whole_file(Path(path)) as part:
        dataset.save_as(part)


def _segment(number: int, joint: Joint, network: str) -> SegmentDescription:
    """Coded by SNOMED CT: 91723000 (in 3D Slicer still 123037004) and 39723000, with the side if known."""
    segment = SegmentDescription(
        number, joint.name, codes.cid7150.AnatomicalStructure, codes.cid7151.SacroiliacJoint, "AUTOMATIC",
        highdicom.AlgorithmIdentificationSequence(network, codes.cid7162.ArtificialIntelligence, __version__),
        display_color=highdicom.color.CIELabColor.from_rgb(*[round(255 * value) for value in joint.colour]))
    if joint.laterality:
        side = highdicom.sr.CodedConcept(joint.laterality[0], "SCT", joint.laterality[1])
        segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    return segment


def _complete(header: pydicom.Dataset, slice_mm: float, anonymise: bool) -> None:
    """Adds what the standard requires, and empties what it does not allow; text in UTF-8."""
    for name, form in TAGS["patient_and_study"].items():
        value = header.get(name)
        text = str((value[0] if isinstance(value, MultiValue) and value else value) or "").strip()
        setattr(header, name, text if re.fullmatch(form, text, re.DOTALL) and not anonymise else "")
    if anonymise:
        header.PatientName, header.PatientID = "anonymous^", "anonymous"
        for name in TAGS["uids"]:
            setattr(header, name, generate_uid(entropy_srcs=["magunet", header[name].value]))
    header.SpecificCharacterSet = "ISO_IR 192"
    for name, form in TAGS["compression"].items():
        if not re.fullmatch(form, str(header.get(name))):
            header.pop(name, None)
    header.SliceThickness = header.get("SliceThickness") or f"{slice_mm:.6g}"
    header.SpacingBetweenSlices = f"{slice_mm:.6g}"
