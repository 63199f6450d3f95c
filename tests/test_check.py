"""``magunet check``: every mistake has its own line, none hides another case, and sound scans pass."""

import gzip
import json
import struct

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_cli import call

from compendium.check import scale_problems
from magunet.cohort import load_cohort, read_checked
from magunet.volume import Volume, read_volume, reorient, write_volume
from sijphantom import phantom
from sijphantom.cohort import phantom_scan

sitk = pytest.importorskip("SimpleITK")

SPACING, ORIGIN = (3.0, 2.0, 2.0), (10.0, -20.0, 30.0)
NAMES = ("ana", "ben", "cem", "dora")


def pelvis(seed, shape=(14, 40, 44)):
    """A body of fat around muscle, two bones in it, and a joint between them; noise of 30 HU."""
    z, y, x = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    radius = np.hypot(x / 0.9, y / 0.7) + 0 * z
    scan = np.select([radius < 0.8, radius < 1], [50, -100], -1000)
    joint = (abs(x) < 0.08) & (abs(y) < 0.3) & (abs(z) < 0.6)
    scan = np.where((abs(x) < 0.4) & (abs(y) < 0.3) & ~joint, 600, scan)
    scan = scan + np.random.default_rng(seed).normal(0, 30, shape)
    return tuple(Volume(array, SPACING, ORIGIN) for array in (scan.astype(np.int16), joint.astype(np.uint8)))


@pytest.fixture
def root(tmp_path):
    """Four sound scans of four patients, three to train on."""
    for seed, name in enumerate(NAMES):
        scan, mask = pelvis(seed)
        write_volume(scan, tmp_path / f"imagesTr/{name}_0000.nii.gz")
        write_volume(mask, tmp_path / f"labelsTr/{name}.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "CT"}, "labels": {"background": 0, "SIJ": 1}, "numTraining": 4,
        "file_ending": ".nii.gz", "cases": {"ana": {"grade_left": 3, "grade_right": 0}}}))
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["ana", "ben", "cem"], "val": ["dora"]}))
    return tmp_path


def image_path(root, name="ben"):
    return root / f"imagesTr/{name}_0000.nii.gz"


def label_path(root, name="ben"):
    return root / f"labelsTr/{name}.nii.gz"


def change_image(root, change, name="ben"):
    scan = read_volume(image_path(root, name))
    write_volume(scan.with_array(change(scan.array.astype(np.int32))), image_path(root, name))


def change_label(root, change):
    mask = read_volume(label_path(root))
    write_volume(mask.with_array(change(mask.array)), label_path(root))


def shear(path, qform_code=0, lean=0.5):
    """Let z lean in y by so many mm a slice in the NIfTI-1 header's sform, the only grid without a qform."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<2h", content, 252, qform_code, 1)
    struct.pack_into("<f", content, 296 + 8, lean)
    path.write_bytes(gzip.compress(content))


def check(root, capsys):
    """Exit status, rows of the table (case -> line), lines about problems, stderr."""
    status, out, error = call(capsys, "check", root)
    lines = out.splitlines()
    rows = {line.split()[0]: line for line in lines[1:5]}
    assert list(rows) == list(NAMES), out                     # every case has its row, whatever is wrong
    assert lines[5].startswith("4 cases: 3 to train on, 1 to score")
    return status, rows, lines[6:], error


def test_a_sound_cohort_passes(root, capsys):
    status, rows, problems, error = check(root, capsys)
    assert status == 0 and problems == [] and "problem" not in error
    assert rows["ana"].split()[:6] == ["ana", "ana", "14", "44", "3.00", "2.00"]
    header = call(capsys, "check", root)[1].splitlines()[0].split()
    values, ana = read_volume(image_path(root, "ana")).array, dict(zip(header, rows["ana"].split()))
    expected = {"grade_left": "3", "grade_right": "0", "split": "train", "axes": "LPS", "problems": "0",
                "hu": f"{values.min()}..{values.max()}"}
    assert ana == ana | expected and float(ana["target_ml"]) > 0
    assert "val" in rows["dora"].split()


def padded(value):
    def change(array):
        array = array.copy()
        array[:, :, :6] = array[:, :, -6:] = value
        return array
    return change


def metal(array):
    array = array.copy()
    array[4:9, 18:22, 8:12] = 30000
    return array


def cropped(array):
    """The body's box less a little; two voxels of bowel gas are the only air."""
    array = np.where(array < -500, -100, array)
    array[5, 20, 5:7] = -850
    return array


def wide(array):
    """A thin patient in a large field of view."""
    large = np.full((14, 110, 110), -1000)
    large[:, 30:70, 30:74] = array
    return large


SOUND = {
    "padded -2000": padded(-2000), "padded -3024": padded(-3024), "padded -32768": padded(-32768),
    "metal": metal, "padding and metal": lambda a: metal(padded(-3024)(a)), "little air": cropped,
    "thin patient": wide,
    "12 bit": lambda a: a.clip(-1024, 3071),
    "noise": lambda a: a + np.random.default_rng(5).normal(0, 60, a.shape).astype(int)}


@pytest.mark.parametrize("name", SOUND)
def test_sound_scales_pass(name):
    scan, _ = pelvis(0)
    array = SOUND[name](scan.array.astype(np.int32))
    assert array.min() < -500 and not list(scale_problems("x", Volume(array, SPACING)))


@pytest.mark.parametrize("change", [padded(-3024), metal, cropped], ids=["padding", "metal", "little air"])
def test_a_sound_scan_with_padding_metal_or_little_air_passes(root, capsys, change):
    change_image(root, change)
    status, _, problems, _ = check(root, capsys)
    assert status == 0 and not problems


def test_phantoms_pass(root, capsys):
    for seed, name in enumerate(NAMES):
        scan, mask = phantom_scan(phantom.make_phantom(seed, matrix=64, slices=(36, 40)))
        write_volume(scan, image_path(root, name))
        write_volume(mask, label_path(root, name))
    status, _, problems, _ = check(root, capsys)
    assert status == 0 and not problems


def write_4d(path):
    array = sitk.ReadImage(str(path))
    sitk.WriteImage(sitk.JoinSeries([array, array]), str(path))


SCALED = {
    "offset": (lambda a: a + 1024, ["no voxel below -500 HU", "not HU", "offset of 1024", "rescale slope"]),
    "0 to 4095": (lambda a: (a + 1024).clip(0, 4095), ["not HU", "0 to", "offset of 1024"]),
    "0 to 1": (lambda a: (a + 1200) / 2000, ["not HU", "scaled to 0 to 1", "rescale slope and intercept"]),
    "label map": (lambda a: np.digitize(a, [-500, 0, 300]), ["not HU", "0 to 3: a label map"]),
    "normalised": (lambda a: (a - a.mean()) / a.std(), ["not HU", "normalised"]),
    "offset and padding": (lambda a: padded(-2000)(a + 1024), [
        "much lies near 1024", "offset of 1024 was not taken off", "rescale"]),
    "offset twice": (lambda a: metal(a - 1024), ["hardly any fat or muscle", "not HU", "rescale"]),
    "offset twice, clipped": (lambda a: (a - 1024).clip(-1024), [
        "no voxel above 200 HU", "no bone", "not HU", "rescale"]),
    "0 to 1 and padding": (lambda a: padded(-1024)((a + 1200) / 2000), [
        "no voxel above 200 HU", "no bone", "not HU", "rescale"])}


@pytest.mark.parametrize("name", SCALED)
def test_a_wrong_hu_scale_is_found(root, capsys, name):
    change, words = SCALED[name]
    change_image(root, change)
    found(root, capsys, "imagesTr/ben_0000.nii.gz", *words)


def found(root, capsys, *words, count=1):
    """The problems that are named, all of ben; every other case is sound."""
    status, rows, problems, error = check(root, capsys)
    assert status == 2 and len(problems) == count, problems
    assert all(line.startswith("ben: ") for line in problems)
    for word in words:
        assert word in " ".join(problems), f"{word!r} not in {problems}"
    assert [row.split()[-1] for row in rows.values()] == ["0", str(count), "0", "0"]
    problem = "problems" if count > 1 else "problem"
    assert error.splitlines()[-1] == f"magunet check: {root}: {count} {problem} in 1 of 4 cases, listed above"
    return problems


NOT_PERPENDICULAR = ["not perpendicular", "resample it to a rectangular grid"]
BAD_LABELS = {
    "empty": (lambda r: change_label(r, lambda a: a * 0), ["is empty", "remove the case or label it"]),
    "full": (lambda r: change_label(r, lambda a: a * 0 + 1), ["fills the volume", "remove the case"]),
    "labels": (lambda r: change_label(r, lambda a: a * 2), ["labels [0, 2]", "0 and 1 only"]),
    "4D": (lambda r: write_4d(label_path(r)), ["has 4 dimensions", "give a single 3D volume"]),
    "sheared": (lambda r: shear(label_path(r)), NOT_PERPENDICULAR)}
BAD_IMAGES = {
    "NaN": (lambda r: change_image(r, lambda a: np.where(a > 500, np.nan, a)), ["NaN", "export it again"]),
    "infinite": (lambda r: change_image(r, lambda a: np.where(a > 500, np.inf, a)), ["infinite", "export"]),
    "4D": (lambda r: write_4d(image_path(r)), ["has 4 dimensions", "give a single 3D volume"]),
    "sheared": (lambda r: shear(image_path(r)), NOT_PERPENDICULAR),
    "sheared, with a qform": (lambda r: shear(image_path(r), 1), NOT_PERPENDICULAR),
    "barely sheared": (lambda r: shear(image_path(r), lean=1e-2), NOT_PERPENDICULAR),
    "truncated": (lambda r: image_path(r).write_bytes(image_path(r).read_bytes()[:500]), ["export it again"])}


@pytest.mark.parametrize("file, name", [
    *(("labelsTr/ben.nii.gz", name) for name in BAD_LABELS),
    *(("imagesTr/ben_0000.nii.gz", name) for name in BAD_IMAGES)])
def test_a_bad_file_is_found(root, capsys, file, name):
    spoil, words = (BAD_LABELS if "labels" in file else BAD_IMAGES)[name]
    spoil(root)
    found(root, capsys, file, *words)


@pytest.mark.parametrize("face, words", [
    (np.s_[0, 20, 20], "first slice"), (np.s_[-1, 20, 20], "last slice"), (np.s_[5, 0, 20], "first row"),
    (np.s_[5, -1, 20], "last row"), (np.s_[5, 20, 0], "first column"), (np.s_[5, 20, -1], "last column")])
def test_a_mask_at_the_border_is_found(root, capsys, face, words):
    def touch(array):
        array[face] = 1
        return array
    change_label(root, touch)
    found(root, capsys, "labelsTr/ben.nii.gz", f"touches the {words}, so the joint may be cut off",
          "remove the case")


def test_a_mask_one_voxel_off_the_border_is_sound(root, capsys):
    change_label(root, lambda a: np.pad(np.ones([n - 2 for n in a.shape], a.dtype), 1))
    assert check(root, capsys)[0] == 0


TURN = Rotation.from_euler("z", 30, degrees=True).as_matrix()
OTHER_GRIDS = {
    "shifted": (lambda m: Volume(m.array, m.spacing, tuple(np.add(m.origin, (0, 6, 8)))), "to 10 mm apart"),
    "spacing": (lambda m: Volume(m.array, (3.0, 2.0, 2.1), m.origin, m.direction), "up to 4.3 mm apart"),
    "slices": (lambda m: Volume(m.array[1:], m.spacing, m.origin, m.direction), "(13, 40, 44) voxels"),
    "flipped": (lambda m: Volume(m.array, m.spacing, m.origin, np.diag([-1.0, -1, 1])), "corners up to"),
    "turned": (lambda m: Volume(m.array, m.spacing, m.origin, TURN), "corners up to"),
    "far away": (lambda m: Volume(m.array, m.spacing, (5000.0, 0.0, 0.0)), "corners up to 4.99e+03 mm apart"),
    "other axes": (lambda m: reorient(m, "RAS"), "corners up to")}


@pytest.mark.parametrize("name", OTHER_GRIDS)
def test_another_grid_is_found(root, capsys, name):
    other, words = OTHER_GRIDS[name]
    write_volume(other(read_volume(label_path(root))), label_path(root))
    found(root, capsys, "labelsTr/ben.nii.gz: lies on another grid than ben_0000.nii.gz", words, "resample")
    write_volume(pelvis(1)[1], label_path(root))
    assert check(root, capsys)[0] == 0


def copy(root, change=lambda volume: volume, source="ana", to="ben"):
    for path in (image_path, label_path):
        write_volume(change(read_volume(path(root, source))), path(root, to))


SAME = {
    "copy": lambda s: s, "float64": lambda s: s.with_array(s.array.astype(np.float64)),
    "int32": lambda s: s.with_array(s.array.astype(np.int32)), "turned": lambda s: reorient(s, "RAS"),
    "header turned": lambda s: Volume(s.array, s.spacing, s.origin, np.diag([-1.0, -1, 1])),
    "header": lambda s: Volume(s.array, (1.0, 1.5, 2.5), (3, 4, 5))}


@pytest.mark.parametrize("name", SAME)
def test_the_same_voxels_twice_are_found(root, capsys, name):
    copy(root, SAME[name])
    text, = found(root, capsys, "same voxels as", "ana_0000.nii.gz", "ben_0000.nii.gz", "remove ben or ana")
    assert "worthless" not in text


def test_the_same_voxels_in_train_and_val_are_worse(root, capsys):
    copy(root, to="dora")
    status, _, problems, error = check(root, capsys)
    assert status == 2 and len(problems) == 1 and "1 problem in 1 of 4 cases" in error
    assert "ana_0000.nii.gz" in problems[0] and "dora_0000.nii.gz" in problems[0]
    assert "one is in train, the other in val: a score would be worthless" in problems[0]


def test_scans_that_differ_in_one_voxel_are_no_duplicates(root, capsys):
    def one_voxel(array):
        array[3, 20, 20] += 1
        return array
    copy(root)
    change_image(root, one_voxel)
    assert check(root, capsys)[0] == 0


def test_every_bad_case_is_listed(root, capsys):
    change_label(root, lambda a: a * 0)
    change_image(root, lambda a: a + 1024)
    write_4d(image_path(root, "cem"))
    copy(root, to="dora")
    status, rows, problems, error = check(root, capsys)
    assert status == 2
    assert [line.split(":")[0] for line in problems] == ["ben", "ben", "cem", "dora"]
    assert [row.split()[-1] for row in rows.values()] == ["0", "2", "1", "1"]
    assert "4 problems in 3 of 4 cases" in error


def test_lists_that_contradict_themselves_stop_the_check(root, capsys):
    content = json.loads((root / "dataset.json").read_text())
    content["cases"] |= {"ben": {"patient": "p"}, "dora": {"patient": "p"}}
    (root / "dataset.json").write_text(json.dumps(content))
    status, out, error = call(capsys, "check", root)
    assert status == 2 and out == "" and "patient 'p' is in both train and val" in error


def test_training_takes_what_only_a_person_can_judge(root):
    """A mask at the border, and an odd scale that holds air, are warnings of the check."""
    def touch(array):
        array[0] = 1
        return array
    change_label(root, touch)
    change_image(root, lambda a: a - 1024)
    case = load_cohort(root).cases["ben"]
    assert read_checked(case.image, case.label)[1].array[0].all()
