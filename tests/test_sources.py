"""Import: every published layout, in miniature, becomes the cohort that its geometry says it is.

The pelvis is three boxes in patient coordinates (LPS, mm). What is expected is worked out from them, voxel
by voxel, and never from the code under test.
"""

import json
import shutil

import numpy as np
import pytest
import SimpleITK
from conftest import refused
from scans import write_scan
from scipy.spatial import KDTree

from compendium.check import describe
from compendium.cli import main
from compendium.importing import bones, sources
from compendium.importing.bones import BoneNumbers, derive_pelvis, onto_grid, solid
from magunet import volume
from magunet.cohort import load_cohort, read_checked
from magunet.target import THICKNESS
from magunet.volume import Volume, orientation, read_volume, reorient, same_geometry, write_volume

SACRUM = (-20, -30, -27), (20, 24, 24)                      # LPS mm: lowest and highest x, y, z
LEFT = (24, -24, -18), (36, 30, 30)                         # 4 mm beside it, and higher than the right
RIGHT = (-36, -30, -30), (-25, 24, 18)
UPPER = (-20, -30, 3), (20, 24, 24)                         # the part of the sacrum that is S1
BODY = (-50, -44, -60), (50, 44, 60)
SHAPE, SPACING = (39, 33, 51), (3.0, 3.0, 2.0)
LPS = np.eye(3)


def oblique():
    """A scan turned by 10 and 15 degrees, its axes flipped as in RAS."""
    a, b = np.radians([10, 15])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return about_z @ about_x @ np.diag([-1, -1, 1])


DIRECTIONS = {"LPS": LPS, "RAS": np.diag([-1.0, -1.0, 1.0]), "oblique": oblique()}


def points(grid):
    """LPS coordinates (d, h, w, 3) of all voxel centres."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.array.shape), indexing="ij")[::-1], -1)
    return np.asarray(grid.origin) + (index * grid.spacing[::-1]) @ grid.direction.T


def depth(where, box):
    """Distance in mm from points (..., 3) to a box, 0 inside."""
    low, high = np.array(box, float)
    return np.linalg.norm(np.maximum(np.maximum(low - where, where - high), 0), axis=-1)


def inside(grid, box):
    return depth(points(grid), box) == 0


def to_voxels(grid, mask):
    """Distance in mm (d, h, w) to the box that is the nearest voxel of a mask, 0 inside."""
    where = points(grid)
    nearest = where[mask][KDTree(where[mask]).query(where)[1]]
    across = np.abs((nearest - where) @ grid.direction)                     # along the grid's x, y, z
    return np.linalg.norm(np.maximum(across - np.array(grid.spacing[::-1]) / 2, 0), axis=-1)


def scan(direction=LPS, shape=SHAPE, spacing=SPACING, shift=(0.0, 0.0, 0.0)):
    """A CT in HU around the boxes, its grid centred on the sacrum or ``shift`` mm beside it."""
    half = direction @ ((np.array(shape[::-1]) - 1) * spacing[::-1] / 2)
    grid = Volume(np.zeros(shape, np.int16), spacing, tuple(shift - half), direction)
    where, noise = points(grid), np.random.default_rng(3).integers(-20, 20, shape)
    hu = np.where(depth(where, BODY) == 0, 40, -1000) + noise
    for box in (SACRUM, LEFT, RIGHT):
        hu[depth(where, box) == 0] = 400
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


# The layouts, as published -------------------------------------------------------------------------

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


def vsd(root, ct, patient="016", tag="", segmentation=None, layers=False):
    """Hollow bones in a 3D Slicer segmentation whose numbers have no order; its folder lies two deep."""
    folder = root / patient / patient / "SMIR.Lower_limb.095Y.F.CT.476"
    write_scan(ct, folder / f"SMIR.Lower_limb.095Y.F.CT.476{tag}.nrrd")
    numbers = {"Femur_L": 1, "Hip_R": 2, "Sacrum": 5, "Hip_L": 7}
    boxes = {"Sacrum": SACRUM, "Hip_L": LEFT, "Hip_R": RIGHT}
    if segmentation is None:
        array = np.zeros(ct.array.shape, np.uint8)
        for name, box in boxes.items():
            array[shell(inside(ct, box))] = numbers[name]
        segmentation = ct.with_array(array)
    array = segmentation.array
    if layers:              # the sacrum in a layer of its own, with a number that the other layer uses, too
        array = np.stack([np.where(array == 5, 0, array), np.where(array == 5, 2, 0).astype(np.uint8)], -1)
        numbers["Sacrum"] = 2
    image = SimpleITK.GetImageFromArray(array, isVector=layers)
    image.SetSpacing(segmentation.spacing[::-1])
    image.SetOrigin(segmentation.origin)
    image.SetDirection(segmentation.direction.ravel())
    for index, (name, number) in enumerate(numbers.items()):
        layer = int(layers and name == "Sacrum")
        for key, value in (("Name", name), ("LabelValue", number), ("Layer", layer)):
            image.SetMetaData(f"Segment{index}_{key}", str(value))
    path = folder / "SMIR.Lower_limb.095Y.F.CT.476-Pelvis-Thighs_Reconstruction.seg.nrrd"
    SimpleITK.WriteImage(image, str(path), True)
    (folder.parent / "Models").mkdir()
    return f"vsd_{patient}"


def ctpelvic1k(root, ct, key="dataset6_CLINIC_0001", image=None, swapped=False):
    """Images and masks in folders of their own; 4 is the lumbar spine."""
    write_volume(ct, root / (image or f"CTPelvic1K_dataset6_data/{key}_data.nii.gz"))
    lumbar = (-15, -20, 36), (15, 10, 48)
    sides = (3, 2) if swapped else (2, 3)
    labels = labelled(ct, (1, SACRUM), (sides[0], LEFT), (sides[1], RIGHT), (4, lumbar))
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


def run(*words):
    return main(["import", *map(str, words)])


# What must come out --------------------------------------------------------------------------------

def check_imported(out, name, ct):
    """CT unchanged, bones solid and on their own side, mask where the boxes are both near."""
    image = read_volume(out / f"imagesTr/{name}_0000.nii.gz")
    mask, found = read_volume(out / f"labelsTr/{name}.nii.gz"), read_volume(out / f"bonesTr/{name}.nii.gz")
    assert np.array_equal(image.array, ct.array) and image.array.dtype == ct.array.dtype
    assert same_geometry(image, ct) and same_geometry(mask, ct) and same_geometry(found, ct)
    where = points(ct)
    for value, box in ((1, SACRUM), (2, LEFT), (3, RIGHT)):
        assert np.array_equal(found.array == value, inside(ct, box)), f"bone {value}"
    assert np.isin(mask.array, (0, 1)).all()
    to_sacrum, to_left, to_right = (to_voxels(ct, inside(ct, box)) for box in (SACRUM, LEFT, RIGHT))
    expected = np.maximum(to_sacrum, np.minimum(to_left, to_right))     # mm to the farther of two bones
    assert (mask.array[expected < THICKNESS - 3] == 1).all()
    assert (mask.array[expected > THICKNESS + 2] == 0).all()
    for side in (where[..., 0] > 0, where[..., 0] < 0):
        got, band = mask.array[side] > 0, expected[side] < THICKNESS    # the mask's edges are rounded
        assert 2 * (got & band).sum() / (got.sum() + band.sum()) > 0.85


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("source", LAYOUTS)
def test_every_layout_becomes_the_cohort_that_its_geometry_says(source, direction, tmp_path, capsys):
    ct = scan(DIRECTIONS[direction], shift=(0.4, -1.0, 2.0))
    name, out = LAYOUTS[source](tmp_path / "src", ct), tmp_path / "out"
    assert run(source, tmp_path / "src", "--out", out) == 0
    check_imported(out, name, ct)
    printed = capsys.readouterr().out
    assert f"imported  {name}" in printed and "1 imported, 0 there before, 0 skipped" in printed
    assert "the other way round" not in printed


@pytest.mark.parametrize("source, second, number, licence, author", [
    ("totalsegmentator", "s0002", "10047263", "CC BY 4.0", "Wasserthal"),
    ("vsd", "z001", "8302448", "CC BY-NC-SA 4.0", "Fischer"),
    ("ctpelvic1k", "dataset6_CLINIC_0002", "4588403", "see the page", "Liu"),
    ("pengwin", "002", "10927452", "see the page", "Liu")])
def test_dataset_json_names_terms_source_and_patient_and_the_cohort_is_valid(
        source, second, number, licence, author, tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    names = [LAYOUTS[source](src, scan()), LAYOUTS[source](src, scan(), second)]
    assert run(source, src, "--out", out) == 0
    dataset = json.loads((out / "dataset.json").read_text())
    assert dataset["numTraining"] == 2 and dataset["file_ending"] == ".nii.gz" and dataset["name"]
    assert dataset["channel_names"] == {"0": "CT"} and dataset["labels"] == {"background": 0, "SIJ": 1}
    assert dataset["reference"] == f"https://doi.org/10.5281/zenodo.{number}"
    assert licence in dataset["licence"] and author in dataset["citation"]
    cohort = load_cohort(out)
    assert sorted(cohort.cases) == sorted(names) == sorted(dataset["cases"])
    assert len({case.patient for case in cohort.cases.values()}) == 2
    for name, case in cohort.cases.items():
        record = dataset["cases"][name]
        assert describe(case, *read_checked(case.image, case.label))["target_ml"] > 10
        assert (src / record["source"]).exists() and record["thickness_mm"] == 6


# The awkward ones ----------------------------------------------------------------------------------

@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("swapped", [False, True])
def test_left_and_right_are_told_by_position_and_a_swap_is_said(swapped, direction, tmp_path, capsys):
    ct = scan(DIRECTIONS[direction])
    name = ctpelvic1k(tmp_path / "src", ct, swapped=swapped)
    assert run("ctpelvic1k", tmp_path / "src", "--out", tmp_path / "out") == 0
    check_imported(tmp_path / "out", name, ct)
    assert ("named the other way round" in capsys.readouterr().out) == swapped
    assert bool(json.loads((tmp_path / "out/dataset.json").read_text())["cases"][name]["notes"]) == swapped


def test_the_joint_beside_s1_counts_although_s1_is_not_in_the_sacrums_mask(tmp_path):
    """The joint reaches as high as S1, which only the mask of its own shows."""
    ct = scan()
    totalsegmentator(tmp_path / "src", ct)
    assert run("totalsegmentator", tmp_path / "src", "--out", tmp_path / "out") == 0
    mask = read_volume(tmp_path / "out/labelsTr/s0001.nii.gz").array > 0
    assert mask[points(ct)[..., 2] > 12].sum() > 100
    (tmp_path / "src/s0001/segmentations/vertebrae_S1.nii.gz").unlink()          # as in version 1
    assert run("totalsegmentator", tmp_path / "src", "--out", tmp_path / "without") == 0
    lower = read_volume(tmp_path / "without/labelsTr/s0001.nii.gz").array > 0
    assert not lower[points(ct)[..., 2] > 12].any() and lower.any()


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


@pytest.mark.parametrize("layers", [False, True])
def test_vsd_scans_with_a_crop_of_their_own_and_in_layers(layers, tmp_path):
    ct = scan()
    name = vsd(tmp_path / "src", ct, "z050", tag="-Pelvis-Thighs", layers=layers)
    folder = tmp_path / "src/z050/z050/SMIR.Lower_limb.095Y.F.CT.476"
    for ending in (".nii", ".nrrd"):                                            # the whole body
        write_scan(scan(shape=(60, 33, 51)), folder / f"{folder.name}{ending}")
    assert run("vsd", tmp_path / "src", "--out", tmp_path / "out") == 0
    check_imported(tmp_path / "out", name, ct)


def test_a_vsd_scan_stored_upside_down_is_turned_as_its_segmentation_is(tmp_path, capsys):
    """The header of the CT is half a turn off; the voxels of both lie in the same order."""
    half_turn = np.diag([-1.0, 1.0, -1.0])
    upright = scan(half_turn, shift=(0.4, -1.0, 2.0))
    stored = Volume(upright.array, SPACING, tuple(half_turn @ upright.origin), LPS)
    array = np.zeros(upright.array.shape, np.uint8)
    for number, box in ((5, SACRUM), (7, LEFT), (2, RIGHT)):
        array[shell(inside(upright, box))] = number
    name = vsd(tmp_path / "src", stored, "z001", segmentation=upright.with_array(array))
    assert run("vsd", tmp_path / "src", "--out", tmp_path / "out") == 0
    check_imported(tmp_path / "out", name, upright)
    assert "stored upside down" in capsys.readouterr().out


def test_a_segmentation_with_more_and_fewer_slices_is_cut_and_padded_by_whole_voxels():
    ct = scan(oblique())
    labels = labelled(ct, (1, SACRUM), (2, LEFT), (3, RIGHT))
    def moved(array, *start):
        return Volume(array, SPACING, tuple(labels.to_world(start)), ct.direction)
    cut = moved(np.ascontiguousarray(labels.array[5:, :-3, 2:]), 5, 0, 2)
    expected = labels.array.copy()
    expected[:5] = expected[:, -3:] = expected[..., :2] = 0
    assert np.array_equal(onto_grid(reorient(cut, "PIR"), ct).array, expected)
    assert np.array_equal(onto_grid(moved(np.pad(labels.array, 4), -4, -4, -4), ct).array, labels.array)
    assert not onto_grid(moved(labels.array, 90, 0, 0), ct).array.any()


def test_another_grid_is_refused_and_never_resampled():
    ct = scan()
    labels = labelled(ct, (1, SACRUM), (2, LEFT), (3, RIGHT))
    for spacing, origin, direction in (
            (SPACING, tuple(labels.to_world((0, 0, 0.5))), LPS), ((3.0, 3.0, 2.4), labels.origin, LPS),
            (SPACING, labels.origin, oblique() @ np.diag([-1, -1, 1]))):
        other = Volume(labels.array, spacing, origin, direction)
        refused(lambda other=other: onto_grid(other, ct), "another grid", "resample")


@pytest.mark.parametrize("dataset, key, image", [
    (1, "img0001", "RawData/Training/img/img0001.nii.gz"),
    (3, "colon_001", "Task10_Colon/imagesTr/colon_001.nii.gz"),
    (4, "case_00014", "kits19/case_00014/imaging.nii.gz"),
    (5, "0507688_Image", "RawData/Testing/img/0507688-Image.nii.gz"),
    (7, "CLINIC_metal_0000", "CTPelvic1K_dataset7_data/dataset7_CLINIC_metal_0000_data.nii.gz"),
])
def test_ctpelvic1k_masks_find_the_ct_under_the_name_of_its_own_collection(dataset, key, image, tmp_path):
    src, ct = tmp_path / "src", scan()
    name = ctpelvic1k(src, ct, key if dataset == 7 else f"dataset{dataset}_{key}", image)
    other = scan(shift=(0, 0, 200))
    for distractor in ("labelsTr/colon_001", "case_00014/segmentation", "case_00015/imaging", "img0002",
                       "img00010"):
        write_volume(other, src / "Task10_Colon" / f"{distractor}.nii.gz")
    assert run("ctpelvic1k", src, "--out", tmp_path / "out") == 0
    check_imported(tmp_path / "out", name, ct)


# What is left out, and says so ---------------------------------------------------------------------

EMPTY = (500, 500, 500), (501, 501, 501)
LOW = (-35, -30, -57), (-24, 24, -45)
"""Its upper edge is in view, far below the joint."""


def write_on_another_grid(src):
    ct, path = scan(), src / "PENGWIN_CT_train_labels/051.mha"
    pengwin(src, ct)
    write_scan(Volume(read_volume(path).array, SPACING, tuple(ct.to_world((0, 0.5, 0))), LPS), path)


def write_without_ct(src):
    ctpelvic1k(src, scan(), "dataset2_1.3.6.1_3_325")
    shutil.rmtree(src / "CTPelvic1K_dataset6_data")


def changed(change):
    return lambda src: ctpelvic1k(src, scan().with_array(change(scan().array).astype(np.int16)))


def without(**boxes):
    return lambda src: totalsegmentator(src, scan(), **boxes)


def shifted(shape, shift):
    return lambda src: totalsegmentator(src, scan(shape=shape, shift=shift))


@pytest.mark.parametrize("source, write, reason", [
    ("totalsegmentator", without(sacrum=EMPTY), "no sacrum in view"),
    ("totalsegmentator", without(left=EMPTY), "no left hip in view"),
    ("totalsegmentator", without(right=EMPTY), "no right hip in view"),
    ("totalsegmentator", without(right=LOW), "no right sacroiliac joint in view"),
    ("totalsegmentator", shifted((24, 33, 51), (0, 0, 34.5)), "cut off by the first slice"),
    ("totalsegmentator", shifted((24, 33, 51), (0, 0, -34.5)), "cut off by the last slice"),
    ("totalsegmentator", shifted((39, 20, 51), (0, 30, 0)), "cut off by the first row"),
    ("totalsegmentator", shifted((39, 20, 51), (0, -30, 0)), "cut off by the last row"),
    ("ctpelvic1k", changed(lambda hu: (hu + 1024).clip(0)), "not HU"),
    ("ctpelvic1k", changed(lambda hu: np.where(hu > 300, 40, hu)), "do not lie on bone"),
    ("ctpelvic1k", write_without_ct, "no CT for dataset2_1.3.6.1_3_325_mask_4label.nii.gz"),
    ("pengwin", write_on_another_grid, "another grid")])
def test_what_cannot_be_used_is_left_out_with_the_reason(source, write, reason, tmp_path, capsys):
    write(tmp_path / "src")
    assert run(source, tmp_path / "src", "--out", tmp_path / "out") == 2
    printed = capsys.readouterr()
    assert "none of 1 scans could be imported" in printed.err and printed.err.count("magunet import") == 1
    assert not (tmp_path / "out").exists()
    (line,) = [line for line in printed.out.splitlines() if line.startswith("skipped")]
    assert reason in line


def test_hips_on_one_side_of_the_sacrum_are_refused():
    ct = scan()
    femur = (40, -24, -30), (48, 10, 30)
    labels = labelled(ct, (25, SACRUM), (77, LEFT), (78, femur))
    refused(lambda: derive_pelvis(labels, BoneNumbers()), "one side", "label numbers")


def test_a_damaged_file_does_not_end_the_import(tmp_path, capsys):
    src = tmp_path / "src"
    pengwin(src, scan(), "001")
    pengwin(src, scan(), "002")
    (src / "PENGWIN_CT_train_images_part2/001.mha").write_bytes(b"ObjectType = Image\n")
    assert run("pengwin", src, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("imported  pengwin_002", "skipped   pengwin_001", "1 skipped"))
    assert list(json.loads((tmp_path / "out/dataset.json").read_text())["cases"]) == ["pengwin_002"]


@pytest.mark.parametrize("source", LAYOUTS)
def test_a_folder_with_something_else_is_refused(source, tmp_path, capsys):
    write_volume(scan(), tmp_path / "src/scan.nii.gz")
    assert run(source, tmp_path / "src", "--out", tmp_path / "out") == 2
    assert "as it is published" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert run(source, tmp_path / "nothing", "--out", tmp_path / "out") == 2
    assert "no such folder" in capsys.readouterr().err


# Any CT with a segmentation ------------------------------------------------------------------------

def own(folder, ct, name="ct", numbers=((25, SACRUM), (26, UPPER), (77, LEFT), (78, RIGHT)), code=None):
    """A CT and the file that TotalSegmentator writes for it with --ml, in an orientation of its own."""
    labels = labelled(ct, *numbers)
    write_volume(ct, folder / f"{name}.nii.gz")
    write_volume(reorient(labels, code) if code else labels, folder / f"{name}_seg.nii.gz")
    return folder / f"{name}.nii.gz", folder / f"{name}_seg.nii.gz"


TOTALSEGMENTATOR = (25, SACRUM), (26, UPPER), (77, LEFT), (78, RIGHT)
FEMUR = (40, -24, -30), (48, 10, 0)
OWN_NUMBERS = (3, RIGHT), (4, SACRUM), (5, UPPER), (9, LEFT), (2, FEMUR)
ONE_FOR_BOTH_HIPS = (1, SACRUM), (2, LEFT), (2, RIGHT)


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


def test_totalsegmentators_output_of_a_mask_a_file_works_too(tmp_path):
    ct = scan(DIRECTIONS["RAS"])
    totalsegmentator(tmp_path, ct)
    folder = tmp_path / "s0001"
    empty = ct.with_array(np.zeros(ct.array.shape, np.uint8))
    write_volume(empty, folder / "segmentations/adrenal_gland_left.nii.gz")
    assert run("labelmap", folder / "ct.nii.gz", "--labels", folder / "segmentations", "--patient", "p1",
               "--out", tmp_path / "out") == 0
    check_imported(tmp_path / "out", "p1", ct)


def test_two_cts_of_one_name_are_not_mixed_up(tmp_path, capsys):
    for patient in ("p1", "p2"):
        write_volume(scan(), tmp_path / "src" / patient / "ct.nii.gz")
    write_volume(labelled(scan(), (25, SACRUM), (77, LEFT), (78, RIGHT)), tmp_path / "labels/ct.nii.gz")
    assert run("labelmap", tmp_path / "src", "--labels", tmp_path / "labels", "--out", tmp_path / "out") == 2
    assert "same name" in capsys.readouterr().err


def test_folders_are_paired_by_name_and_an_nnunet_folder_needs_no_labels(tmp_path, capsys):
    cts = {"a": scan(), "b": scan(oblique())}
    for name, ct in cts.items():
        write_volume(ct, tmp_path / f"src/imagesTr/{name}_0000.nii.gz")
        labels = labelled(ct, (25, SACRUM), (77, LEFT), (78, RIGHT))
        write_volume(labels, tmp_path / f"src/labelsTr/{name}.nii.gz")
    write_volume(scan(), tmp_path / "src/labelsTr/alone.nii.gz")
    assert run("labelmap", tmp_path / "src", "--out", tmp_path / "out") == 0
    assert "skipped   alone: no CT for alone.nii.gz" in capsys.readouterr().out
    words = (tmp_path / "src/imagesTr", "--labels", tmp_path / "src/labelsTr", "--out", tmp_path / "two")
    assert run("labelmap", *words) == 0
    for name, ct in cts.items():
        check_imported(tmp_path / "out", name, ct)
        check_imported(tmp_path / "two", name, ct)
    assert set(load_cohort(tmp_path / "two").cases) == {"a", "b"}


def test_scans_of_one_patient_come_one_by_one_and_stay_together(tmp_path):
    for index, patient in enumerate("AAB"):
        image, labels = own(tmp_path / f"scan{index}", scan(shift=(0, 0, 6.0 * index)), f"visit{index}")
        words = ("--labels", labels, "--patient", patient, "--out", tmp_path / "out")
        assert run("labelmap", image, *words) == 0
    patients = {name: case.patient for name, case in load_cohort(tmp_path / "out").cases.items()}
    assert patients == {"A_visit0": "A", "A_visit1": "A", "B_visit2": "B"}


def test_another_scan_of_the_same_name_never_replaces_the_first(tmp_path, capsys):
    first = own(tmp_path / "p1", scan())
    hip = (-36, -30, -30), (-24, 24, 12)
    second = own(tmp_path / "p2", scan(), numbers=((25, SACRUM), (77, LEFT), (78, hip)))
    assert run("labelmap", first[0], "--labels", first[1], "--out", tmp_path / "out") == 0
    before = (tmp_path / "out/labelsTr/ct.nii.gz").read_bytes()
    assert run("labelmap", second[0], "--labels", second[1], "--out", tmp_path / "out") == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "out/labelsTr/ct.nii.gz").read_bytes() == before
    assert len(json.loads((tmp_path / "out/dataset.json").read_text())["cases"]) == 1
    (tmp_path / "out/imagesTr/ct_0000.nii.gz").unlink()                                  # as the message says
    assert run("labelmap", second[0], "--labels", second[1], "--out", tmp_path / "out") == 0
    assert (tmp_path / "out/labelsTr/ct.nii.gz").read_bytes() != before


@pytest.mark.parametrize("words, said", [
    (("labelmap", "src/ct.nii.gz"), "--labels"),
    (("labelmap", "src/ct.nii.gz", "--labels", "src/nothing.nii.gz"), "no such file"),
    (("labelmap", "src/nothing.nii.gz", "--labels", "src/ct.nii.gz"), "no such file"),
    (("labelmap", "src", "--labels", "empty"), "holds no segmentations"),
    (("pengwin", "src", "--sacrum", "3"), "for labelmap"),
    (("pengwin", "src", "--patient", "me"), "for labelmap"),
])
def test_wrong_use_is_one_line(words, said, tmp_path, capsys, monkeypatch):
    own(tmp_path / "src", scan())
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(*words, "--out", "out") == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1 and not (tmp_path / "out").exists()


# The folder it goes into ---------------------------------------------------------------------------

def snapshot(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_finished_cases_are_kept_and_missing_ones_made_again(tmp_path, capsys):
    src, out = tmp_path / "src", tmp_path / "out"
    pengwin(src, scan(), "001")
    pengwin(src, scan(), "002")
    assert run("pengwin", src, "--out", out) == 0
    capsys.readouterr()
    before = snapshot(out)
    (out / "labelsTr/pengwin_002.nii.gz").unlink()
    (out / "dataset.json").unlink()                                             # as an interruption leaves it
    assert run("pengwin", src, "--out", out) == 0
    assert "1 imported, 1 there before, 0 skipped" in capsys.readouterr().out
    after = snapshot(out)
    assert {path: content for path, (_, content) in after.items()} == {
        path: content for path, (_, content) in before.items()}
    assert {path.name for path in before if "001" in path.name and after[path] != before[path]} == set()
    assert run("pengwin", src, "--out", out) == 0
    assert "0 imported, 2 there before" in capsys.readouterr().out


@pytest.mark.parametrize("first", [False, True], ids=["in its second import", "in its first import"])
def test_an_import_that_was_cut_short_goes_on(first, tmp_path, monkeypatch):
    """No dataset.json until everything is written, and then all of it."""
    src, out = tmp_path / "src", tmp_path / "out"
    pengwin(src, scan(), "001")
    if not first:
        assert run("pengwin", src, "--out", out) == 0
        pengwin(src, scan(), "002")
    write, calls = volume.write_volume, []

    def stop(content, path):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(content, path)

    monkeypatch.setattr(volume, "write_volume", stop)
    assert run("pengwin", src, "--out", out) == 130
    assert not (out / "dataset.json").exists()
    monkeypatch.setattr(volume, "write_volume", write)
    assert run("pengwin", src, "--out", out) == 0
    names = ["pengwin_001"] if first else ["pengwin_001", "pengwin_002"]
    assert list(json.loads((out / "dataset.json").read_text())["cases"]) == names
    check_imported(out, names[-1], scan())


def test_a_change_of_the_code_that_makes_masks_makes_them_anew(tmp_path, monkeypatch, capsys):
    name, mask = pengwin(tmp_path / "src", scan()), tmp_path / "out/labelsTr/pengwin_051.nii.gz"
    assert run("pengwin", tmp_path / "src", "--out", tmp_path / "out") == 0
    capsys.readouterr()
    before = mask.stat().st_mtime_ns
    monkeypatch.setattr(sources.provenance, "code_hash", lambda *modules: "changed")
    assert run("pengwin", tmp_path / "src", "--out", tmp_path / "out") == 0
    assert f"imported  {name}" in capsys.readouterr().out and mask.stat().st_mtime_ns > before


def test_two_sources_do_not_mix_and_a_folder_of_others_is_left_alone(tmp_path, capsys):
    pengwin(tmp_path / "p", scan())
    ctpelvic1k(tmp_path / "c", scan())
    assert run("pengwin", tmp_path / "p", "--out", tmp_path / "out") == 0
    before = snapshot(tmp_path / "out")
    assert run("ctpelvic1k", tmp_path / "c", "--out", tmp_path / "out") == 2
    assert "holds cases of pengwin" in capsys.readouterr().err and snapshot(tmp_path / "out") == before
    sources_before = snapshot(tmp_path / "c")
    assert run("ctpelvic1k", tmp_path / "c", "--out", tmp_path / "c") == 2      # into the data set itself
    assert "--out must not be the data set's own folder" in capsys.readouterr().err
    assert run("pengwin", tmp_path / "p", "--out", tmp_path / "c") == 2         # into somebody else's folder
    assert "not from 'magunet import'" in capsys.readouterr().err
    assert snapshot(tmp_path / "c") == sources_before
    (tmp_path / "file").write_text("mine")
    assert run("pengwin", tmp_path / "p", "--out", tmp_path / "file") == 2
    (tmp_path / "out/import.json").write_text("{")
    assert run("pengwin", tmp_path / "p", "--out", tmp_path / "out") == 2
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize("source", LAYOUTS)
def test_nothing_is_written_outside_the_folder_and_nothing_of_it_read_again(source, tmp_path, capsys):
    """The cohort's folder lies inside the data set's: a second import must not take it for a part of it."""
    LAYOUTS[source](tmp_path, scan())
    before, out = snapshot(tmp_path), tmp_path / "cohort"
    for there in (0, 1):
        assert run(source, tmp_path, "--out", out) == 0
        assert f"{1 - there} imported, {there} there before, 0 skipped" in capsys.readouterr().out
    assert {path for path in snapshot(tmp_path) if not path.is_relative_to(out)} == set(before)
    assert {path: content for path, content in snapshot(tmp_path).items() if path in before} == before


def test_a_patients_name_cannot_lead_out_of_the_folder(tmp_path):
    image, labels = own(tmp_path / "mine", scan())
    words = ("--labels", labels, "--patient", "../../up & away", "--out", tmp_path / "deep/out")
    assert run("labelmap", image, *words) == 0
    (name,) = json.loads((tmp_path / "deep/out/dataset.json").read_text())["cases"]
    assert "/" not in name and (tmp_path / "deep/out/labelsTr" / f"{name}.nii.gz").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "deep"}


def test_new_cases_beside_an_old_split_are_pointed_out(tmp_path, capsys):
    src, out = tmp_path / "src", tmp_path / "out"
    pengwin(src, scan(), "001")
    pengwin(src, scan(), "002")
    assert run("pengwin", src, "--out", out) == 0
    load_cohort(out)
    pengwin(src, scan(), "003")
    capsys.readouterr()
    assert run("pengwin", src, "--out", out) == 0
    assert "splits.json" in capsys.readouterr().out


def test_the_mask_of_a_whole_body_is_made_in_the_box_of_the_bones(monkeypatch):
    """Distances over a whole body would take minutes and gigabytes."""
    ct = scan(shape=(150, 80, 90))
    sizes, mask = [], bones.sij_mask
    monkeypatch.setattr(bones, "sij_mask", lambda *given: sizes.append(given[0].size) or mask(*given))
    found = derive_pelvis(labelled(ct, (25, SACRUM), (77, LEFT), (78, RIGHT)), BoneNumbers())
    assert sizes[0] < 0.1 * ct.array.size and found.mask.array.shape == ct.array.shape
    assert orientation(found.mask) == "LPS" and inside(ct, SACRUM).sum() == (found.bones.array == 1).sum()
