"""Exports of a run: every format read back by another program, and nothing of the patient in any file."""

import gzip
import json
import os
from pathlib import Path

import nrrd
import numpy as np
import pydicom
import pytest
import SimpleITK
import slicerio
import trimesh
from conftest import refused
from dicom_series import PATIENT, STANDARD, planted, write_series
from joint_object import DIRECTIONS, both, grid, parts, world
from scans import write_scan
from test_cli import call

from compendium.view import FORMATS, dicom_seg
from compendium.view.export import Exported, _extent, export
from compendium.view.segments import write_segments
from magunet import __version__
from magunet.base.provenance import file_hash
from magunet.joints import JOINTS, left_and_right
from magunet.predict import Model
from magunet.volume import Volume, read_volume, voxel_hash, write_volume

ORIGIN = {"run": "MAG-UNet-0123456789-s0", "network": "MAG-UNet", "profile": "smoke", "seed": 0,
          "sha256_of_weights": "f" * 64, "hash_of_training_data": "0123456789"}
ALL = ",".join(FORMATS)


@pytest.fixture
def finds_the_object(monkeypatch):
    """The network stands aside: every scan's mask is the test object where it lies in the patient."""
    monkeypatch.setattr(Model, "segment", lambda self, scan: scan.with_array(both(scan).array))


def scan_of(direction="LPS"):
    on = grid(DIRECTIONS[direction])
    return Volume(np.where(both(on).array != 0, 700, -1000).astype(np.int16), on.spacing, on.origin,
                  on.direction)


def exported(out, direction="LPS", mask=None, **options):
    """The object's files by their kind and ending, such as "sij_left.stl"."""
    scan = scan_of(direction)
    mask = both(scan) if mask is None else scan.with_array(mask)
    files = export(Exported("case", scan, mask), ORIGIN, out, FORMATS, **options)
    return {path.name.removeprefix("case_"): path for path in files}


def sorted_places(at):
    return at[np.lexsort(np.round(at, 3).T)]


def all_bytes(path):
    """A file's bytes, and those inside where it is compressed: also in the middle, as in NRRD."""
    content = path.read_bytes()
    start = content.find(b"\x1f\x8b\x08")
    return content + (gzip.decompress(content[start:]) if start >= 0 and path.suffix in (".gz", ".nrrd")
                      else b"")


# Round trips ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("direction", DIRECTIONS)
def test_nifti_is_where_the_mask_is_by_simpleitk(direction, tmp_path):
    image = SimpleITK.ReadImage(str(exported(tmp_path, direction)["sij.nii.gz"]))
    array = SimpleITK.GetArrayFromImage(image)
    assert set(np.unique(array)) == {0, 1}
    at = [image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]]) for index in np.argwhere(array)]
    scan = scan_of(direction)
    np.testing.assert_allclose(sorted_places(np.array(at)), sorted_places(world(scan)[both(scan).array != 0]),
                               atol=2e-3)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_segments_are_named_coloured_and_in_their_place_by_slicerio(direction, tmp_path):
    path = exported(tmp_path, direction)["sij.seg.nrrd"]
    read, scan = slicerio.read_segmentation(str(path)), scan_of(direction)
    assert [s["name"] for s in read["segments"]] == ["left sacroiliac joint", "right sacroiliac joint"]
    for segment, joint in zip(read["segments"], JOINTS):
        index = np.argwhere(read["voxels"] == segment["labelValue"])
        at = (np.array(read["ijkToLPS"]) @ np.column_stack([index, np.ones(len(index))]).T).T[:, :3]
        np.testing.assert_allclose(sorted_places(at), sorted_places(world(scan)[parts(scan)[joint.side]]),
                                   atol=2e-3)
        assert np.allclose(segment["color"], joint.colour)
        assert segment["terminology"]["category"] == ["SCT", "123037004", "Anatomical Structure"]
        assert segment["terminology"]["type"] == ["SCT", "39723000", "Sacroiliac joint"]
        assert segment["terminology"]["typeModifier"] == ["SCT", *joint.laterality]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_segments_are_on_the_scans_grid_by_simpleitk(direction, tmp_path):
    image = SimpleITK.ReadImage(str(exported(tmp_path, direction)["sij.seg.nrrd"]))
    scan = scan_of(direction)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), left_and_right(both(scan)).array)
    np.testing.assert_allclose(image.GetOrigin(), scan.origin, atol=1e-6)
    np.testing.assert_allclose(np.reshape(image.GetDirection(), (3, 3)), scan.direction, atol=1e-6)
    np.testing.assert_allclose(image.GetSpacing(), scan.spacing[::-1], rtol=1e-6)
    assert image.GetMetaData("Segment1_Name") == "right sacroiliac joint"


def test_the_segments_of_one_joint_keep_their_names_and_extent(tmp_path):
    scan = scan_of()
    files = exported(tmp_path, mask=parts(scan)["right"])
    header = nrrd.read_header(str(files["sij.seg.nrrd"]))
    assert header["Segment0_Name"] == "left sacroiliac joint" and header["Segment1_LabelValue"] == "2"
    assert header["Segment1_Extent"] == "0 55 0 47 0 43" and header["encoding"] == "gzip"


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_meshes_lie_around_their_joint_by_trimesh(direction, tmp_path):
    files, scan = exported(tmp_path, direction), scan_of(direction)
    for joint in JOINTS:
        mesh, own = trimesh.load_mesh(str(files[f"sij_{joint.side}.stl"])), parts(scan)[joint.side]
        volume = own.sum() * np.prod(scan.spacing)
        assert mesh.is_watertight and mesh.volume == pytest.approx(volume, rel=0.1)
        at = world(scan)[own]
        np.testing.assert_allclose(mesh.center_mass, at.mean(axis=0), atol=0.5)
        low, high = mesh.bounds
        assert (low < at.min(axis=0)).all() and (high > at.max(axis=0)).all()
        assert np.abs(np.concatenate([at.min(0) - low, high - at.max(0)])).max() <= max(scan.spacing)


# What the report says ---------------------------------------------------------------------------------

def test_the_report_tells_volumes_borders_and_hashes(tmp_path):
    files, scan = exported(tmp_path, "oblique"), scan_of("oblique")
    report = json.loads(files["sij.json"].read_text())
    found = report["masks"]["sij"]
    for side, own in parts(scan).items():
        joint = found["joints"][side]
        assert joint["volume_ml"] == pytest.approx(own.sum() * 3.0 * 2.5 * 2.2 / 1000, abs=1e-3)
        assert joint["touches_border"] is False and joint["touched_faces"] == []
    assert found["volume_ml"] == pytest.approx(both(scan).array.sum() * 16.5 / 1000, abs=1e-3)
    assert found["left_and_right_parted_at"]["which_is"] == "halfway between the two joints"
    assert report["model"] == ORIGIN
    assert report["magunet"] == __version__ and report["scan"]["sha256_of_voxels"] == voxel_hash(scan)
    others = {path.name: file_hash(path) for path in files.values() if path.suffix != ".json"}
    assert report["sha256_of_files"] == others


def test_the_same_voxels_have_the_same_hash_in_any_format(tmp_path):
    scan = scan_of("oblique")
    for ending in (".nii.gz", ".nrrd", ".mha"):
        write_scan(scan, tmp_path / f"scan{ending}")
        assert voxel_hash(read_volume(tmp_path / f"scan{ending}")) == voxel_hash(scan)
    changed = scan.array.copy()
    changed[3, 4, 5] += 1
    assert voxel_hash(scan.with_array(changed)) != voxel_hash(scan)
    assert voxel_hash(Volume(scan.array.reshape(48, 44, 56), scan.spacing)) != voxel_hash(scan)


@pytest.mark.parametrize("direction", ["LPS", "RAS", "coronal", "mirrored rows"])
def test_touched_faces_are_sides_of_the_patient(direction):
    on = grid(DIRECTIONS[direction])
    at = world(on)
    for axis, (low,
               high) in enumerate((("right", "left"), ("anterior", "posterior"), ("inferior", "superior"))):
        for name, edge in ((low, at[..., axis].min()), (high, at[..., axis].max())):
            mask = np.abs(at[..., axis] - edge) < 0.1
            mask &= (np.abs(np.delete(at, axis, axis=-1)) < 10).all(-1)
            assert _extent(on.with_array(mask))["touched_faces"] == [name]


# Masks that are no two joints -------------------------------------------------------------------------

def test_an_empty_mask_has_no_mesh_and_a_report_that_says_so(tmp_path, capsys):
    exported(tmp_path)                                                      # of an earlier, better network
    files = exported(tmp_path, mask=np.zeros(scan_of().array.shape, np.uint8))
    said = capsys.readouterr().err
    assert not list(tmp_path.glob("*.stl"))
    for side in ("left", "right"):
        assert f"case_sij_{side}.stl is not written: the mask has no {side} sacroiliac joint" in said
    report = json.loads(files["sij.json"].read_text())["masks"]["sij"]
    assert report["volume_ml"] == 0 and not report["touches_border"]
    assert report["joints"]["left"] == {"volume_ml": 0, "touches_border": False, "touched_faces": []}
    assert not read_volume(files["sij.nii.gz"]).array.any()
    segments = slicerio.read_segmentation(str(files["sij.seg.nrrd"]))["segments"]
    assert [segment["name"] for segment in segments] == [joint.name for joint in JOINTS]


def test_one_joint_gets_one_mesh(tmp_path):
    files = exported(tmp_path, mask=parts(scan_of())["left"])
    assert "sij_left.stl" in files and "sij_right.stl" not in files
    report = json.loads(files["sij.json"].read_text())["masks"]["sij"]
    assert report["joints"]["right"]["volume_ml"] == 0 < report["joints"]["left"]["volume_ml"]
    assert report["left_and_right_parted_at"]["which_is"].startswith("middle of the scan")


def test_a_mask_on_another_grid_is_refused(tmp_path):
    scan = scan_of()
    refused(lambda: export(Exported("case", scan, grid(DIRECTIONS["RAS"])), ORIGIN, tmp_path / "out"),
            "'sij'", "another grid")
    assert not (tmp_path / "out").exists()


# Whole or not at all ----------------------------------------------------------------------------------

@pytest.mark.parametrize("name", [name for name in FORMATS
                                  if name != "dicom-seg"])      # that one is in test_dicom_seg.py
def test_a_disk_that_is_full_leaves_no_half_file(name, tmp_path, monkeypatch):
    exported(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(part, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    scan = scan_of()
    with pytest.raises(OSError, match="No space left"):
        export(Exported("case", scan, scan.with_array(parts(scan)["left"])), ORIGIN, tmp_path, (name,))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_interrupted_segmentation_leaves_the_old_one(tmp_path, monkeypatch):
    path, labels = tmp_path / "a.seg.nrrd", left_and_right(both(scan_of()))
    write_segments(labels, path)
    before = path.read_bytes()

    def interrupted(file, *words, **named):
        Path(file).write_bytes(b"NRRD0005 half")
        raise KeyboardInterrupt

    monkeypatch.setattr(nrrd, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_segments(labels, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.seg.nrrd"]


# The command ------------------------------------------------------------------------------------------

def dicom_folder(tmp_path, **options):
    scan = scan_of("oblique")
    return write_series(tmp_path / PATIENT, scan.array, scan.spacing, scan.origin, scan.direction,
                        reverse=True, **options)


@pytest.mark.parametrize("anonymise", [False, True])
def test_no_file_of_a_dicom_series_holds_anything_of_the_patient(
        anonymise, run, finds_the_object, tmp_path, capsys):
    folder, out = dicom_folder(tmp_path), tmp_path / "out"
    status, printed, said = call(capsys, "predict", folder, "--model", run, "--out", out, "--formats", ALL,
                                 *["--anonymise"] * anonymise)
    assert status == 0, said
    files = [Path(line) for line in printed.splitlines()]
    assert sorted(files) == sorted(out.iterdir()) and len(files) == 7
    values = {v.encode() for v in STANDARD.values() if len(v) > 1}
    words = [*planted(), *values, b"Geheimnis", PATIENT.encode(), str(tmp_path).encode()]
    for path in files:
        allowed = {*planted(STANDARD), *values} if path.suffix == ".dcm" and not anonymise else ()
        content = all_bytes(path)
        assert not [word for word in words if word in content and word not in allowed], path.name
        assert not [word for word in words if word.decode() in path.name]
        assert path.name.startswith("ct-")
    assert not [word for word in words if word.decode() in said.replace(str(folder), "")]
    seg = pydicom.dcmread(next(p for p in files if p.suffix == ".dcm"))
    assert (seg.PatientName == STANDARD["PatientName"]) is not anonymise


def test_planted_words_are_found_where_they_are(tmp_path):
    """The search above is not blind, also inside of compressed files."""
    with gzip.open(tmp_path / "a.nii.gz", "wb") as stream:
        stream.write(b"xx Musterfrau xx")
    nrrd.write(str(tmp_path / "a.nrrd"), np.frombuffer(b"Musterfrau", np.uint8), {"encoding": "gzip"})
    for path in tmp_path.iterdir():
        assert b"Musterfrau" in all_bytes(path) and b"Musterfrau" not in path.read_bytes()


def test_predict_by_default(run, finds_the_object, tmp_path, capsys):
    write_scan(scan_of("mirrored rows"), tmp_path / "a scan.nrrd")
    status, out, _ = call(capsys, "predict", tmp_path / "a scan.nrrd", "--model", run, "--out",
                          tmp_path / "out")
    assert status == 0
    assert [Path(line).name for line in out.splitlines()] == [
        "a scan_sij.nii.gz", "a scan_sij.png", "a scan_sij.seg.nrrd", "a scan_sij_left.stl",
        "a scan_sij_right.stl", "a scan_sij.json"]
    report = json.loads((tmp_path / "out" / "a scan_sij.json").read_text())
    assert (report["model"]["run"] == run.name
            and report["model"]["sha256_of_weights"] == file_hash(run / "weights.safetensors"))


def test_predict_writes_only_what_is_asked_for_and_names_it_neutrally(
        run, finds_the_object, tmp_path, capsys):
    write_scan(scan_of(), tmp_path / "Erika Musterfrau.mha")
    status, out, _ = call(capsys, "predict", tmp_path / "Erika Musterfrau.mha", "--model", run, "--out",
                          tmp_path / "out",
                          "--formats", "stl,json", "--anonymise")
    assert status == 0
    name = f"ct-{voxel_hash(scan_of())[:10]}"
    assert [Path(line).name for line in out.splitlines()] == [f"{name}_sij_left.stl", f"{name}_sij_right.stl",
                                                              f"{name}_sij.json"]
    assert "Musterfrau" not in (tmp_path / "out" / f"{name}_sij.json").read_text()


def test_a_dicom_series_that_cannot_be_referred_to_gets_all_but_the_seg(
        run, finds_the_object, tmp_path, capsys):
    folder = dicom_folder(tmp_path, drop=("FrameOfReferenceUID",))
    status, out, said = call(capsys, "predict", folder, "--model", run, "--out", tmp_path / "out")
    assert status == 0 and "note: no DICOM SEG" in said and "FrameOfReferenceUID" in said
    assert ".dcm" not in out and "_sij.seg.nrrd" in out
    status, out, said = call(capsys, "predict", folder, "--model", run, "--out", tmp_path / "other",
                             "--formats", "dicom-seg")
    assert status == 2 and "FrameOfReferenceUID" in said and out == "" and not (tmp_path / "other").exists()


def test_a_series_of_which_highdicom_makes_nothing_gets_the_rest(
        run, finds_the_object, tmp_path, capsys, monkeypatch):
    def fail(*words, **named):
        raise ValueError("an odd\nseries")
    monkeypatch.setattr("compendium.view.dicom_seg.Segmentation", fail)
    folder = dicom_folder(tmp_path)
    status, out, said = call(capsys, "predict", folder, "--model", run, "--out", tmp_path / "out")
    assert status == 0 and "no DICOM SEG can be made of this series (an odd series)" in said
    assert ".dcm" not in out and ".json" in out and not list((tmp_path / "out").glob("*.dcm"))
    status, out, said = call(capsys, "predict", folder, "--model", run, "--out", tmp_path / "other",
                             "--formats", "dicom-seg")
    assert status == 2 and "an odd series" in said and out == ""


def test_what_a_notebook_gets_of_a_dicom_series_is_voxels_and_their_place(tmp_path):
    """Notebooks can print and draw nothing of the patient, for a volume holds nothing of the header."""
    scan = read_volume(dicom_folder(tmp_path))
    assert set(vars(scan)) == {"array", "spacing", "origin", "direction"}
    assert not [word for word in planted() if word.decode() in repr(scan)]


def test_an_empty_mask_has_no_dicom_seg(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Model, "segment", lambda self,
                        scan: scan.with_array(np.zeros(scan.array.shape, np.uint8)))
    status, out, said = call(capsys, "predict", dicom_folder(tmp_path), "--model", run, "--out",
                             tmp_path / "out")
    assert status == 0 and ".dcm" not in out and ".stl" not in out
    assert "a DICOM SEG must hold a frame" in said and "found no joint" in said


@pytest.mark.parametrize("words, says", [
    (("--formats", "nifti,obj"), "no format 'obj'; there are nifti, png, seg.nrrd, dicom-seg, stl, json"),
    (("--formats", ""), "no format ''"),
    (("--formats", "dicom-seg"), "is no DICOM series, so no DICOM SEG"),
    (("--anonymize",), "unrecognized arguments: --anonymize"),
])
def test_bad_arguments_of_predict(words, says, run, tmp_path, capsys):
    write_scan(scan_of(), tmp_path / "ct.mha")
    status, out, error = call(capsys, "predict", tmp_path / "ct.mha", "--model", run, "--out",
                              tmp_path / "out", *words)
    assert status == 2 and says in error and out == "" and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def in_its_compendium(run, monkeypatch):
    monkeypatch.chdir(run.parents[1])
    record = json.loads((run / "run.json").read_text())
    settings = record["settings"] | {"cohort": "data/boxes"}                # TINY leaves it to the test
    before = (run / "run.json").read_text()
    (run / "run.json").write_text(json.dumps(record | {"settings": settings}))
    yield run
    (run / "run.json").write_text(before)


def test_export_writes_prediction_and_truth_of_a_runs_cases(in_its_compendium, tmp_path, capsys):
    record = json.loads((in_its_compendium / "run.json").read_text())
    names = [record["train"][0], record["val"][0]]
    status, out, said = call(capsys, "export", in_its_compendium, *names, "--out", tmp_path / "out",
                             "--formats", "nifti,stl,json")
    assert status == 0, said
    for name, note in zip(names, ("trained on this case", "not trained on this case")):
        truth = read_volume(tmp_path / "out" / f"{name}_truth.nii.gz")
        np.testing.assert_array_equal(truth.array,
                                      read_volume(Path("data/boxes/labelsTr") / f"{name}.nii.gz").array)
        report = json.loads((tmp_path / "out" / f"{name}_sij.json").read_text())
        assert set(report["masks"]) == {"sij", "truth"} and note in report["note"]
        assert [p.name for p in (tmp_path / "out").glob(f"{name}_truth_*.stl")]
    status, out, _ = call(capsys, "export", in_its_compendium, names[1], "--anonymise")
    assert status == 0
    assert all(line.startswith(str(in_its_compendium / "exports" / "ct-")) for line in out.splitlines())


@pytest.mark.parametrize("words, says", [
    (("box_9",), "has no case 'box_9'; it has box_0, box_1, box_2, box_3"),
    (("box_0", "--formats", "dicom-seg"), "cases are no DICOM series"),
    ((), "required: case"),
])
def test_bad_arguments_of_export(words, says, in_its_compendium, tmp_path, capsys):
    status, out, error = call(capsys, "export", in_its_compendium, *words, "--out", tmp_path / "out")
    assert status == 2 and says in error and out == "" and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_export_of_no_run(tmp_path, capsys):
    status, _, error = call(capsys, "export", tmp_path / "nowhere", "case")
    assert status == 2 and "nowhere/run.json: missing" in error


def test_what_an_earlier_export_left_is_said(tmp_path, capsys):
    exported(tmp_path)
    capsys.readouterr()
    scan = scan_of()
    export(Exported("case", scan, both(scan)), ORIGIN, tmp_path, ("stl", "json"))
    said = capsys.readouterr().err
    assert "note: of an earlier export" in said and "case_sij.nii.gz" in said and "case_sij.png" in said
    assert "case_sij.json" not in said and (tmp_path / "case_sij.nii.gz").exists()


def test_the_series_own_folder_is_no_place_for_results(run, finds_the_object, tmp_path, capsys):
    folder = dicom_folder(tmp_path)
    before = sorted(folder.iterdir())
    status, _, said = call(capsys, "predict", folder, "--model", run, "--out", folder)
    assert status == 2 and "is the folder of the series" in said and sorted(folder.iterdir()) == before


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_computed(
        run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    monkeypatch.setattr(Model, "segment", lambda *_: pytest.fail("computed"))
    write_volume(scan_of(), tmp_path / "a.nii.gz")
    status, _, said = call(capsys, "predict", tmp_path / "a.nii.gz", "--model", run, "--out",
                           tmp_path / "new" / "out")
    assert (status == 2 and f"{tmp_path}: nothing can be written there" in said
            and not (tmp_path / "new").exists())


@pytest.mark.parametrize("formats", [(), ("--formats", "dicom-seg")])
def test_no_message_tells_what_a_header_holds(formats, run, finds_the_object, tmp_path, capsys, monkeypatch):
    """Also where highdicom quotes what it does not like."""
    folder = dicom_folder(tmp_path, tags={"PatientID": "PID-4711-X"})

    def quoting(source, *words, **named):
        one = source[0]
        raise RuntimeError(f"cannot use {one.PatientID!r} of {one.PatientName} born {one.PatientBirthDate}")

    monkeypatch.setattr(dicom_seg, "Segmentation", quoting)
    status, _, said = call(capsys, "predict", folder, "--model", run, "--out", tmp_path / "out", *formats)
    assert status == (2 if formats else 0) and "no DICOM SEG can be made of this series" in said
    said = said.replace(str(folder), "")
    assert "PatientID" in said and not [word for word in planted(STANDARD) if word.decode() in said]
