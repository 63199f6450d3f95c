"""Exports of a run: every format read back by another program, DICOM SEG by pydicom and dciodvfy, for
every orientation. That nothing else of a header reaches any file is shown by test_privacy.py."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tracemalloc
from dataclasses import replace
from pathlib import Path

import nrrd
import numpy as np
import pydicom
import pytest
import SimpleITK
import slicerio
import trimesh
from boxes import write_scan
from conftest import refused
from dicom_series import PATIENT, STANDARD, planted, write_series
from joint_object import COARSE, DIRECTIONS, WIDE, both, ct, grid, in_order, parts, places, single, world
from test_cli import call

from compendium.view import FORMATS, dicom_seg
from compendium.view.dicom_seg import read_source, write_dicom_seg
from compendium.view.export import Exported, _extent, export
from magunet import __version__
from magunet.base.provenance import file_hash
from magunet.joints import JOINTS, left_and_right
from magunet.predict import Answer, Model
from magunet.volume import Volume, read_volume, voxel_hash, write_volume

ORIGIN = {"run": "MAG-UNet-0123456789-s0", "network": "MAG-UNet", "profile": "smoke", "seed": 0,
          "sha256_of_weights": "f" * 64, "hash_of_training_data": "0123456789", "calibration": None}
ALL = ",".join(FORMATS)
RIGHT_HANDED = [name for name, d in DIRECTIONS.items() if np.linalg.det(d) > 0]
"""DICOM has no others: mirrored rows turn the normal around."""


def scan_of(direction="LPS", *size):
    return ct(grid(DIRECTIONS[direction], *size))


def series_of(folder, direction="oblique", **options):
    """The object as a DICOM series in a folder; its mask as read."""
    scan = scan_of(direction, *COARSE)
    write_series(folder, scan.array, scan.spacing, scan.origin, scan.direction, **options)
    return both(read_volume(folder))


def exported(out, scan, mask=None, formats=FORMATS, source=None, truth=None, **options):
    """The object's files by their kind and ending, such as "sij_left.stl"."""
    mask = both(scan) if mask is None else mask
    files = export(Exported("case", scan, mask, truth, source), ORIGIN, out, formats, **options)
    return {path.name.removeprefix("case_"): path for path in files}


def masks_in(files):
    """What an export's report says of each mask."""
    return json.loads(files["sij.json"].read_text())["masks"]


# Files in their place -----------------------------------------------------------------------------------
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_all_lies_where_the_mask_does_by_simpleitk_trimesh_and_slicerio_which_reads_names_and_codes(
        direction, tmp_path):
    scan = scan_of(direction)
    files = exported(tmp_path, scan, formats=("nifti", "seg.nrrd", "stl"))
    for name, array in (("sij.nii.gz", both(scan).array), ("sij.seg.nrrd", left_and_right(both(scan)).array)):
        image = SimpleITK.ReadImage(str(files[name]))
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), array, name)
        np.testing.assert_allclose(image.GetOrigin(), scan.origin, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(image.GetDirection(), scan.direction.ravel(), atol=1e-6, err_msg=name)
        np.testing.assert_allclose(image.GetSpacing(), scan.spacing[::-1], rtol=1e-6, err_msg=name)
    read = slicerio.read_segmentation(str(files["sij.seg.nrrd"]))
    for joint, segment in zip(JOINTS, read["segments"], strict=True):
        mesh, own = trimesh.load_mesh(str(files[f"sij_{joint.side}.stl"])), parts(scan)[joint.side]
        np.testing.assert_allclose(mesh.center_mass, world(scan)[own].mean(axis=0), atol=0.5)
        assert mesh.is_watertight and mesh.volume == pytest.approx(own.sum() * np.prod(scan.spacing), rel=0.1)
        assert segment["name"] == f"{joint.side} sacroiliac joint"
        assert (read["voxels"] == segment["labelValue"]).sum() == own.sum()
        assert np.allclose(segment["color"], joint.colour)
        codes = [segment["terminology"][part] for part in ("category", "type", "typeModifier")]
        assert codes == [["SCT", "123037004", "Anatomical Structure"],
                         ["SCT", "39723000", "Sacroiliac joint"], ["SCT", *joint.laterality]]


def test_the_report_tells_volumes_borders_and_hashes(tmp_path):
    scan = scan_of("oblique")
    files = exported(tmp_path, scan)
    report = json.loads(files["sij.json"].read_text())
    found = report["masks"]["sij"]
    for side, own in parts(scan).items():
        joint = found["joints"][side]
        assert joint["volume_ml"] == pytest.approx(own.sum() * 3.0 * 2.5 * 2.2 / 1000, abs=1e-3)
        assert joint["touches_border"] is False and joint["touched_faces"] == []
    assert found["volume_ml"] == pytest.approx(both(scan).array.sum() * 16.5 / 1000, abs=1e-3)
    assert found["left_and_right_parted_at"]["told_by"].startswith("the two joints")
    assert report["model"] == ORIGIN and report["magunet"] == __version__
    assert report["scan"]["sha256_of_voxels"] == voxel_hash(scan)
    others = {path.name: file_hash(path) for path in files.values() if path.suffix != ".json"}
    assert report["sha256_of_files"] == others
    refused(lambda: exported(tmp_path / "other", scan, grid(np.eye(3))), "'sij'", "another grid")
    assert not (tmp_path / "other").exists()


def test_the_same_voxels_have_the_same_hash_in_any_format_and_others_another(tmp_path):
    scan = scan_of("oblique", *COARSE)
    for ending in (".nii.gz", ".nrrd", ".mha"):
        write_scan(scan, tmp_path / f"scan{ending}")
        assert voxel_hash(read_volume(tmp_path / f"scan{ending}")) == voxel_hash(scan), ending
    changed = scan.array.copy()
    changed[3, 4, 5] += 1
    for array in (changed, scan.array.reshape(24, 22, 28)):
        assert voxel_hash(Volume(array, scan.spacing, scan.origin, scan.direction)) != voxel_hash(scan)


def test_touched_faces_are_sides_of_the_patient():
    faces = (("right", "left"), ("anterior", "posterior"), ("inferior", "superior"))
    for direction in ("LPS", "RAS", "coronal", "mirrored rows"):
        on = grid(DIRECTIONS[direction])
        at = world(on)
        for axis, names in enumerate(faces):
            central = (np.abs(np.delete(at, axis, axis=-1)) < 10).all(-1)
            for name, edge in zip(names, (at[..., axis].min(), at[..., axis].max())):
                mask = central & (np.abs(at[..., axis] - edge) < 0.1)
                assert _extent(on.with_array(mask))["touched_faces"] == [name], direction


def test_a_joint_without_voxels_has_no_mesh_and_an_empty_segment_and_the_report_says_so(tmp_path, capsys):
    _, scan = single(grid(np.eye(3), WIDE), "left")
    exported(tmp_path, scan)                                               # of an earlier, better network
    for present in ((), ("left",), ("right",)):
        mask = single(scan, *present)[0] if present else scan.with_array(0 * scan.array)
        files = exported(tmp_path, scan, mask, ("nifti", "stl", "seg.nrrd", "json"))
        report, said = masks_in(files)["sij"], capsys.readouterr().err
        for joint in JOINTS:
            note = f"case_sij_{joint.side}.stl is not written: the mask has no {joint.name}"
            found = (tmp_path / f"case_sij_{joint.side}.stl").exists(), note not in said, (
                report["joints"][joint.side]["volume_ml"] > 0)
            assert found == (joint.side in present,) * 3, (joint.side, present)
            assert report["joints"][joint.side]["touched_faces"] == []
        told_by = report["left_and_right_parted_at"]["told_by"]
        assert told_by.startswith("the slant of one joint" if present else "nothing, for the mask is empty")
        assert "perhaps of another prediction, are still: case_sij.png\n" in said
        np.testing.assert_array_equal(read_volume(files["sij.nii.gz"]).array, mask.array)
        header = nrrd.read_header(str(files["sij.seg.nrrd"]))
        assert header["Segment0_Name"] == "left sacroiliac joint" and header["Segment1_LabelValue"] == "2"
        assert header["Segment1_Extent"] == "0 89 0 47 0 43" and header["encoding"] == "gzip"


def test_where_nothing_tells_the_side_of_a_joint_not_even_the_truth_no_file_names_one(tmp_path, capsys):
    """The same in every orientation, and after an export that named sides."""
    for direction in ("LPS", "RAS", "oblique, mirrored"):
        out = tmp_path / direction
        mask, scan = single(grid(DIRECTIONS[direction], WIDE), "left")
        formats = "stl", "seg.nrrd", "json"
        assert {"sij_left.stl", "truth_left.stl"} < exported(out, scan, mask, formats, truth=mask).keys()
        mask = scan.with_array(np.uint8(parts(scan)["left"]))                                   # has no slant
        files = exported(out, scan, mask, formats, truth=mask)
        assert {*out.iterdir()} == {*files.values()} and "left" not in "".join(files), direction
        said, report = capsys.readouterr().err, masks_in(files)
        assert "case: left and right are told by nothing, for no two joints" in said, said
        assert "no file names a side" in said
        for name in ("sij", "truth"):
            keys = "volume_ml", "mm_to_border", "touches_border", "touched_faces"
            assert report[name]["joints"] == {"unknown": {key: report[name][key] for key in keys}}
            assert report[name]["left_and_right_parted_at"]["x_mm_lps"] is None
            mesh = trimesh.load_mesh(str(files[f"{name}.stl"]))
            np.testing.assert_allclose(mesh.center_mass, places(scan, mask.array > 0).mean(axis=0), atol=0.5)
            read = slicerio.read_segmentation(str(files[f"{name}.seg.nrrd"]))
            (segment,) = read["segments"]
            assert segment["name"] == "sacroiliac joint" and "typeModifier" not in segment["terminology"]
            assert (read["voxels"] == segment["labelValue"]).sum() == mask.array.sum()
    scan = scan_of()                                        # the truth tells the sides of both masks
    right = scan.with_array(parts(scan)["right"])
    files = exported(tmp_path / "truth", scan, right, ("stl", "json"), truth=both(scan))
    assert files.keys() == {"sij_right.stl", "truth_left.stl", "truth_right.stl", "sij.json"}
    report = masks_in(files)
    assert report["sij"]["left_and_right_parted_at"] == report["truth"]["left_and_right_parted_at"]


# DICOM SEG ----------------------------------------------------------------------------------------------
def segmented(folder, mask, anonymise=False, sided=True):
    """The DICOM SEG of a mask on a folder's slices, beside it; unless ``sided``, one joint of no side."""
    path = folder.with_name("anonymous.dcm" if anonymise else "made.dcm")
    source = read_source(folder, mask)
    labels = left_and_right(both(mask) if sided else mask).array * (mask.array > 0)
    write_dicom_seg(mask.with_array(labels), source, "MAG-UNet", ORIGIN["run"], anonymise, path)
    return path


@pytest.fixture
def series(tmp_path):
    """The folder of a series, and its mask."""
    return tmp_path / "series", series_of(tmp_path / "series")


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


def errors_by_dciodvfy(path):
    """The lines in which dciodvfy tells of an error; none where it is not installed."""
    if shutil.which("dciodvfy") is None:
        return []
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines()
    errors = [line for line in lines if "Error" in line]
    assert any("Segmentation" in line for line in lines) and (errors or done.returncode == 0), lines
    return errors


@pytest.mark.parametrize("direction, reverse", itertools.product(RIGHT_HANDED, (False, True)))
def test_a_dicom_seg_is_valid_and_lies_where_the_joints_are(direction, reverse, tmp_path):
    """Whether the names of the slices follow their places or run against them."""
    folder = tmp_path / "series"
    mask = series_of(folder, direction, reverse=reverse)
    for anonymise in (False, True):
        path = segmented(folder, mask, anonymise)
        assert not errors_by_dciodvfy(path), path.name
    for joint in JOINTS:
        found = places_by_pydicom(path, joint.label)
        np.testing.assert_allclose(found, places(mask, parts(mask)[joint.side]), atol=2e-3)


def test_segments_are_coded_with_their_side_and_numbered_from_1_also_one_alone(series, tmp_path, capsys):
    path = segmented(*series)
    read = pydicom.dcmread(path)
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
    assert read.DeviceSerialNumber == ORIGIN["run"]
    del read.SegmentSequence[0].SegmentLabel
    read.save_as(path)
    assert errors_by_dciodvfy(path) or not shutil.which("dciodvfy")
    folder, mask = series
    for side, own in parts(mask).items():
        path = segmented(folder, mask.with_array(own))
        (segment,) = pydicom.dcmread(path).SegmentSequence
        assert (segment.SegmentNumber, segment.SegmentLabel) == (1, f"{side} sacroiliac joint")
        np.testing.assert_allclose(places_by_pydicom(path, 1), places(mask, own), atol=2e-3)
        path = segmented(folder, mask.with_array(own), sided=False)
        (segment,) = pydicom.dcmread(path).SegmentSequence
        assert segment.SegmentLabel == "sacroiliac joint" and not errors_by_dciodvfy(path)
        (kind,) = segment.SegmentedPropertyTypeCodeSequence
        assert "SegmentedPropertyTypeModifierCodeSequence" not in kind and kind.CodeValue == "39723000"
        np.testing.assert_allclose(places_by_pydicom(path, 1), places(mask, own), atol=2e-3)
    scan, none, source = read_volume(folder), mask.with_array(0 * mask.array), read_source(folder, mask)
    assert not exported(tmp_path / "out", scan, none, ("dicom-seg",), source)
    assert "a DICOM SEG must hold a frame" in capsys.readouterr().err


def test_patient_study_and_uids_are_kept_or_anonymised_alike_in_every_export(series):
    folder, mask = series
    source = pydicom.dcmread(min(folder.iterdir()))
    kept, anonymous, again = (pydicom.dcmread(segmented(folder, mask, hidden))
                              for hidden in (False, True, True))
    named = {"PatientName": "anonymous^", "PatientID": "anonymous"}
    for name, value in STANDARD.items():
        assert (kept[name].value, anonymous[name].value) == (value, named.get(name, "")), name
    assert anonymous.PatientIdentityRemoved == "YES" and "PatientIdentityRemoved" not in kept
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        assert kept[name].value == source[name].value != anonymous[name].value == again[name].value
    (referenced,) = kept.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID != kept.SeriesInstanceUID
    assert anonymous.ReferencedSeriesSequence == again.ReferencedSeriesSequence
    assert anonymous.SOPInstanceUID != again.SOPInstanceUID


@pytest.mark.parametrize("tags, drop", [
    ({}, tuple(STANDARD)),                                                  # older scanners leave them out
    ({"PatientName": "Nur Ein Name", "PatientSex": "W", "PatientBirthDate": "00000000",
      "StudyTime": "25:61"}, ("SliceThickness",)),
    ({"PatientName": "王^小东=王^小东", "PatientBirthDate": "24/12/1956", "StudyDate": "2031.04.05",
      "SpecificCharacterSet": "ISO_IR 192", "SliceThickness": None}, ()),
    ({"SpecificCharacterSet": "ISO_IR 6", "PatientBirthDate": "195612", "SpacingBetweenSlices": "-3"}, ()),
    ({"SpecificCharacterSet": ["", "ISO 2022 IR 100"], "PatientID": ["PID-4711-X", "another"]}, ()),
])
@pytest.mark.filterwarnings("ignore::UserWarning")                          # pydicom's, of odd values
def test_odd_headers_still_make_one(tags, drop, tmp_path):
    """Also slices without a preamble, among other files."""
    folder = tmp_path / "series"
    mask = series_of(folder, tags=tags, drop=drop, preamble=False)
    (folder / "README").write_text("no slice")
    (folder / "deeper").mkdir()
    path = segmented(folder, mask)
    read = pydicom.dcmread(path)
    assert not errors_by_dciodvfy(path)
    assert str(read.PatientBirthDate) in ("", STANDARD["PatientBirthDate"])
    assert {name for name in STANDARD if name in read} == set(STANDARD)
    assert read.PatientSex in ("F", "")
    np.testing.assert_allclose(places_by_pydicom(path, 1), places(mask, parts(mask)["left"]), atol=2e-3)
    if "PatientName" in tags and "SpecificCharacterSet" in tags:
        assert read.PatientName == tags["PatientName"]


def test_a_series_that_cannot_be_referred_to_or_is_another_scans_is_refused(series, tmp_path):
    for name in ("FrameOfReferenceUID", "StudyInstanceUID"):
        mask = series_of(tmp_path / name, drop=(name,))
        refused(lambda name=name, mask=mask: read_source(tmp_path / name, mask), name, str(tmp_path / name),
                "other formats")
    folder, mask = series
    (d, h, w), spacing = COARSE
    for other in (grid(mask.direction, *COARSE, centre=(0, 0, 9)),
                  grid(mask.direction, (d, h, w + 1), spacing)):
        refused(lambda other=other: read_source(folder, other), "do not lie where the scan does")
    max(folder.iterdir()).unlink()
    refused(lambda: read_source(folder, mask), "do not lie where the scan does")


def test_frames_of_a_resampled_scan_lie_on_the_slices_where_they_were(tmp_path, capsys):
    """Each shows the mask of the scan's slice that is nearest; distances grow by a third."""
    (depth, *_), (step, *_) = COARSE
    normal = grid(DIRECTIONS["oblique"], *COARSE).direction[:, 2]

    def move(header, k):
        shift = 3 * step * (k / depth) ** 2 * normal
        header.ImagePositionPatient = [round(v, 6) for v in np.array(header.ImagePositionPatient) + shift]

    mask = series_of(tmp_path / "series", change=move)
    made = pydicom.dcmread(segmented(tmp_path / "series", mask))
    slices = np.array([pydicom.dcmread(path).ImagePositionPatient
                       for path in (tmp_path / "series").iterdir()])
    assert not errors_by_dciodvfy(tmp_path / "made.dcm") and "resampled" in capsys.readouterr().err
    planes = np.array([mask.to_world((k, 0, 0)) for k in range(len(mask.array))])
    labels, seen = left_and_right(mask).array, 0
    for frame, pixels in zip(made.PerFrameFunctionalGroupsSequence, made.pixel_array):
        place = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        nearest = np.linalg.norm(planes - place, axis=1).argmin()
        assert np.abs(slices - place).max(axis=1).min() < 1e-4
        assert np.array_equal(pixels, labels[nearest] == number)
        seen += pixels.sum()
    assert seen > 0.8 * np.count_nonzero(labels)


FEW = tuple(name for name in FORMATS if name not in ("png", "dicom-seg"))


def test_only_an_earlier_export_of_the_same_scan_is_replaced(tmp_path):
    """Else nothing is written, unless it is asked for; whatever formats and networks there were before."""
    scan, out = scan_of("LPS", *COARSE), tmp_path / "out"
    other, smaller = scan.with_array(scan.array + np.int16(1)), both(scan)
    smaller.array[:len(smaller.array) // 2] = 0

    def refuses(scan, formats, name, mask=None):
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        refused(lambda: exported(out, scan, mask or both(scan), formats), f"{out / name}: is there already",
                "--overwrite")
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before, (formats, name)

    exported(out, scan, formats=FORMATS)
    for formats in (FEW, ("nifti",), ("json",)):
        refuses(other, formats, "case_sij.json")                            # another patient's ct.nii.gz
    for again in (both(scan), smaller):                                     # the same again, another network
        for formats in (("nifti", "json"), FEW):
            assert {"sij.nii.gz", "sij.json"} <= exported(out, scan, again, formats).keys()
    assert (out / "case_sij.png").exists()
    exported(out, scan, formats=("png", "json"))                            # of a report before the last
    for name in ("case_sij.nii.gz", "case_sij_right.stl"):
        (out / name).write_bytes(b"mine")
        refuses(scan, FEW, name)
        refuses(scan, ("stl", "nifti"), name, scan.with_array(0 * scan.array))         # nor is it removed
        (out / name).unlink()
        exported(out, scan, formats=FEW)
    aside = {"origin": (0.0, 0.0, 7.0)}
    refuses(replace(scan, **aside), FEW, "case_sij.json", replace(both(scan), **aside))
    for content in ("[]", "{", '{"scan": {}}', '{"sha256_of_files": []}'):
        (out / "case_sij.json").write_text(content)
        refuses(scan, FEW, "case_sij.json")
    exported(out, other, smaller, FEW, overwrite=True)
    assert json.loads((out / "case_sij.json").read_text())["scan"]["sha256_of_voxels"] == voxel_hash(other)
    (out / "case_sij.json").unlink()
    exported(out, other, smaller, ("nifti", "stl"))                         # equal bytes are no loss
    refuses(scan, ("seg.nrrd",), "case_sij.seg.nrrd")


def test_a_mask_that_is_no_pair_of_joints_is_doubted(tmp_path, capsys):
    scan, mask = scan_of(), both(scan_of())
    speck = mask.with_array(mask.array.copy())
    speck.array[[0, -1], :4, :4] = 1
    right = mask.with_array(mask.array * (world(scan)[..., 0] < 0))
    for name, one, says in (("pair", mask, ()), ("right", right, ("it is no pair of joints",)),
                            ("speck", speck, ("is 0 mm from the border", "so a piece of it is no joint"))):
        files = exported(tmp_path / name, scan, one, ("json",))
        doubts, said = json.loads(files["sij.json"].read_text())["doubts"], capsys.readouterr().err
        assert len(doubts) == len(says), name
        assert all(word in doubt and word in said for word, doubt in zip(says, doubts)), name


def test_an_export_cut_short_goes_on(tmp_path, monkeypatch):
    """At any of its files and again at a later one, the first and one that replaces it."""
    scan, real = scan_of("LPS", *COARSE), os.replace
    smaller = both(scan)
    smaller.array[:len(smaller.array) // 2] = 0
    for mask in (both(scan), smaller):
        for writes in range(7):
            left = iter(range(writes))

            def stopped(part, path, left=left):
                if Path(path).parent == tmp_path and next(left, None) is None:
                    raise KeyboardInterrupt
                real(part, path)

            with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
                patched.setattr(os, "replace", stopped)
                exported(tmp_path, scan, mask, FEW)
        report = json.loads(exported(tmp_path, scan, mask, FEW)["sij.json"].read_text())
        assert not report["sha256_of_earlier_files"] and report["sha256_of_files"] == {
            path.name: file_hash(path) for path in tmp_path.glob("case_*") if path.suffix != ".json"}


def test_a_disk_that_is_full_leaves_no_half_file_of_any_format(series, tmp_path, monkeypatch):
    (folder, mask), out = series, tmp_path / "out"
    scan, source = read_volume(folder), read_source(folder, mask)
    exported(out, scan, source=source)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full_disk(part, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    for name in FORMATS:
        with pytest.raises(OSError, match="No space left"):
            exported(out, scan, scan.with_array(parts(scan)["left"]), (name,), source)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before, name


@pytest.mark.slow
def test_reading_and_exporting_a_large_scan_takes_few_bytes_a_voxel(tmp_path):
    """So that 512 x 512 x 1000 voxels need 2.5 GB, libraries and all."""
    scan = scan_of("RAS", (200, 256, 256), (0.7, 0.7, 0.7))
    folder, mask = tmp_path / "series", both(scan)
    write_series(folder, scan.array, scan.spacing, scan.origin, scan.direction)
    exported(tmp_path / "small", scan_of())                                 # imports
    tracemalloc.start()
    try:
        for name, most, work in (("read", 2.5, lambda: read_volume(folder)),
                                 ("hash", 0.1, lambda: voxel_hash(scan)),
                                 ("export", 6.5, lambda: exported(tmp_path / "out", scan, mask))):
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            work()
            bytes_a_voxel = (tracemalloc.get_traced_memory()[1] - before) / scan.array.size
            assert bytes_a_voxel < most, (name, bytes_a_voxel)
    finally:
        tracemalloc.stop()


# The command ------------------------------------------------------------------------------------------
@pytest.fixture
def finds_the_object(monkeypatch):
    """The network stands aside: every scan's mask is the test object where it lies in the patient."""
    monkeypatch.setattr(Model, "answer", lambda self, scan: Answer(scan.with_array(both(scan).array)))


@pytest.fixture
def predict(run, capsys):
    """Calls the command: (scan, folder, further words) -> status, stdout and stderr."""
    return lambda path, out, *words: call(capsys, "predict", path, "--model", run, "--out", out, *words)


def test_files_of_an_anonymous_scan_are_named_by_its_hash_and_only_those_asked_for_are_written(
        run, predict, finds_the_object, tmp_path):
    write_scan(scan_of(), tmp_path / "Erika Musterfrau.mha")
    words = tmp_path / "Erika Musterfrau.mha", tmp_path / "out", "--formats", "stl,json", "--anonymise"
    status, printed, _ = predict(*words)
    begin = tmp_path / "out" / f"ct-{voxel_hash(scan_of())[:10]}_sij"
    assert status == 0
    assert printed.split() == [f"{begin}{end}" for end in ("_left.stl", "_right.stl", ".json")]
    model = json.loads(Path(f"{begin}.json").read_text())["model"]
    assert (model["run"], model["sha256_of_weights"]) == (run.name, file_hash(run / "weights.safetensors"))
    assert "Musterfrau" not in Path(f"{begin}.json").read_text()


def test_the_same_name_of_another_patient_and_no_right_to_write_are_told_before_anything_is_computed(
        predict, finds_the_object, tmp_path, monkeypatch):
    words = "--formats", "nifti,json"
    for number, name in enumerate(("anna", "erik")):
        scan = scan_of("LPS", *COARSE)
        write_volume(scan.with_array(scan.array + np.int16(number)), tmp_path / name / "ct.nii.gz")
    for _ in range(2):
        assert predict(tmp_path / "anna/ct.nii.gz", tmp_path / "out", *words)[0] == 0
    with monkeypatch.context() as patched:
        patched.setattr(Model, "answer", lambda *_: pytest.fail("computed"))
        status, printed, said = predict(tmp_path / "erik/ct.nii.gz", tmp_path / "out", *words)
        patched.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
        refusal = predict(tmp_path / "anna/ct.nii.gz", tmp_path / "new" / "out")
    assert refusal[0] == 2 and f"{tmp_path}: nothing can be written there" in refusal[2]
    assert not (tmp_path / "new").exists()
    assert (status, printed) == (2, "") and "ct_sij.json: is there already, and not of this scan" in said
    assert predict(tmp_path / "erik/ct.nii.gz", tmp_path / "out", *words, "--overwrite")[0] == 0
    assert predict(tmp_path / "anna/ct.nii.gz", tmp_path / "out", *words)[0] == 2


def quoting(source, *words, **named):
    """highdicom, which quotes what it does not like."""
    one = source[0]
    raise RuntimeError(f"an odd\nseries: {one.PatientID!r} of {one.PatientName} born {one.PatientBirthDate}")


@pytest.mark.parametrize("dropped, maker, reason", [
    (("FrameOfReferenceUID",), dicom_seg.Segmentation, "slices lack FrameOfReferenceUID"),
    ((), quoting, "no DICOM SEG can be made of this series (an odd series: 'PatientID' of PatientName born")])
def test_a_series_of_which_no_dicom_seg_can_be_made_gets_the_rest_and_a_note_without_the_patient(
        dropped, maker, reason, predict, finds_the_object, tmp_path, monkeypatch):
    folder = tmp_path / PATIENT
    series_of(folder, drop=dropped)
    monkeypatch.setattr(dicom_seg, "Segmentation", maker)
    for name, words, expected in (("all", (), 0), ("only", ("--formats", "dicom-seg"), 2)):
        status, printed, said = predict(folder, tmp_path / name, *words)
        said = said.replace(str(folder), "")
        assert status == expected and reason in said, name
        assert not [word for word in planted(STANDARD) if word.decode() in said], name
        assert not list((tmp_path / name).glob("*.dcm"))
        assert [Path(line).name[:3] for line in printed.splitlines()] == ["ct-"] * (6 if expected == 0 else 0)
    assert {".nrrd", ".stl", ".json"} <= {path.suffix for path in (tmp_path / "all").iterdir()}


@pytest.fixture
def in_its_compendium(run, monkeypatch):
    monkeypatch.chdir(run.parents[1])
    before = (run / "run.json").read_text()
    record = json.loads(before)
    settings = record["settings"] | {"cohort": "data/boxes"}                # TINY leaves it to the test
    (run / "run.json").write_text(json.dumps(record | {"settings": settings}))
    yield run
    (run / "run.json").write_text(before)


def test_export_writes_prediction_and_truth_of_a_runs_cases(in_its_compendium, tmp_path, capsys):
    record = json.loads((in_its_compendium / "run.json").read_text())
    names, out = [record["train"][0], record["val"][0]], tmp_path / "out"
    status, _, said = call(capsys, "export", in_its_compendium, *names, "--out", out, "--formats",
                           "nifti,stl,json")
    assert status == 0, said
    for name, note in zip(names, ("trained on this case", "not trained on this case")):
        truth = read_volume(Path("data/boxes/labelsTr") / f"{name}.nii.gz")
        np.testing.assert_array_equal(read_volume(out / f"{name}_truth.nii.gz").array, truth.array)
        report = json.loads((out / f"{name}_sij.json").read_text())
        assert set(report["masks"]) == {"sij", "truth"} and report["note"] == f"the network was {note}"
        assert list(out.glob(f"{name}_truth*.stl"))
    status, printed, _ = call(capsys, "export", in_its_compendium, names[1], "--anonymise")
    assert status == 0
    assert all(line.startswith(str(in_its_compendium / "exports" / "ct-")) for line in printed.splitlines())
