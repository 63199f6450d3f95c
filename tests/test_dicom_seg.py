"""DICOM SEG against pydicom, highdicom and dciodvfy, for series in every order and orientation."""

import itertools
import shutil
import subprocess

import highdicom
import numpy as np
import pydicom
import pytest
from conftest import refused
from dicom_series import STANDARD, write_series
from joint_object import DIRECTIONS, both, grid, in_order, parts, places

from compendium.view.dicom_seg import read_source, write_dicom_seg
from magunet.joints import JOINTS, left_and_right
from magunet.volume import read_volume

RIGHT_HANDED = {name: d for name, d in DIRECTIONS.items() if np.linalg.det(d) > 0}
"""DICOM has no others: mirrored rows turn the normal around."""
COARSE = (22, 24, 28), (6.0, 5.0, 4.4)
"""Shape and spacing: few slices, for the time."""
MADE_BY = "MAG-UNet", "MAG-UNet-0123456789-s0"
"""Network and run."""


def series_of(folder, direction="LPS", **options):
    """The object as a DICOM series, and its mask as read."""
    on = grid(RIGHT_HANDED[direction], *COARSE)
    hu = np.where(both(on).array != 0, 700, -1000)
    write_series(folder, hu, on.spacing, on.origin, on.direction, **options)
    return both(read_volume(folder))


def made(folder, mask, anonymise=False):
    """The DICOM SEG of a mask on the slices of a folder, beside it."""
    path = folder.with_name("anonymous.dcm" if anonymise else "made.dcm")
    write_dicom_seg(left_and_right(mask), read_source(folder, mask), *MADE_BY, anonymise, path)
    return path


@pytest.fixture
def series(tmp_path):
    """The folder of a series, and its mask."""
    return tmp_path / "series", series_of(tmp_path / "series")


@pytest.fixture(scope="module", params=itertools.product(RIGHT_HANDED, (False, True)), ids=str)
def sample(request, tmp_path_factory):
    """A series of each direction whose names follow the slices or run against them: the paths of its SEGs,
    its mask and its folder."""
    direction, reverse = request.param
    folder = tmp_path_factory.mktemp("seg") / "series"
    mask = series_of(folder, direction, reverse=reverse)
    return [made(folder, mask, anonymise) for anonymise in (False, True)], mask, folder


def places_by_pydicom(path, number):
    """World coordinates of a segment's pixels, from each frame's own position and orientation: PS3.3,
    C.7.6.2.1.1."""
    made = pydicom.dcmread(path)
    shared = made.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    column, row = orientation.reshape(2, 3)
    between_rows, between_columns = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    found = []
    for frame, pixels in zip(made.PerFrameFunctionalGroupsSequence, made.pixel_array):
        # shared where there is one only
        segment = frame if "SegmentIdentificationSequence" in frame else shared
        if segment.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number:
            start = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
            j, i = np.nonzero(pixels)
            found.append(start + np.outer(i * between_columns, column) + np.outer(j * between_rows, row))
    return in_order(np.concatenate(found))


def places_by_highdicom(path, number):
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    index = np.argwhere(volume.array == number)
    return in_order((volume.affine @ np.column_stack([index, np.ones(len(index))]).T).T[:, :3])


def faults_by_dciodvfy(path):
    """The lines in which dciodvfy tells of an error; none where it is not installed."""
    if shutil.which("dciodvfy") is None:
        return []
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines()
    errors = [line for line in lines if "Error" in line]
    assert any("Segmentation" in line for line in lines) and (errors or done.returncode == 0), lines
    return errors


def test_segments_lie_where_the_joints_are_by_pydicom_and_highdicom(sample):
    (path, _), mask, _ = sample
    for joint in JOINTS:
        for reader in (places_by_pydicom, places_by_highdicom):
            np.testing.assert_allclose(reader(path, joint.label), places(mask, parts(mask)[joint.side]),
                                       atol=2e-3, err_msg=reader.__name__)


def test_dciodvfy_finds_no_error(sample):
    for path in sample[0]:
        assert not faults_by_dciodvfy(path), path.name


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy: apt-get install dicom3tools")
def test_dciodvfy_is_not_blind(series):
    path = made(*series)
    broken = pydicom.dcmread(path)
    del broken.SegmentSequence[0].SegmentLabel
    broken.save_as(path)
    assert faults_by_dciodvfy(path)


def test_segments_are_coded_with_their_side(series):
    read = highdicom.seg.segread(made(*series))
    assert (read.SegmentationType, read.Modality, read.SegmentsOverlap) == ("BINARY", "SEG", "NO")
    for segment, joint, code in zip(read.SegmentSequence, JOINTS, ("7771000", "24028007")):
        (category,), (kind,) = (segment.SegmentedPropertyCategoryCodeSequence,
                                segment.SegmentedPropertyTypeCodeSequence)
        coded = [(one.CodeValue, one.CodingSchemeDesignator, one.CodeMeaning) for one in (
            category, kind, *kind.SegmentedPropertyTypeModifierCodeSequence)]
        assert coded == [("91723000", "SCT", "Anatomical Structure"), ("39723000", "SCT", "Sacroiliac joint"),
                         (code, "SCT", joint.side.title())]
        assert segment.SegmentLabel == f"{joint.side} sacroiliac joint"
        assert (segment.SegmentAlgorithmType, segment.SegmentAlgorithmName) == ("AUTOMATIC", "MAG-UNet")
        assert len(segment.RecommendedDisplayCIELabValue) == 3
    assert read.DeviceSerialNumber == MADE_BY[1]


def test_one_joint_is_one_segment_numbered_1(series):
    folder, mask = series
    for side, own in parts(mask).items():
        path = made(folder, mask.with_array(own))
        (segment,) = pydicom.dcmread(path).SegmentSequence
        assert (segment.SegmentNumber, segment.SegmentLabel) == (1, f"{side} sacroiliac joint")
        np.testing.assert_allclose(places_by_pydicom(path, 1), places(mask, own), atol=2e-3)


def test_patient_study_and_uids_are_kept_or_anonymised_alike_in_every_export(series):
    """What else stands in a series reaches no file: test_privacy.py."""
    folder, mask = series
    source = pydicom.dcmread(min(folder.iterdir()))
    kept, anonymous, again = (pydicom.dcmread(made(folder, mask, hidden)) for hidden in (False, True, True))
    named = {"PatientName": "anonymous^", "PatientID": "anonymous"}
    for name, value in STANDARD.items():
        assert (kept[name].value, anonymous[name].value) == (value, named.get(name, "")), name
    assert anonymous.PatientIdentityRemoved == "YES" and "PatientIdentityRemoved" not in kept
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        assert kept[name].value == source[name].value != anonymous[name].value == again[name].value
    (series,) = kept.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID != kept.SeriesInstanceUID
    assert anonymous.ReferencedSeriesSequence == again.ReferencedSeriesSequence
    assert anonymous.SOPInstanceUID != again.SOPInstanceUID


@pytest.mark.parametrize("tags, drop", [
    ({}, tuple(STANDARD)),                                                  # older scanners leave them out
    ({"PatientSex": "W", "PatientName": "Nur Ein Name"}, ()),
    ({"SpecificCharacterSet": "ISO_IR 192", "PatientName": "王^小东=王^小东"}, ()),
    ({"SpacingBetweenSlices": "-3"}, ()),
    ({"SliceThickness": None}, ()),                                         # present and empty: type 2 in CT
    ({}, ("SliceThickness",)),
    ({"PatientBirthDate": "00000000", "StudyTime": "25:61"}, ()),
    ({"PatientBirthDate": "24/12/1956", "StudyDate": "2031.04.05"}, ()),
    ({"PatientBirthDate": "195612"}, ()),
    ({"SpecificCharacterSet": "ISO_IR 6"}, ()),
    ({"SpecificCharacterSet": ["", "ISO 2022 IR 100"]}, ()),
    ({"PatientID": ["PID-4711-X", "another"]}, ()),
])
@pytest.mark.filterwarnings("ignore::UserWarning")                          # pydicom's, of odd values
def test_odd_headers_still_make_one(tags, drop, tmp_path):
    folder = tmp_path / "series"
    mask = series_of(folder, tags=tags, drop=drop)
    path = made(folder, mask)
    read = pydicom.dcmread(path)
    assert not faults_by_dciodvfy(path)
    assert str(read.PatientBirthDate) in ("", STANDARD["PatientBirthDate"])
    assert {name for name in STANDARD if name in read} == set(STANDARD)
    assert read.PatientSex in ("F", "")
    np.testing.assert_allclose(places_by_pydicom(path, 1), places(mask, parts(mask)["left"]), atol=2e-3)
    if "PatientName" in tags and "SpecificCharacterSet" in tags:
        assert read.PatientName == tags["PatientName"]


def test_slices_without_a_preamble_are_found_among_other_files(tmp_path):
    folder = tmp_path / "series"
    mask = series_of(folder, preamble=False)
    (folder / "README").write_text("no slice")
    (folder / "deeper").mkdir()
    assert len(read_source(folder, mask)) == len(mask.array)
    found = places_by_pydicom(made(folder, mask), 1)
    np.testing.assert_allclose(found, places(mask, parts(mask)["left"]), atol=2e-3)


def test_a_series_that_cannot_be_referred_to_or_is_another_scans_is_refused(series, tmp_path):
    for name in ("FrameOfReferenceUID", "StudyInstanceUID"):
        mask = series_of(tmp_path / name, drop=(name,))
        refused(lambda name=name, mask=mask: read_source(tmp_path / name, mask), name, str(tmp_path / name),
                "other formats")
    folder, mask = series
    (d, h, w), spacing = COARSE
    moved = grid(np.eye(3), *COARSE, centre=(0, 0, 9))
    for other in (moved, grid(np.eye(3), (d, h, w + 1), spacing)):
        refused(lambda other=other: read_source(folder, other), "do not lie where the scan does")
    max(folder.iterdir()).unlink()
    refused(lambda: read_source(folder, mask), "do not lie where the scan does")
