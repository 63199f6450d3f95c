"""``magunet check``: every mistake has its own line, none hides another case, and sound scans pass."""

import gzip
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK
from conftest import refused
from scipy.spatial.transform import Rotation
from test_cli import call

from magunet.body import hu_problem
from magunet.cohort import load_cohort, read_checked
from magunet.volume import Volume, read_volume, reorient, write_volume

SPACING, ORIGIN = (3.0, 2.0, 2.0), (10.0, -20.0, 30.0)
NAMES = ("ana", "ben", "cem", "dora")


def pelvis(seed, shape=(14, 40, 44)):
    """A body of fat around muscle, two bones in it, and a joint between them; noise of 30 HU."""
    z, y, x = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    radius = np.hypot(x / 0.9, y / 0.7) + 0 * z
    scan = np.select([radius < 0.8, radius < 1], [50, -100], -1000)
    joint = (abs(x) < 0.08) & (abs(y) < 0.24) & (abs(z) < 0.6)
    scan = np.where((abs(x) < 0.36) & (abs(y) < 0.24) & ~joint, 600, scan)
    scan = scan + np.random.default_rng(seed).normal(0, 30, shape)
    return tuple(Volume(array, SPACING, ORIGIN) for array in (scan.astype(np.int16), joint.astype(np.uint8)))


@pytest.fixture
def root(tmp_path):
    """Four sound scans of four patients, three to train on."""
    root = tmp_path / "Kohorte 骶髂 ä"
    for seed, name in enumerate(NAMES):
        scan, mask = pelvis(seed)
        write_volume(scan, root / f"imagesTr/{name}_0000.nii.gz")
        write_volume(mask, root / f"labelsTr/{name}.nii.gz")
    (root / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "CT"}, "labels": {"background": 0, "SIJ": 1}, "numTraining": 4,
        "file_ending": ".nii.gz", "cases": {"ana": {"grade_left": 3, "grade_right": 0}}}))
    (root / "splits.json").write_text(json.dumps({"train": ["ana", "ben", "cem"], "val": ["dora"]}))
    return root


def image_path(root, name="ben"):
    return root / f"imagesTr/{name}_0000.nii.gz"


def label_path(root, name="ben"):
    return root / f"labelsTr/{name}.nii.gz"


def change(path, function):
    volume = read_volume(path)
    write_volume(volume.with_array(function(volume.array.astype(np.int32))), path)


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
    values, (*grid, target_ml, left, right, side, hu, axes, count) = (
        read_volume(image_path(root, "ana")).array, rows["ana"].split())
    assert grid == ["ana", "ana", "14", "44", "3.00", "2.00"] and float(target_ml) > 0
    assert (left, right, side, axes, count) == ("3", "0", "train", "LPS", "0")
    assert hu == f"{values.min()}..{values.max()}" and "val" in rows["dora"].split()


def at(place, value):
    def put(array):
        array = array.copy()
        array[place] = value
        return array
    return put


def padded(value):
    """Beside the slices of a field of view that was larger."""
    return at(np.s_[:, :, [*range(6), *range(-6, 0)]], value)


metal = at(np.s_[4:9, 18:22, 8:12], 30000)


def cropped(array):
    """The body's box less a little; two voxels of bowel gas are the only air."""
    return at(np.s_[5, 20, 5:7], -850)(np.where(array < -500, -100, array))


SOUND = {
    "padded -2000": padded(-2000), "padded -3024": padded(-3024), "padded -32768": padded(-32768),
    "metal": metal, "padding and metal": lambda a: metal(padded(-3024)(a)), "little air": cropped,
    "thin patient": lambda a: np.pad(a, ((0, 0), (30, 40), (30, 36)), constant_values=-1000),
    "12 bit": lambda a: a.clip(-1024, 3071),
    "noise": lambda a: a + np.random.default_rng(5).normal(0, 60, a.shape).astype(int)}


def test_what_only_looks_odd_is_sound(root, capsys):
    scan, _ = pelvis(0)
    for name, odd in SOUND.items():
        array = odd(scan.array.astype(np.int32))
        assert array.min() < -500 and not hu_problem(Volume(array, SPACING)), name
    copy(root)                                          # of ana, but for one voxel
    change(image_path(root), at((3, 20, 20), 999))
    change(image_path(root, "cem"), cropped)
    change(image_path(root, "dora"), lambda array: metal(padded(-3024)(array)))
    change(label_path(root), lambda a: np.pad(np.ones([n - 2 for n in a.shape], a.dtype), 1))
    status, _, problems, _ = check(root, capsys)
    assert status == 0 and not problems
    change(label_path(root), at(0, 1))                  # what only a person can judge, training takes
    case = load_cohort(root).cases["ben"]
    assert check(root, capsys)[0] == 2 and read_checked(case)[1].array[0].all()
    change(image_path(root), lambda a: a - 1024)
    refused(lambda: read_checked(case), "not HU")
    assert read_checked(case._replace(info={"any_values": True}))


def write_4d(path):
    array = SimpleITK.ReadImage(str(path))
    SimpleITK.WriteImage(SimpleITK.JoinSeries([array, array]), str(path))


def shear(path, qform=0, sform=1):
    """Let z lean in y by 0.01 mm a slice in the NIfTI-1 header's sform, the only grid without a qform."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<2h", content, 252, qform, sform)
    struct.pack_into("<f", content, 296 + 8, 1e-2)
    path.write_bytes(gzip.compress(content))


def copy(root, changed=lambda volume: volume, to="ben"):
    """Ana's image and mask, changed or not, as another's."""
    for path in (image_path, label_path):
        write_volume(changed(read_volume(path(root, "ana"))), path(root, to))


def moved(**grid):
    """The voxels of the mask on another grid, or other voxels on its own."""
    return lambda mask: replace(mask, **grid)


KINDS = {
    "image": (lambda root, function: change(image_path(root), function), ["imagesTr/ben_0000.nii.gz: "]),
    "image file": (lambda root, spoil: spoil(image_path(root)), ["imagesTr/ben_0000.nii.gz: "]),
    "mask": (lambda root, function: change(label_path(root), function), ["labelsTr/ben.nii.gz: "]),
    "mask file": (lambda root, spoil: spoil(label_path(root)), ["labelsTr/ben.nii.gz: "]),
    "face": (lambda root, place: change(label_path(root), at(place, 1)),
             ["labelsTr/ben.nii.gz: the mask touches ", ", so the joint may be cut off", "remove the case"]),
    "grid": (lambda root, moved: write_volume(moved(read_volume(label_path(root))), label_path(root)),
             ["labelsTr/ben.nii.gz: lies on another grid than ben_0000.nii.gz (", "resample the mask"]),
    "copy": (copy, ["same voxels as", "ana_0000.nii.gz", "ben_0000.nii.gz", "remove ben or ana"])}
"""How something is spoilt in a cohort, and what is always said of it."""
FLIPPED, TURNED = np.diag([-1.0, -1, 1]), Rotation.from_euler("z", 30, degrees=True).as_matrix()
PROBLEMS = {
    "offset": ("image", lambda a: a + 1024, "not HU", "there is no air", "offset of 1024"),
    "0 to 4095": ("image", lambda a: (a + 1024).clip(0, 4095), "no air (0 to", "offset of 1024"),
    "0 to 1": ("image", lambda a: (a + 1200) / 2000, "scaled to 0 to 1); export the CT again with"),
    "label map": ("image", lambda a: np.digitize(a, [-500, 0, 300]), "no air (0 to 3: a label map"),
    "normalised": ("image", lambda a: (a - a.mean()) / a.std(), "not HU", "normalised"),
    "offset and padding": ("image", lambda a: padded(-2000)(a + 1024), "lies near 1024",
                           "offset of 1024 was not taken off", "not HU"),
    "offset twice": ("image", lambda a: metal(a - 1024), "0% of the body", "not HU"),
    "offset twice, clipped": ("image", lambda a: (a - 1024).clip(-1024), "there is no bone", "not HU"),
    "0 to 1 and padding": ("image", lambda a: padded(-1024)((a + 1200) / 2000), "there is no bone", "not HU"),
    "truncated": ("image file", lambda path: path.write_bytes(path.read_bytes()[:500]), "export it again"),
    "NaN": ("image", lambda a: np.where(a > 500, np.nan, a), "NaN", "export it again"),
    "infinite": ("image", lambda a: np.where(a > 500, np.inf, a), "infinite"),
    "no sides": ("image file", lambda p: shear(p, 0, 0), "does not state which of its sides", "from DICOM"),
    "sheared": ("image file", shear, "not perpendicular", "resample it to a rectangular grid"),
    "mask 4D": ("mask file", write_4d, "has 4 dimensions", "give a single 3D volume"),
    "empty": ("mask", lambda a: a * 0, "is empty", "remove the case or label it"),
    "full": ("mask", lambda a: a * 0 + 1, "fills the volume", "remove the case or label it"),
    "labels": ("mask", lambda a: a * 2, "labels [0, 2]", "0 and 1 only"),
    "fractions": ("mask", lambda a: a * 0.5, "labels [0.0, 0.5]", "0 and 1 only"),
    **{name: ("face", place, name) for name, place in {
        "first slice": (0, 20, 20), "first row": (5, 0, 20), "first column": (5, 20, 0),
        "last slice": (-1, 20, 20), "last row": (5, -1, 20), "last column": (5, 20, -1)}.items()},
    "shifted": ("grid", moved(origin=tuple(np.add(ORIGIN, (0, 6, 8)))), "corners up to 10 mm apart"),
    "spacing": ("grid", moved(spacing=(3.0, 2.0, 2.1)), "corners up to 4.3 mm apart"),
    "slices": ("grid", moved(array=pelvis(1)[1].array[1:]), "(13, 40, 44) voxels against (14, 40, 44)"),
    "flipped": ("grid", moved(direction=FLIPPED), "corners up to"),
    "turned": ("grid", moved(direction=TURNED), "corners up to"),
    "far away": ("grid", moved(origin=(5000.0, 0.0, 0.0)), "corners up to 4.99e+03 mm apart"),
    "other axes": ("grid", lambda mask: reorient(mask, "RAS"), "corners up to"),
    "same": ("copy", lambda v: v), "same, turned": ("copy", lambda v: reorient(v, "RAS")),
    "same in float64": ("copy", lambda v: v.with_array(v.array.astype(np.float64))),
    "same in int32": ("copy", lambda v: v.with_array(v.array.astype(np.int32))),
    "same, turned in its header": ("copy", moved(direction=FLIPPED)),
    "same on another grid": ("copy", moved(spacing=(1.0, 1.5, 2.5), origin=(3, 4, 5)))}
"""What is wrong with ben -> its kind, what makes it so, and what is said of this one."""


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_problem_is_listed_once_with_its_file_and_its_remedy(root, capsys, name):
    kind, fault, *words = PROBLEMS[name]
    spoil, always = KINDS[kind]
    spoil(root, fault)
    status, rows, (problem,), error = check(root, capsys)
    assert status == 2 and problem.startswith("ben: ") and "worthless" not in problem
    for word in (*always, *words):
        assert word in problem, f"{word!r} not in {problem}"
    assert [row.split()[-1] for row in rows.values()] == ["0", "1", "0", "0"]
    assert error.splitlines()[-1] == f"magunet check: {root}: 1 problem in 1 of 4 cases, listed above"


def test_every_bad_case_is_listed_and_a_copy_in_train_and_val_makes_scores_worthless(root, capsys):
    change(label_path(root), lambda a: a * 0)
    change(image_path(root), lambda a: a + 1024)
    write_4d(image_path(root, "cem"))
    copy(root, to="dora")
    status, rows, problems, error = check(root, capsys)
    assert status == 2 and "4 problems in 3 of 4 cases" in error
    assert [line.split(":")[0] for line in problems] == ["ben", "ben", "cem", "dora"]
    assert [row.split()[-1] for row in rows.values()] == ["0", "2", "1", "1"]
    for word in ("ana_0000", "dora_0000", "one is in train, the other in val: a score would be worthless"):
        assert word in problems[-1]
