"""DICOM SEG against pydicom, highdicom and dciodvfy, for series in every order and orientation."""

import shutil
import subprocess

import highdicom
import numpy as np
import pydicom
import pytest
from conftest import refused
from dicom_series import BEYOND, STANDARD, planted, write_series
from joint_object import DIRECTIONS, both, grid, parts, world

from compendium.view.dicom_seg import read_source, write_dicom_seg
from magunet.joints import JOINTS, left_and_right
from magunet.volume import read_volume

RIGHT_HANDED = {name: d for name, d in DIRECTIONS.items() if np.linalg.det(d) > 0}
"""DICOM has no others: mirrored rows turn the normal around."""
SERIES = [(name, reverse) for name in RIGHT_HANDED for reverse in (False, True)]
MADE_BY = "MAG-UNet", "MAG-UNet-0123456789-s0"
"""Network and run."""
dciodvfy = pytest.mark.skipif(shutil.which("dciodvfy") is None,
                              reason="dciodvfy is not installed; apt-get install dicom3tools")


def make(folder, direction="LPS", reverse=False, anonymise=False, kept=("left", "right"), **options):
    """A series of the object, and its DICOM SEG: path of the SEG, the mask as read, and the folder."""
    on = grid(RIGHT_HANDED[direction])
    hu = np.where(both(on).array != 0, 700, -1000)
    write_series(folder / "series", hu, on.spacing, on.origin, on.direction, reverse=reverse, **options)
    scan = read_volume(folder / "series")
    mask = scan.with_array(np.any([parts(scan)[side] for side in kept], axis=0))
    path = folder / "made.dcm"
    write_dicom_seg(left_and_right(mask), read_source(folder / "series", scan), *MADE_BY, anonymise, path)
    return path, mask, folder / "series"


def places(volume, array):
    """World coordinates of an array's non-zero voxels, in order."""
    at = world(volume)[array != 0]
    return at[np.lexsort(np.round(at, 3).T)]


def places_by_pydicom(path, number):
    """World coordinates of a segment's pixels, from each frame's own position and orientation: PS3.3,
    C.7.6.2.1.1."""
    made = pydicom.dcmread(path)
    shared = made.SharedFunctionalGroupsSequence[0]
    column, row = np.reshape(np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float),
                             (2, 3))
    between_rows, between_columns = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    found = []
    for frame, pixels in zip(made.PerFrameFunctionalGroupsSequence, made.pixel_array):
        # shared where there is one only
        segment = frame if "SegmentIdentificationSequence" in frame else shared
        if segment.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number:
            start = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
            j, i = np.nonzero(pixels)
            found.append(start + np.outer(i * between_columns, column) + np.outer(j * between_rows, row))
    at = np.concatenate(found)
    return at[np.lexsort(np.round(at, 3).T)]


@pytest.mark.parametrize("direction, reverse", SERIES)
def test_segments_lie_where_the_joints_are_by_pydicom(direction, reverse, tmp_path):
    path, mask, _ = make(tmp_path, direction, reverse)
    for joint in JOINTS:
        ours = places_by_pydicom(path, joint.label)
        np.testing.assert_allclose(ours, places(mask, parts(mask)[joint.side]), atol=2e-3)


@pytest.mark.parametrize("direction, reverse", SERIES)
def test_segments_lie_where_the_joints_are_by_highdicom(direction, reverse, tmp_path):
    path, mask, _ = make(tmp_path, direction, reverse)
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    for joint in JOINTS:
        index = np.argwhere(volume.array == joint.label)
        at = (volume.affine @ np.column_stack([index, np.ones(len(index))]).T).T[:, :3]
        np.testing.assert_allclose(at[np.lexsort(np.round(at, 3).T)], places(mask, parts(mask)[joint.side]),
                                   atol=2e-3)


@pytest.mark.parametrize("direction, reverse", SERIES)
def test_every_frame_refers_to_the_slice_it_lies_on(direction, reverse, tmp_path):
    path, _, folder = make(tmp_path, direction, reverse)
    slices = {s.SOPInstanceUID: s for s in map(pydicom.dcmread, folder.iterdir())}
    made = pydicom.dcmread(path)
    for frame in made.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert list(slices[source.ReferencedSOPInstanceUID].ImagePositionPatient) == list(
            frame.PlanePositionSequence[0].ImagePositionPatient)
    one = next(iter(slices.values()))
    assert made.FrameOfReferenceUID == one.FrameOfReferenceUID
    (series,) = made.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == one.SeriesInstanceUID != made.SeriesInstanceUID
    assert made.StudyInstanceUID == one.StudyInstanceUID
    shared = made.SharedFunctionalGroupsSequence[0]
    (plane,) = shared.PlaneOrientationSequence
    assert list(plane.ImageOrientationPatient) == list(one.ImageOrientationPatient)


@dciodvfy
@pytest.mark.parametrize("anonymise", [False, True])
@pytest.mark.parametrize("direction, reverse", SERIES)
def test_dciodvfy_finds_no_error(direction, reverse, anonymise, tmp_path):
    path, _, _ = make(tmp_path, direction, reverse, anonymise)
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
    assert done.returncode == 0 and "Error" not in done.stdout + done.stderr, done.stderr
    assert "Segmentation" in done.stdout + done.stderr


@dciodvfy
def test_dciodvfy_is_not_blind(tmp_path):
    path, _, _ = make(tmp_path)
    broken = pydicom.dcmread(path)
    del broken.SegmentSequence[0].SegmentLabel
    broken.save_as(path)
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
    assert "Error" in done.stdout + done.stderr


def test_segments_are_coded_with_their_side(tmp_path):
    path, _, _ = make(tmp_path)
    made = highdicom.seg.segread(path)
    assert made.SegmentationType == "BINARY" and made.Modality == "SEG" and made.SegmentsOverlap == "NO"
    for segment, joint, code in zip(made.SegmentSequence, JOINTS, ("7771000", "24028007")):
        assert segment.SegmentLabel == f"{joint.side} sacroiliac joint"
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("39723000", "SCT")
        side = kind.SegmentedPropertyTypeModifierCodeSequence[0]
        assert (side.CodeValue, side.CodingSchemeDesignator,
                side.CodeMeaning) == (code, "SCT", joint.side.title())
        category = segment.SegmentedPropertyCategoryCodeSequence[0]
        assert (category.CodeValue, category.CodeMeaning) == ("91723000", "Anatomical Structure")
        assert segment.SegmentAlgorithmType == "AUTOMATIC" and segment.SegmentAlgorithmName == "MAG-UNet"
        assert len(segment.RecommendedDisplayCIELabValue) == 3
    assert made.DeviceSerialNumber == MADE_BY[1]


@pytest.mark.parametrize("side", ["left", "right"])
def test_one_joint_is_one_segment_numbered_1(side, tmp_path):
    path, mask, _ = make(tmp_path, kept=(side,))
    made = pydicom.dcmread(path)
    (segment,) = made.SegmentSequence
    assert segment.SegmentNumber == 1 and segment.SegmentLabel == f"{side} sacroiliac joint"
    np.testing.assert_allclose(places_by_pydicom(path, 1), places(mask, mask.array), atol=2e-3)


def test_only_what_the_standard_wants_is_kept_of_the_source(tmp_path):
    path, _, _ = make(tmp_path)
    made, content = pydicom.dcmread(path), path.read_bytes()
    for name, value in STANDARD.items():
        assert str(made[name].value) == value
    left = [word for word in planted(BEYOND) if word in content]
    assert not left
    assert b"Geheimnis" not in content and not [e for e in made.iterall() if e.tag.is_private]
    assert not set(BEYOND) - {"Manufacturer", "ManufacturerModelName", "SeriesDescription",
                              "DeviceSerialNumber", "ContentDate"} \
        & {e.keyword for e in made}


def test_anonymise_replaces_that_too(tmp_path):
    path, _, folder = make(tmp_path, anonymise=True)
    made, content = pydicom.dcmread(path), path.read_bytes()
    assert not [word for word in planted() if word in content]
    assert (made.PatientName == "anonymous^" and made.PatientID == "anonymous"
            and made.PatientIdentityRemoved == "YES")
    assert all(str(made[name].value) == "" for name in STANDARD if name not in ("PatientName", "PatientID"))
    uids = {str(e.value) for slice_ in map(pydicom.dcmread, folder.iterdir()) for e in slice_.iterall()
            if e.VR == "UI" and str(e.value).startswith("1.2.826")}
    assert len(uids) == 3 + len(list(folder.iterdir()))
    assert not [uid for uid in uids if uid.encode() in content]


def test_new_uids_are_the_same_for_every_export_of_a_series(tmp_path):
    path, mask, folder = make(tmp_path, anonymise=True)
    again = tmp_path / "again.dcm"
    write_dicom_seg(left_and_right(mask), read_source(folder, mask), *MADE_BY, True, again)
    first, second = pydicom.dcmread(path), pydicom.dcmread(again)
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        assert first[name].value == second[name].value
    assert first.ReferencedSeriesSequence == second.ReferencedSeriesSequence
    assert first.SOPInstanceUID != second.SOPInstanceUID


@pytest.mark.parametrize("tags, drop", [
    # older scanners leave them out
    ({}, tuple(STANDARD)),
    ({"PatientSex": "W", "PatientName": "Nur Ein Name"}, ()),
    ({"SpecificCharacterSet": "ISO_IR 192", "PatientName": "王^小东=王^小东"}, ()),
    ({"SpacingBetweenSlices": "-3"}, ()),
    ({"SliceThickness": None},
     ()),                                                 # present and empty: type 2 in CT
    ({}, ("SliceThickness",)),
    ({"PatientBirthDate": "00000000", "StudyTime": "25:61"}, ()),
    ({"PatientBirthDate": "24/12/1956", "StudyDate": "2031.04.05"}, ()),
    ({"PatientBirthDate": "195612"}, ()),
    ({"SpecificCharacterSet": "ISO_IR 6"}, ()),
    ({"SpecificCharacterSet": ["", "ISO 2022 IR 100"]}, ()),
    ({"PatientID": ["PID-4711-X", "another"]}, ()),
])
# pydicom's, of what it is given to write
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_odd_headers_still_make_one(tags, drop, tmp_path):
    path, mask, _ = make(tmp_path, tags=tags, drop=drop)
    made = pydicom.dcmread(path)
    if shutil.which("dciodvfy"):
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
        assert "Error" not in done.stdout + done.stderr
    assert not str(made.PatientBirthDate) or str(made.PatientBirthDate) == STANDARD["PatientBirthDate"]
    assert {name for name in STANDARD if name in made} == set(STANDARD)
    assert made.PatientSex in ("F", "")
    np.testing.assert_allclose(places_by_pydicom(path, 1), places(mask, parts(mask)["left"]), atol=2e-3)
    if "PatientName" in tags and "SpecificCharacterSet" in tags:
        assert made.PatientName == tags["PatientName"]


def test_slices_without_a_preamble_are_found(tmp_path):
    path, mask, _ = make(tmp_path, preamble=False)
    (tmp_path / "series" / "README").write_text("no slice")
    assert len(read_source(tmp_path / "series", mask)) == len(mask.array)
    np.testing.assert_allclose(places_by_pydicom(path, 1), places(mask, parts(mask)["left"]), atol=2e-3)


@pytest.mark.parametrize("name", ["FrameOfReferenceUID", "StudyInstanceUID"])
def test_a_series_that_cannot_be_referred_to_is_refused(name, tmp_path):
    on = grid(np.eye(3))
    folder = write_series(tmp_path / "series", both(on).array, on.spacing, on.origin, on.direction,
                          drop=(name,))
    refused(lambda: read_source(folder, on), name, str(folder), "other formats")


def test_slices_of_another_scan_are_refused(tmp_path):
    _, mask, folder = make(tmp_path)
    moved = grid(np.eye(3), centre=(0, 0, 9))
    for other in (moved, grid(np.eye(3), shape=(44, 48, 57))):
        refused(lambda other=other: read_source(folder, other), "do not lie where the scan does")
    max(folder.iterdir()).unlink()
    refused(lambda: read_source(folder, mask), "do not lie where the scan does")


def test_other_files_in_the_folder_do_not_matter(tmp_path):
    _, mask, folder = make(tmp_path)
    (folder / "notes.txt").write_text("nothing")
    (folder / "deeper").mkdir()
    assert len(read_source(folder, mask)) == len(mask.array)


def test_a_failed_write_leaves_no_part_and_the_old_file(tmp_path, monkeypatch):
    path, mask, folder = make(tmp_path)
    before = path.read_bytes()

    def full_disk(self, name, **_):
        with open(name, "wb") as stream:
            stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pydicom.Dataset, "save_as", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_dicom_seg(left_and_right(mask), read_source(folder, mask), *MADE_BY, False, path)
    assert path.read_bytes() == before and {p.name for p in tmp_path.iterdir()} == {"made.dcm", "series"}
