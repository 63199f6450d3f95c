"""Volumes against SimpleITK and nibabel: files, units, places and axes."""

import itertools
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from bad_files import AXES, SCAN, packed, worded
from boxes import as_image, write_scan
from conftest import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_object import DIRECTIONS
from scipy.spatial.transform import Rotation

from magunet import volume as module
from magunet.base.nifti import FLIP
from magunet.volume import Volume, corners, orientation, read_volume, reorient, same_geometry, write_volume

SPACING, ORIGIN = (2.5, 0.7, 0.9), (-10.0, 20.0, -300.0)
TURNED = Rotation.from_euler("xyz", (20, 20, -20), degrees=True).as_matrix()
CODES = ["".join(letters) for axes in itertools.permutations(("LR", "AP", "IS"))
         for letters in itertools.product(*axes)]


def some_volume(direction=None, shape=(4, 5, 6), seed=0):
    """Every value occurs once."""
    array = np.random.default_rng(seed).permutation(np.prod(shape)).reshape(shape).astype(np.int16)
    return Volume(array, SPACING, ORIGIN, direction)


small = st.tuples(*[st.integers(1, 6)] * 3)


@st.composite
def volumes(draw, shape=small, dtypes=("int16",)):
    """Any grid, also left-handed, and voxels of which no two are alike."""
    angles, signs = st.floats(-180, 180), st.sampled_from((-1, 1))
    turned = Rotation.from_euler("xyz", draw(st.tuples(*[angles] * 3)), degrees=True).as_matrix()
    turned *= draw(st.tuples(*[signs] * 3))
    size = draw(shape)
    array = np.random.default_rng(draw(st.integers(0, 99))).permutation(np.prod(size)).reshape(size)
    return Volume(array.astype(draw(st.sampled_from(dtypes))), draw(st.tuples(*[st.floats(0.05, 12)] * 3)),
                  draw(st.tuples(*[st.floats(-2000, 2000)] * 3)), turned)


# Files ------------------------------------------------------------------------------------------------
@settings(max_examples=40)
@given(volumes(dtypes=("uint8", "int16", "uint16", "int32", "float32", "float64")),
       st.sampled_from((".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")))
def test_a_file_gives_back_any_volume_to_magunet_and_to_simpleitk(volume, ending):
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/a{ending}"
        write_scan(volume, Path(path))
        back, image = read_volume(path), SimpleITK.ReadImage(path)
    theirs = Volume(SimpleITK.GetArrayFromImage(image), image.GetSpacing()[::-1], image.GetOrigin(),
                    image.GetDirection())
    assert back.array.dtype == volume.array.dtype and np.array_equal(back.array, volume.array)
    assert same_geometry(volume, back, 1e-3) and back.spacing == pytest.approx(volume.spacing, rel=1e-6)
    assert np.array_equal(theirs.array, volume.array) and same_geometry(volume, theirs, 1e-3)


def test_the_form_that_nibabel_takes_counts_and_is_said_where_the_other_is_half_a_voxel_off(tmp_path, capsys):
    """The voxels are 2 x 2 x 3 mm."""
    path, place, width, turn = tmp_path / "a.nii", 268, 80, 264
    for qform, sform, *change, says in [
            (1, 1, place, -5, "a.nii: its qform lies up to 5 mm off its sform"), (1, 2, place, -5, "5 mm"),
            (4, 3, place, -11.01, "1.01 mm"), (1, 1, place, -10.99, ""), (0, 2, place, -5, ""),
            (2, 0, place, -5, ""), (1, 1, turn, 0.98, "mm off"), (2, 1, width, 2.019, ""),
            (0, 1, width, 2.019, "")]:
        packed((252, "2h", qform, sform), (change[0], "f", change[1]))(path)
        volume, error = read_volume(path), capsys.readouterr().err
        affine = nibabel.load(path).affine
        ends = itertools.product(*[(0, n - 1) for n in volume.array.shape[::-1]])
        expected = nibabel.affines.apply_affine(affine, sorted(ends, key=lambda end: end[::-1]))
        assert corners(volume) == pytest.approx(expected * FLIP, abs=1e-4), (qform, sform, change)
        assert error.count("note: ") == bool(says) and says in error, (qform, sform, change)


def nrrd(path, space="space: LPS", directions="(2,0,0) (0,2,0) (0,0,3)", origin="(1,2,3)"):
    header = ("NRRD0005\ntype: short\ndimension: 3\n{}\nsizes: 32 30 6\nspace directions: {}\nencoding: raw\n"
              "endian: little\nspace origin: {}\n\n")
    path.write_bytes(header.format(space, directions, origin).encode() + SCAN.array.tobytes())
    return path


def test_of_a_file_that_states_no_sides_axes_and_position_are_as_told(tmp_path):
    """By the letters of nibabel; the position is turned with the axes."""
    packed((252, "2h", 0, 0))(tmp_path / "a.nii")
    worded(f"TransformMatrix = {AXES}\n", "")(tmp_path / "a.mha")
    nrrd(tmp_path / "a.nrrd", "space dimension: 3")
    nrrd(tmp_path / "b.nrrd", "space: scanner-xyz", "(0,2,0) (2,0,0) (0,0,3)")       # as if it were P, L, S
    for name, code in itertools.product(("a.nii", "a.mha", "a.nrrd", "b.nrrd"), ("RAS", "LAS", "LPS", "SPR")):
        volume = read_volume(tmp_path / name, code)
        affine = nibabel.affines.from_matvec(FLIP[:, None] * volume.direction * volume.spacing[::-1])
        assert "".join(nibabel.aff2axcodes(affine)) == orientation(volume) == code, (name, code)
        assert np.array_equal(volume.array, SCAN.array) and volume.spacing == SCAN.spacing, (name, code)
        places = {"RAS": (-1, -2, 3), "LAS": (1, -2, 3), "LPS": (1, 2, 3), "SPR": (-3, 2, 1)}
        first = {"a.nii": (0, 0, 0), "a.mha": (0, 0, 0), "a.nrrd": places[code]}
        assert volume.origin == first.get(name, volume.origin), (name, code)
    assert read_volume(tmp_path / "b.nrrd", "LPS").origin == (2, 1, 3)
    refused(partial(read_volume, tmp_path / "a.nii", "RAX"), "a.nii", "LPS or RAS, not 'RAX'")
    assert read_volume(nrrd(tmp_path / "a.nrrd"), "LPS").origin == (1, 2, 3)
    refused(partial(read_volume, tmp_path / "a.nrrd", "RAS"), "a.nrrd: states its own orientation: LPS, not")


def test_spaces_of_nrrd_and_units_of_length_are_honoured(tmp_path):
    for (space, sign, sides, origin), (unit, mm) in itertools.product(
            [("RAS", 1, "RAS", (-1, -2, 3)), ("right-anterior-superior", 1, "RAS", (-1, -2, 3)),
             ("RAS", -1, "LPI", (-1, -2, 3)), ("LAS", 1, "LAS", (1, -2, 3)),
             ("left-posterior-superior", 1, "LPS", (1, 2, 3))],
            [(None, 1), ("mm", 1), ("cm", 10), ("m", 1000), ("um", 0.001)]):
        units = f'\nspace units: "{unit}" "{unit}" "{unit}"' if unit else ""
        steps = [f"({','.join(map(str, row))})" for row in sign * np.diag((2, 2, 3)) / mm]
        place = "({},{},{})".format(*np.divide((1, 2, 3), mm))
        volume = read_volume(nrrd(tmp_path / "a.nrrd", f"space: {space}{units}", " ".join(steps), place))
        assert volume.spacing == pytest.approx((3, 2, 2)) and orientation(volume) == sides, (space, unit)
        assert volume.origin == pytest.approx(origin), (space, unit)
    for code, mm in {0: 1, 1: 1000, 2: 1, 3: 0.001}.items():                 # of NIfTI
        packed((123, "B", code), (80, "3f", 2 / mm, 2 / mm, 3 / mm), *[
            (280 + 20 * axis, "f", step / mm) for axis, step in enumerate((-2, -2, 3))])(tmp_path / "a.nii")
        assert read_volume(tmp_path / "a.nii").spacing == pytest.approx((3, 2, 2)), code
    worded("ElementSpacing = 2 2 3", "DistanceUnits = cm\nElementSpacing = .2 .2 .3")(tmp_path / "a.mha")
    assert read_volume(tmp_path / "a.mha").spacing == pytest.approx((3, 2, 2))


def test_no_pelvis_is_smaller_than_a_crop_around_one_joint_or_larger_than_a_scanner():
    LPS, RAS, LIP = map(module.directions, ("LPS", "RAS", "LIP"))
    for shape, spacing, axes, sound in [
            ((100, 512, 512), (3, 0.7, 0.7), LPS, True), ((20, 90, 61), (1, 1, 1), LPS, True),
            ((30, 60, 40), (3, 1, 1), RAS, True), ((400, 30, 60), (1, 1, 1), LPS, True),
            ((30, 59, 40), (3, 1, 1), RAS, False), ((100, 512, 512), (0.3, 0.07, 0.07), LPS, False),
            ((60, 59, 59), (1, 1, 1), LPS, False), ((59, 60, 59), (1, 1, 1), LIP, False),
            ((2000, 500, 500), (1, 1, 1), LPS, True), ((100, 512, 512), (30, 7, 7), LPS, False),
            ((260, 300, 300), (10, 1, 1), LPS, False), ((300, 260, 300), (1, 10, 1), LIP, False),
            ((20, 45, 45), (1, 1, 1), TURNED, True)]:
        problem = module.extent_problem(Volume(np.zeros(shape, np.uint8), spacing, direction=axes))
        assert (problem is None) == sound, (shape, spacing, axes, problem)


def test_booleans_become_uint8_and_halves_float32_and_both_are_compressed(tmp_path):
    for written, expected in ((bool, np.uint8), (np.float16, np.float32)):
        array = np.zeros((20, 30, 40), written)
        array[5, 6, 7] = 1
        write_volume(Volume(array, SPACING), tmp_path / "a.nii.gz")
        back = read_volume(tmp_path / "a.nii.gz").array
        assert back.dtype == expected and np.array_equal(back, array), written
        assert (tmp_path / "a.nii.gz").stat().st_size < array.size, written


def test_a_failed_write_keeps_the_old_file_and_leaves_no_part(tmp_path, monkeypatch):
    path = tmp_path / "scan.nii.gz"
    write_volume(some_volume(), path)

    def full_disk(image, name):
        name.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(nibabel, "save", full_disk)
    with pytest.raises(OSError, match=r"scan\.nii\.gz|No space left"):
        write_volume(some_volume(seed=1), path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert np.array_equal(read_volume(path).array, some_volume().array)


def test_other_formats_are_not_written(tmp_path):
    for name in ("a.png", "a.dcm", "a", "a.nrrd.gz", "a.nrrd", "a.mha", "a.mhd"):
        (tmp_path / name).write_bytes(b"anything")
        refused(partial(write_volume, some_volume(), tmp_path / name),
                f"{name}: cannot write this format; use one of .nii.gz, .nii")
        assert (tmp_path / name).read_bytes() == b"anything", name


# Geometry ---------------------------------------------------------------------------------------------
def test_impossible_volumes_and_axes_are_refused():
    for shape, spacing, direction, words in [
            ((2, 3, 4, 5), (1, 1, 1), None, "4 dimensions"), ((3, 4), (1, 1, 1), None, "2 dimensions"),
            ((2, 3, 4), (1, -1, 1), None, "positive"), ((2, 3, 4), (0, 1, 1), None, "positive"),
            ((2, 3, 4), (1, 1, float("nan")), None, "positive"),
            ((2, 3, 4), (1, 1, 1), [[1, 0, 0], [0, 1, 0.2], [0, 0, 1]], "perpendicular"),
            ((2, 3, 4), (1, 1, 1), np.zeros((3, 3)), "perpendicular")]:
        refused(partial(Volume, np.zeros(shape), spacing, direction=direction), words)
    refused(partial(some_volume().with_array, np.zeros((4, 5, 7))), "does not fit")
    for code in ("", "LP", "LPSA", "LRS", "XYZ", "lps", "LLS"):
        refused(partial(reorient, some_volume(), code), "LPS or RAS", repr(code))


def test_same_geometry_holds_up_to_the_tolerance():
    volume = some_volume(TURNED)
    for shift, angle, same in ((0.009, 1e-9, True), (0.011, 0.01, False)):
        turned = TURNED @ Rotation.from_rotvec([0, 0, angle]).as_matrix()
        for change in (dict(origin=tuple(np.add(ORIGIN, TURNED[:, 1] * shift))), dict(direction=turned),
                       dict(spacing=(SPACING[0] + shift / 3, *SPACING[1:]))):       # 4 slices: 3 steps
            assert same_geometry(volume, replace(volume, **change)) is same, change
    assert not same_geometry(volume, replace(volume, array=volume.array[:-1]))


@settings(max_examples=40)
@given(volumes(), st.sampled_from(CODES))
def test_places_and_axes_are_simpleitks_and_other_axes_lose_nothing(volume, code):
    image, ends = as_image(volume), itertools.product(*[(0, n - 1) for n in volume.array.shape])
    places = [image.TransformIndexToPhysicalPoint(index[::-1]) for index in ends]
    assert corners(volume) == pytest.approx(np.array(places), abs=1e-9)
    ours, theirs = reorient(volume, code), SimpleITK.DICOMOrient(image, code)
    assert orientation(ours) == code and len(set(CODES)) == 48
    assert np.array_equal(ours.array, SimpleITK.GetArrayFromImage(theirs)) and ours.array.flags.c_contiguous
    assert ours.spacing == pytest.approx(theirs.GetSpacing()[::-1])
    assert ours.origin == pytest.approx(theirs.GetOrigin(), abs=1e-9)
    assert ours.direction.ravel() == pytest.approx(theirs.GetDirection(), abs=1e-12)
    cosines = SimpleITK.DICOMOrientImageFilter.GetOrientationFromDirectionCosines
    assert orientation(volume) == cosines(volume.direction.ravel().tolist())
    back = reorient(ours, orientation(volume))
    assert np.array_equal(back.array, volume.array) and back.spacing == volume.spacing
    assert np.array_equal(back.direction, volume.direction)
    assert back.origin == pytest.approx(volume.origin, abs=1e-9)


def test_samples_are_linear_between_voxels_and_end_with_them():
    index = np.random.default_rng(0).uniform(0, 1, (20, 3)) * (3, 4, 5)
    for name, direction in DIRECTIONS.items():
        ramp = some_volume(direction).with_array(np.arange(120.0).reshape(4, 5, 6))      # 30 z + 6 y + x
        points = np.array([ramp.to_world(tuple(place)) for place in index])
        assert ramp.sample(points) == pytest.approx(index @ (30, 6, 1), abs=1e-3), name
        beyond = np.array([[ramp.to_world((-1, 2, 2)), ramp.to_world((2, 2, 5.5))]])
        assert ramp.sample(beyond).shape == (1, 2) and np.isnan(ramp.sample(beyond)).all(), name
        assert (ramp.sample(beyond, -1000) == -1000).all(), name
