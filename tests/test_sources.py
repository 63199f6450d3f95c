"""Import: every published layout, in miniature, becomes the cohort that its geometry says it is.

The pelvis is three boxes in patient coordinates (LPS, mm). What is expected is worked out from them, voxel
by voxel, and never from the code under test.
"""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import DEFAULT, Mock, patch

import nibabel
import numpy as np
import pytest
import SimpleITK
from boxes import as_image, write_scan
from conftest import refused
from joint_object import world
from scipy import ndimage
from scipy.spatial.transform import Rotation

from compendium.check import describe
from compendium.cli import main
from compendium.importing import bones, sources
from compendium.importing.bones import BoneNumbers, derive_pelvis, solid
from magunet import volume
from magunet.cohort import load_cohort, read_checked
from magunet.metrics import overlap
from magunet.target import THICKNESS
from magunet.volume import Volume, onto_grid, read_volume, reorient, same_geometry, write_volume

SACRUM = (-20, -30, -27), (20, 24, 24)                      # LPS mm: lowest and highest x, y, z
LEFT = (24, -24, -18), (36, 30, 30)                         # 4 mm beside it, and higher than the right
RIGHT = (-36, -30, -30), (-25, 24, 18)
UPPER = (-20, -30, 3), (20, 24, 24)                         # the part of the sacrum that is S1
FEMUR = (40, -24, -30), (48, 10, 0)
BODY = (-50, -44, -60), (50, 44, 60)
EMPTY = (500, 500, 500), (501, 501, 501)
SPACING = (3.0, 3.0, 2.0)
LPS = np.eye(3)
RAS = np.diag([-1.0, -1.0, 1.0])
DIRECTIONS = {"LPS": LPS, "RAS": RAS,
              "oblique": Rotation.from_euler("xz", (10, 15), degrees=True).as_matrix() @ RAS}


def inside(grid, box):
    """Which voxel centres (d, h, w) lie in a box."""
    low, high = np.array(box, float)
    return ((world(grid) >= low) & (world(grid) <= high)).all(-1)


def to_voxels(grid, mask):
    """Distance in mm (d, h, w) to the box that is the nearest voxel of a mask, 0 inside."""
    step = np.array(grid.spacing)[:, None, None, None]
    nearest = ndimage.distance_transform_edt(~mask, grid.spacing, False, True)
    across = np.abs(nearest - np.indices(mask.shape)) * step
    return np.linalg.norm(np.maximum(across - step / 2, 0), axis=0)


def scan(direction=LPS, shape=(39, 33, 51), shift=(0.0, 0.0, 0.0)):
    """A CT in HU around the boxes, its grid centred on the sacrum or ``shift`` mm beside it."""
    half = direction @ ((np.array(shape[::-1]) - 1) * SPACING[::-1] / 2)
    grid = Volume(np.zeros(shape, np.int16), SPACING, tuple(shift - half), direction)
    hu = np.where(inside(grid, BODY), 40, -1000) + np.random.default_rng(3).integers(-20, 20, shape)
    for box in (SACRUM, LEFT, RIGHT):
        hu[inside(grid, box)] = 400
    return grid.with_array(hu.astype(np.int16))


def labelled(grid, *values):
    """The grid with ``values`` (number, box), later ones over earlier ones."""
    array = np.zeros(grid.array.shape, np.uint8)
    for number, box in values:
        array[inside(grid, box)] = number
    return grid.with_array(array)


def shell(mask):
    """The outermost voxels of a box."""
    inner = mask.copy()
    for axis in range(3):
        inner &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
    return mask & ~inner


def totalsegmentator(root, ct, name="s0001", sacrum=SACRUM, left=LEFT, right=RIGHT):
    """102 folders of this kind; every mask a file, S1 apart from the rest of the sacrum."""
    write_volume(ct, root / name / "ct.nii.gz")
    rest, upper = inside(ct, sacrum) & ~inside(ct, UPPER), inside(ct, sacrum) & inside(ct, UPPER)
    masks = {"sacrum": rest, "vertebrae_S1": upper, "hip_left": inside(ct, left),
             "hip_right": inside(ct, right), "femur_left": np.zeros(ct.array.shape, bool)}
    for part, mask in masks.items():
        write_volume(ct.with_array(mask), root / name / "segmentations" / f"{part}.nii.gz")
    (root / "meta.csv").write_text("image_id;age;gender\ns0001;60;m\n")
    return name


def vsd(root, ct, patient="016", crop=False, layers=False, upside_down=False):
    """Hollow bones in a 3D Slicer segmentation whose numbers have no order; its folder lies two deep. crop:
    the CT is a part of a whole body beside it. layers: the sacrum is in a layer of its own, with a number of
    the other. upside_down: the CT's header is half a turn off, its voxels in the same order."""
    stem = root / patient / patient / "SMIR.Lower_limb.095Y.F.CT.476/SMIR.Lower_limb.095Y.F.CT.476"
    for ending in (".nii", ".nrrd") if crop else ():
        write_scan(scan(shape=(60, 33, 51)), stem.with_name(stem.name + ending))
    turn = np.diag([-1.0, 1.0, -1.0]) if upside_down else LPS
    stored = Volume(ct.array, ct.spacing, tuple(turn @ ct.origin), turn @ ct.direction)
    write_scan(stored, stem.with_name(f"{stem.name}{'-Pelvis-Thighs' * crop}.nrrd"))
    numbers = {"Femur_L": 1, "Hip_R": 2, "Sacrum": 5, "Hip_L": 7}
    array = np.zeros(ct.array.shape, np.uint8)
    for name, box in {"Sacrum": SACRUM, "Hip_L": LEFT, "Hip_R": RIGHT}.items():
        array[shell(inside(ct, box))] = numbers[name]
    if layers:
        array = np.stack([np.where(array == 5, 0, array), np.where(array == 5, 2, 0).astype(np.uint8)], -1)
        numbers["Sacrum"] = 2
    image = SimpleITK.GetImageFromArray(array, isVector=layers)
    image.CopyInformation(as_image(ct))
    for index, (name, number) in enumerate(numbers.items()):
        layer = int(layers and name == "Sacrum")
        for key, value in (("Name", name), ("LabelValue", number), ("Layer", layer)):
            image.SetMetaData(f"Segment{index}_{key}", str(value))
    SimpleITK.WriteImage(image, f"{stem}-Pelvis-Thighs_Reconstruction.seg.nrrd", True)
    (stem.parents[1] / "Models").mkdir()
    return f"vsd_{patient}"


def ctpelvic1k(root, ct, key="dataset6_CLINIC_0001", image=None, swapped=False):
    """Images and masks in folders of their own; 4 is the lumbar spine. An ``image`` of another collection
    has such company as it has there."""
    write_volume(ct, root / (image or f"CTPelvic1K_dataset6_data/{key}_data.nii.gz"))
    for other in ("labelsTr/colon_001", "case_00014/segmentation", "case_00015/imaging", "img0002",
                  "img00010") if image else ():
        write_volume(scan(shift=(0, 0, 200)), root / "Task10_Colon" / f"{other}.nii.gz")
    left, right = (3, 2) if swapped else (2, 3)
    labels = labelled(ct, (1, SACRUM), (left, LEFT), (right, RIGHT), (4, ((-15, -20, 36), (15, 10, 48))))
    write_volume(labels, root / "ipcai2021_dataset6_Anonymized" / f"{key}_mask_4label.nii.gz")
    return key


def pengwin(root, ct, number="051", part=2):
    """Fragments, some of them far from the joint."""
    write_scan(ct, root / f"PENGWIN_CT_train_images_part{part}" / f"{number}.mha")
    lower_left, behind_right = ((25, -24, -18), (36, 30, 0)), ((-36, 6, -30), (-25, 24, 18))
    labels = labelled(ct, (1, SACRUM), (10, UPPER), (11, LEFT), (20, lower_left), (21, RIGHT),
                      (30, behind_right))
    write_scan(labels, root / "PENGWIN_CT_train_labels" / f"{number}.mha")
    return f"pengwin_{number}"


LAYOUTS = {"totalsegmentator": totalsegmentator, "vsd": vsd, "ctpelvic1k": ctpelvic1k, "pengwin": pengwin}
TERMS = {"totalsegmentator": ("10047263", "CC BY 4.0", "Wasserthal"),       # record, licence, author
         "vsd": ("8302448", "CC BY-NC-SA 4.0", "Fischer"),
         "ctpelvic1k": ("4588403", "see the page", "Liu"), "pengwin": ("10927452", "see the page", "Liu")}


def run(*words):
    return main(["import", *map(str, words)])


def snapshot(folder):
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def records(out):
    """What dataset.json says of each case."""
    return json.loads((out / "dataset.json").read_text())["cases"]


def check_imported(out, name, ct):
    """CT unchanged, bones solid and on their own side, mask where the boxes are both near."""
    image = read_volume(out / f"imagesTr/{name}_0000.nii.gz")
    mask, found = read_volume(out / f"labelsTr/{name}.nii.gz"), read_volume(out / f"bonesTr/{name}.nii.gz")
    assert np.array_equal(image.array, ct.array) and image.array.dtype == ct.array.dtype
    assert same_geometry(image, ct) and same_geometry(mask, ct) and same_geometry(found, ct)
    for value, box in ((1, SACRUM), (2, LEFT), (3, RIGHT)):
        assert np.array_equal(found.array == value, inside(ct, box)), f"bone {value}"
    assert np.isin(mask.array, (0, 1)).all()
    to_sacrum, to_left, to_right = (to_voxels(ct, inside(ct, box)) for box in (SACRUM, LEFT, RIGHT))
    expected = np.maximum(to_sacrum, np.minimum(to_left, to_right))     # mm to the farther of two bones
    assert (mask.array[expected < THICKNESS - 3] == 1).all()
    assert (mask.array[expected > THICKNESS + 2] == 0).all()
    for side in (world(ct)[..., 0] > 0, world(ct)[..., 0] < 0):       # the mask's edges are rounded
        assert overlap(mask.array[side], expected[side] < THICKNESS).dice > 0.85


def check_terms(out, source, name):
    """dataset.json says whose the scan is and on what terms, and the case can be trained on."""
    dataset, (number, licence, author) = json.loads((out / "dataset.json").read_text()), TERMS[source]
    assert dataset["numTraining"] == 1 and dataset["file_ending"] == ".nii.gz" and dataset["name"]
    assert dataset["channel_names"] == {"0": "CT"} and dataset["labels"] == {"background": 0, "SIJ": 1}
    assert dataset["reference"] == f"https://doi.org/10.5281/zenodo.{number}"
    assert licence in dataset["licence"] and author in dataset["citation"]
    record, case = dataset["cases"][name], load_cohort(out).cases[name]
    assert (out.parent / record["source"]).exists() and record["thickness_mm"] == 6
    assert case.patient == name.removeprefix(f"{source}_")
    assert describe(case, *read_checked(case))["target_ml"] > 10


OTHER_NAMES = {
    "dataset1_img0001": "RawData/Training/img/img0001.nii.gz",
    "dataset3_colon_001": "Task10_Colon/imagesTr/colon_001.nii.gz",
    "dataset4_case_00014": "kits19/case_00014/imaging.nii.gz",
    "dataset5_0507688_Image": "RawData/Testing/img/0507688-Image.nii.gz",
    "CLINIC_metal_0000": "CTPelvic1K_dataset7_data/dataset7_CLINIC_metal_0000_data.nii.gz"}
"""Of the CTs that CTPelvic1K labels: the mask's name, and that of the CT in its own collection."""


@pytest.mark.parametrize("source, options, direction, note", [
    *((source, {}, direction, "") for source in LAYOUTS for direction in DIRECTIONS),
    *(("ctpelvic1k", {"key": key, "image": image}, "LPS", "") for key, image in OTHER_NAMES.items()),
    *(("ctpelvic1k", {"swapped": True}, direction, "left and right hip named the other way round, told apart "
       "by position") for direction in DIRECTIONS),
    ("vsd", {"crop": True}, "LPS", ""), ("vsd", {"crop": True, "layers": True}, "LPS", ""),
    ("vsd", {"upside_down": True}, "oblique", "stored upside down, turned as its segmentation is")])
def test_every_layout_becomes_the_cohort_that_its_geometry_says(
        source, options, direction, note, tmp_path, capsys):
    """The cohort's folder lies inside the data set's: a second import must not take it for a part of it."""
    ct = scan(DIRECTIONS[direction], shift=(0.4, -1.0, 2.0))
    name, out = LAYOUTS[source](tmp_path, ct, **options), tmp_path / "cohort"
    before = snapshot(tmp_path)
    assert run(source, tmp_path, "--out", out) == 0
    said = f"imported  {name}" + (f"  ({note})" if note else "")
    assert capsys.readouterr().out.splitlines() == [
        said, f"1 imported, 0 there before, 0 skipped: {out}",
        f"look at {out / 'pictures'}, whether the labels lie on bone"]
    assert [path.name for path in (out / "pictures").iterdir()] == [f"{name}.png"]
    assert records(out)[name]["notes"] == ([note] if note else [])
    check_imported(out, name, ct)
    check_terms(out, source, name)
    assert run(source, tmp_path, "--out", out) == 0
    assert "0 imported, 1 there before, 0 skipped" in capsys.readouterr().out
    assert {path: file for path, file in snapshot(tmp_path).items()
            if not path.is_relative_to(out)} == before, "something was written outside the cohort's folder"


def test_shells_are_filled_even_with_a_gap_but_a_canal_stays_open():
    block = np.zeros((24, 26, 28), bool)
    block[3:21, 3:23, 3:25] = True
    hollow = shell(block)
    assert hollow.sum() < 0.5 * block.sum() and np.array_equal(solid(hollow), block)
    hollow[10:12, 12:14, 3] = False                                     # a gap of 2 x 2 voxels
    assert not (solid(hollow) & ~block).any()
    assert (solid(hollow) != block).sum() <= 2 * 2 * 22                 # a channel behind it
    canal = block.copy()
    canal[:, 10:14, 10:14] = False                                            # from top to bottom
    assert np.array_equal(solid(canal), canal)


def test_a_segmentation_is_cut_and_padded_by_whole_voxels_and_never_resampled():
    ct = scan(DIRECTIONS["oblique"])
    labels = labelled(ct, (1, SACRUM), (2, LEFT), (3, RIGHT))

    def moved(array, *start, spacing=SPACING, direction=ct.direction):
        return Volume(array, spacing, tuple(labels.to_world(start)), direction)

    cut = moved(np.ascontiguousarray(labels.array[5:, :-3, 2:]), 5, 0, 2)
    expected = labels.array.copy()
    expected[:5] = expected[:, -3:] = expected[..., :2] = 0
    assert np.array_equal(onto_grid(reorient(cut, "PIR"), ct).array, expected)
    assert np.array_equal(onto_grid(moved(np.pad(labels.array, 4), -4, -4, -4), ct).array, labels.array)
    assert not onto_grid(moved(labels.array, 90, 0, 0), ct).array.any()
    for other in (moved(labels.array, 0, 0, 0.5), moved(labels.array, 0, 0, 0, spacing=(3.0, 3.0, 2.4)),
                  moved(labels.array, 0, 0, 0, direction=RAS)):
        refused(lambda other=other: onto_grid(other, ct), "another grid", "resample")


def test_a_pelvis_that_is_not_wholly_in_view_is_refused():
    low = (-35, -30, -57), (-24, 24, -45)               # its upper edge is in view, far below the joint
    for ct, sacrum, left, right, words in (
            (scan(), EMPTY, LEFT, RIGHT, "no sacrum in view"),
            (scan(), SACRUM, EMPTY, RIGHT, "no left hip in view"),
            (scan(), SACRUM, LEFT, EMPTY, "no right hip in view"),
            (scan(), SACRUM, LEFT, low, "no right sacroiliac joint in view"),
            (scan(), SACRUM, LEFT, FEMUR, "both hips lie on one side of the sacrum; check the label numbers"),
            (scan(shape=(24, 33, 51), shift=(0, 0, 34.5)), SACRUM, LEFT, RIGHT, "cut off by the first slice"),
            (scan(shape=(24, 33, 51), shift=(0, 0, -34.5)), SACRUM, LEFT, RIGHT, "cut off by the last slice"),
            (scan(shape=(39, 20, 51), shift=(0, 30, 0)), SACRUM, LEFT, RIGHT, "cut off by the first row"),
            (scan(shape=(39, 20, 51), shift=(0, -30, 0)), SACRUM, LEFT, RIGHT, "cut off by the last row")):
        labels = labelled(ct, (25, sacrum), (77, left), (78, right))
        refused(lambda labels=labels: derive_pelvis(labels, BoneNumbers()), words)


def write_on_another_grid(src):
    pengwin(src, scan())
    write_scan(scan(shift=(0, 1.5, 0)), src / "PENGWIN_CT_train_images_part2/051.mha")


def test_what_cannot_be_used_is_left_out_with_the_reason(tmp_path, capsys):
    hu = scan().array
    for source, array, right, reason in (
            ("out of view", hu, EMPTY, "no right hip in view"),
            ("with offset", (hu + 1024).clip(0), RIGHT, "not HU"),
            ("of water", hu.clip(max=40), RIGHT, "no bone")):
        totalsegmentator(tmp_path / source, scan().with_array(array), right=right)
        assert run("totalsegmentator", tmp_path / source, "--out", tmp_path / "out") == 2
        printed = capsys.readouterr()
        assert "none of 1 scans could be imported" in printed.err and printed.err.count("magunet import") == 1
        (line,) = [line for line in printed.out.splitlines() if line.startswith("skipped")]
        assert reason in line and not (tmp_path / "out").exists()


def test_labels_beside_the_bone_are_refused_each_bone_for_itself():
    """Also where marrow is no denser than muscle, in an uneven pelvis, and in slices of 5 mm."""
    for shape, spacing in (((39, 33, 51), (3.0, 3.0, 2.0)), ((24, 50, 51), (5.0, 2.0, 2.0))):
        half = (np.array(shape[::-1]) - 1) * spacing[::-1] / 2
        grid = Volume(np.zeros(shape, np.int16), spacing, tuple(np.array((5.0, 4.0, 3.0)) - half), LPS)
        labels = labelled(grid, (1, SACRUM), (2, LEFT), (3, RIGHT))
        hu = np.where(inside(grid, BODY), 40, -1000) + np.random.default_rng(3).integers(-20, 20, shape)
        for number in (1, 2, 3):
            hu[shell(labels.array == number)] = 500
        ct = grid.with_array(hu.astype(np.int16))
        assert bones.misplaced(labels, ct) == ""
        for axis in range(3):
            assert "sacrum (" in bones.misplaced(labels.with_array(np.flip(labels.array, axis)), ct), axis
            for mm in (-40, -24, -16, -8, 8, 16, 24, 40):
                moved = np.roll(labels.array, int(np.sign(mm) * np.ceil(abs(mm) / spacing[axis])), axis)
                said = bones.misplaced(labels.with_array(moved), ct)
                assert said.count(" HU denser") == 3, (axis, mm, said)
        left = np.where(labels.array == 2, 0, labels.array) | np.roll(2 * (labels.array == 2), 4, 1)
        assert bones.misplaced(labels.with_array(left.astype(np.uint8)), ct).startswith("left hip (")


def test_a_joint_too_large_cut_off_by_its_labels_or_by_one_bone_is_refused_or_noted(tmp_path):
    ct, numbers = scan(), BoneNumbers((25,), (77,), (78,))
    whole = labelled(ct, (25, SACRUM), (77, LEFT), (78, RIGHT))
    assert derive_pelvis(whole, numbers).notes == []
    lower = whole.array.copy()
    lower[19:][lower[19:] == 78] = 0
    assert "one may be cut off" in derive_pelvis(whole.with_array(lower), numbers).notes[0]
    wide = replace(whole, spacing=(24.0, *whole.spacing[1:]))
    refused(lambda: derive_pelvis(wide, numbers), "which none has", "spacing")
    half = replace(whole, array=whole.array[:20])                       # ends in the middle of a joint
    write_volume(ct, tmp_path / "ct.nii.gz")
    write_volume(half, tmp_path / "labels.nii.gz")
    case = sources.SourceCase("a", "a", tmp_path / "ct.nii.gz", (tmp_path / "labels.nii.gz",), numbers)
    refused(lambda: sources.read_case(case), "labels.nii.gz", "cut off", "of the whole CT")


TOTALSEGMENTATOR = (25, SACRUM), (26, UPPER), (77, LEFT), (78, RIGHT)
OWN_NUMBERS = (3, RIGHT), (4, SACRUM), (5, UPPER), (9, LEFT), (2, FEMUR)
ONE_FOR_BOTH_HIPS = (1, SACRUM), (2, LEFT), (2, RIGHT)


def own(folder, ct, name="ct", numbers=TOTALSEGMENTATOR, code=None):
    """A CT and the file that TotalSegmentator writes for it with --ml, in an orientation of its own."""
    labels = labelled(ct, *numbers)
    write_volume(ct, folder / f"{name}.nii.gz")
    write_volume(reorient(labels, code) if code else labels, folder / f"{name}_seg.nii.gz")
    return folder / f"{name}.nii.gz", folder / f"{name}_seg.nii.gz"


@pytest.mark.parametrize("direction, code, numbers, words", [
    *(("RAS", code, TOTALSEGMENTATOR, ()) for code in (None, "LAS", "SPL")),
    ("LPS", None, OWN_NUMBERS, ("--sacrum", 4, 5, "--left-hip", 3, "--right-hip", 9)),
    *((direction, None, ONE_FOR_BOTH_HIPS, ("--sacrum", 1, "--left-hip", 2, "--right-hip", 2))
      for direction in DIRECTIONS)])
def test_a_ct_and_its_segmentation_become_a_case(direction, code, numbers, words, tmp_path):
    ct = scan(DIRECTIONS[direction])
    image, labels = own(tmp_path / "mine", ct, "scan", numbers, code)
    assert run("labelmap", image, "--labels", labels, *words, "--out", tmp_path / "out") == 0
    check_imported(tmp_path / "out", "scan", ct)


def test_files_that_state_no_sides_are_taken_as_told_and_a_ct_in_cm_is_refused(tmp_path, capsys):
    image, labels = own(tmp_path / "mine", scan(RAS))
    words = ("labelmap", image, "--labels", labels, "--out")
    assert run(*words, tmp_path / "stated") == 0
    for path, change in itertools.product((image, labels), ("sides", "unit")):
        file, other = nibabel.load(path), path.parents[1] / change / path.name
        other.parent.mkdir(exist_ok=True)
        affine = None if change == "sides" else np.diag([0.1, 0.1, 0.1, 1]) @ file.affine
        changed = nibabel.Nifti1Image(np.asanyarray(file.dataobj), affine)
        changed.header.set_zooms(file.header.get_zooms() if affine is None else changed.header.get_zooms())
        nibabel.save(changed, other)
    words = ("labelmap", tmp_path / "sides/ct.nii.gz", "--labels", tmp_path / "sides/ct_seg.nii.gz", "--out")
    for out, options, status, says in (
            ("told", (), 2, "sides/ct.nii.gz: does not state which of its sides"),
            ("mirrored", ("--orientation", "LAS"), 2, "left and right hip lie on the wrong"),
            ("told", ("--orientation", "ras"), 0, "imported  ct\n")):
        assert run(*words, tmp_path / out, *options) == status, options
        assert says in "".join(capsys.readouterr()), options
    stated, told = (read_volume(tmp_path / out / "labelsTr/ct.nii.gz") for out in ("stated", "told"))
    assert np.array_equal(stated.array, told.array) and volume.orientation(told) == "RAS"
    assert run(*words, tmp_path / "told", "--orientation", "RAS") == 0         # nothing left to do
    assert "0 imported, 1 there before" in capsys.readouterr().out
    assert run("labelmap", tmp_path / "unit/ct.nii.gz", "--labels", tmp_path / "unit/ct_seg.nii.gz",
               "--out", tmp_path / "cm") == 2
    assert "10.2 mm wide, 9.9 mm deep and 11.7 mm high, which no CT" in capsys.readouterr().err


def test_masks_of_single_bones_will_do_and_without_one_of_s1_the_joint_ends_below_it(tmp_path):
    """As TotalSegmentator writes them, and wrote them in version 1."""
    ct, folder = scan(DIRECTIONS["RAS"]), tmp_path / "s0001"
    totalsegmentator(tmp_path, ct)
    words = (folder / "ct.nii.gz", "--labels", folder / "segmentations", "--patient", "p1", "--out")
    assert run("labelmap", *words, tmp_path / "out") == 0
    check_imported(tmp_path / "out", "p1", ct)
    (folder / "segmentations/vertebrae_S1.nii.gz").unlink()
    assert run("labelmap", *words, tmp_path / "without") == 0
    lower = read_volume(tmp_path / "without/labelsTr/p1.nii.gz").array > 0
    assert not lower[world(ct)[..., 2] > 12].any() and lower.any()


def test_folders_are_paired_by_name_and_an_nnunet_folder_needs_no_labels(tmp_path, capsys):
    cts, src = {"a": scan(), "b": scan(DIRECTIONS["oblique"])}, tmp_path / "src"
    for name, ct in cts.items():
        write_volume(ct, src / f"imagesTr/{name}_0000.nii.gz")
        write_volume(labelled(ct, *TOTALSEGMENTATOR), src / f"labelsTr/{name}.nii.gz")
    write_volume(scan(), src / "labelsTr/alone.nii.gz")
    for out, words in (("out", (src,)), ("two", (src / "imagesTr", "--labels", src / "labelsTr"))):
        assert run("labelmap", *words, "--out", tmp_path / out) == 0
        assert "skipped   alone: no CT for alone.nii.gz" in capsys.readouterr().out
        assert set(load_cohort(tmp_path / out).cases) == set(cts)
        for name, ct in cts.items():
            check_imported(tmp_path / out, name, ct)


def test_scans_of_a_patient_stay_together_never_replace_each_other_and_cannot_lead_out(tmp_path, capsys):
    def imported(index, name, patient, numbers=TOTALSEGMENTATOR):
        image, labels = own(tmp_path / f"scan{index}", scan(shift=(0, 0, 6.0 * index)), name, numbers)
        return run("labelmap", image, "--labels", labels, "--patient", patient, "--out", out)

    out = tmp_path / "deep/out"
    mask, smaller = out / "labelsTr/A_visit1.nii.gz", (*TOTALSEGMENTATOR[:3], (78, (RIGHT[0], (-24, 24, 12))))
    for index, patient in enumerate(("A", "A", "../../up & away")):
        assert imported(index, f"visit{index}", patient) == 0
    patients = {name: case.patient for name, case in load_cohort(out).cases.items()}
    assert patients == {"A_visit0": "A", "A_visit1": "A", "_.._up_away_visit2": "../../up & away"}
    assert {path.name for path in tmp_path.iterdir()} == {"deep", "scan0", "scan1", "scan2"}
    before = mask.read_bytes()
    assert imported(3, "visit1", "A", smaller) == 2 and "is there already" in capsys.readouterr().err
    assert mask.read_bytes() == before and len(records(out)) == 3
    (out / "imagesTr/A_visit1_0000.nii.gz").unlink()                                        # as it says
    assert imported(3, "visit1", "A", smaller) == 0 and mask.read_bytes() != before


def test_a_further_import_makes_what_is_missing_new_or_of_other_code_and_keeps_the_rest(
        tmp_path, monkeypatch, capsys):
    src, out = tmp_path / "src", tmp_path / "out"

    def said(*numbers):
        for number in numbers:
            pengwin(src, scan(), number)
        assert run("pengwin", src, "--out", out) == 0
        return capsys.readouterr().out

    assert "2 imported, 0 there before, 0 skipped" in said("001", "002")
    before = snapshot(out)
    (out / "labelsTr/pengwin_002.nii.gz").unlink()
    (out / "dataset.json").unlink()                                             # as an interruption leaves it
    assert "1 imported, 1 there before, 0 skipped" in said()
    after = snapshot(out)
    assert before.keys() == after.keys()
    for path, (time, content) in before.items():
        assert after[path][1] == content and (after[path][0] == time or "001" not in path.name), path
    assert "0 imported, 2 there before" in said()
    load_cohort(out)                                                            # splits it
    assert "splits.json" in said("003")
    (src / "PENGWIN_CT_train_images_part2/003.mha").write_bytes(b"ObjectType = Image\n")
    monkeypatch.setattr(sources.provenance, "code_hash", lambda *modules: "changed")
    printed = said()
    for text in ("imported  pengwin_001", "imported  pengwin_002", "skipped   pengwin_003: ", "1 skipped"):
        assert text in printed, printed
    assert snapshot(out)[out / "labelsTr/pengwin_001.nii.gz"] != after[out / "labelsTr/pengwin_001.nii.gz"]


def test_folders_of_a_data_set_may_be_links(tmp_path):
    totalsegmentator(tmp_path / "one", scan(), "s0001")
    totalsegmentator(tmp_path / "two", scan(shift=(0, 0, 6)), "s0002")
    (tmp_path / "one/s0003").symlink_to(tmp_path / "two/s0002")
    assert run("totalsegmentator", tmp_path / "one", "--out", tmp_path / "out") == 0
    assert list(records(tmp_path / "out")) == ["s0001", "s0003"]


def test_another_ct_of_the_same_name_and_ones_own_file_in_its_place_are_not_passed_over(tmp_path, capsys):
    image, labels = own(tmp_path / "mine", scan(), "a")
    words, out = ("labelmap", image, "--labels", labels, "--out", tmp_path / "out"), tmp_path / "out"
    assert run(*words) == 0 and run(*words) == 0 and "0 imported, 1 there before" in capsys.readouterr().out
    changed = scan().array.copy()
    changed[3, 4, 5] += 1                                               # the file may keep its size
    write_volume(scan().with_array(changed), image)
    assert run(*words) == 2 and "is there already, from other files" in capsys.readouterr().err
    image, labels = own(tmp_path / "mine", scan(), "b")
    (out / "imagesTr/b_0000.nii.gz").write_bytes(b"mine")
    assert run(*words[:1], image, "--labels", labels, *words[4:]) == 2
    assert "not from this import" in capsys.readouterr().err
    assert (out / "imagesTr/b_0000.nii.gz").read_bytes() == b"mine"


def test_an_import_that_was_cut_short_goes_on(tmp_path, monkeypatch):
    """No dataset.json until everything is written, and then all of it; also in a further import."""
    src, out = tmp_path / "src", tmp_path / "out"
    for names in (["pengwin_001"], ["pengwin_001", "pengwin_002"]):
        pengwin(src, scan(), names[-1].removeprefix("pengwin_"))
        stopped = Mock(wraps=volume.write_volume, side_effect=[DEFAULT, KeyboardInterrupt])
        with patch.object(volume, "write_volume", stopped):
            assert run("pengwin", src, "--out", out) == 130 and not (out / "dataset.json").exists()
        assert run("pengwin", src, "--out", out) == 0 and list(records(out)) == names
        check_imported(out, names[-1], scan())


def test_what_cannot_be_imported_is_one_line_and_changes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pengwin(tmp_path / "p", scan())
    assert run("pengwin", "p", "--out", "there") == 0
    shutil.copytree("there", "spoilt")
    Path("spoilt/import.json").write_text("{")
    Path("file").write_text("mine")
    Path("empty").mkdir()
    own(tmp_path / "mine", scan())
    for patient in ("p1", "p2"):
        write_volume(scan(), tmp_path / "twice" / patient / "ct.nii.gz")
    before = snapshot(tmp_path)
    capsys.readouterr()
    for words, said in (
            *((f"{source} mine --out out", "as it is published") for source in LAYOUTS),
            *((f"{source} nothing --out out", "no such folder") for source in LAYOUTS),
            ("pengwin p --out p", "--out must not be the data set's own folder"),
            ("pengwin p --out mine", "not from 'magunet import'"), ("pengwin p --out file", "is not empty"),
            ("labelmap mine --labels mine --out there", "holds cases of pengwin"),
            ("pengwin p --out spoilt", "damaged"), ("pengwin p --sacrum 3 --out out", "for labelmap"),
            ("pengwin p --patient me --out out", "for labelmap"),
            ("labelmap mine/ct.nii.gz --out out", "--labels"),
            ("labelmap mine/ct.nii.gz --labels mine/nothing.nii.gz --out out", "no such file"),
            ("labelmap mine/nothing.nii.gz --labels mine/ct.nii.gz --out out", "no such file"),
            ("labelmap mine --labels empty --out out", "holds no segmentations"),
            ("labelmap twice --labels mine --out out", "same name")):
        assert run(*words.split()) == 2, words
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, (words, error)
    assert snapshot(tmp_path) == before


def test_the_mask_of_a_whole_body_is_made_in_the_box_of_the_bones(monkeypatch):
    """Distances over a whole body would take minutes and gigabytes."""
    ct = scan(shape=(90, 60, 70))
    sizes, mask = [], bones.sij_mask
    monkeypatch.setattr(bones, "sij_mask", lambda *given: sizes.append(given[0].size) or mask(*given))
    found = derive_pelvis(labelled(ct, (25, SACRUM), (77, LEFT), (78, RIGHT)), BoneNumbers())
    assert sizes[0] < 0.25 * ct.array.size and same_geometry(found.mask, ct)
