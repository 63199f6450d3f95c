"""Volumes against SimpleITK, and DICOM series written here slice by slice."""

import contextlib
import itertools
import locale

import nibabel
import numpy as np
import pytest
from scans import write_scan
from scipy.spatial.transform import Rotation

from magunet.base.errors import InputError
from magunet.volume import (
    Volume,
    bounding_box,
    corners,
    orientation,
    read_volume,
    reorient,
    same_geometry,
    write_volume,
)

sitk = pytest.importorskip("SimpleITK")

SPACING, ORIGIN = (2.5, 0.7, 0.9), (-10.0, 20.0, -300.0)
TURNED = Rotation.from_euler("xyz", (20, 20, -20), degrees=True).as_matrix()
DIRECTIONS = {"LPS": np.eye(3), "RAS": np.diag([-1.0, -1.0, 1.0]), "oblique": TURNED,
              "permuted": np.eye(3)[:, [2, 0, 1]],
              "oblique coronal": TURNED @ np.diag([-1.0, 1, 1])[:, [0, 2, 1]]}
CODES = ["".join(letters) for axes in itertools.permutations(("LR", "AP", "IS"))
         for letters in itertools.product(*axes)]


def some_volume(direction=None, shape=(4, 5, 6), seed=0, dtype=np.int16):
    array = np.random.default_rng(seed).permutation(np.prod(shape)).reshape(shape).astype(dtype)
    return Volume(array, SPACING, ORIGIN, direction)


def as_sitk(volume):
    image = sitk.GetImageFromArray(volume.array)
    image.SetSpacing(volume.spacing[::-1])
    image.SetOrigin(volume.origin)
    image.SetDirection(volume.direction.ravel().tolist())
    return image


def random_rotation(seed, degrees=40):
    rng = np.random.default_rng(seed)
    axis = rng.standard_normal(3)
    return Rotation.from_rotvec(axis / np.linalg.norm(axis) * np.radians(rng.uniform(0, degrees))).as_matrix()


# Files ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_file_gives_back_what_was_written(tmp_path, ending, direction):
    volume = some_volume(direction)
    write_scan(volume, tmp_path / f"scan{ending}")
    back = read_volume(str(tmp_path / f"scan{ending}"))
    assert back.array.dtype == np.int16 and np.array_equal(back.array, volume.array)
    assert same_geometry(volume, back, 1e-3)
    assert back.spacing == pytest.approx(SPACING, rel=1e-6)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_simpleitk_reads_the_same_geometry_from_the_file(tmp_path, ending):
    volume = some_volume(TURNED)
    write_volume(volume, tmp_path / f"scan{ending}")
    image = sitk.ReadImage(str(tmp_path / f"scan{ending}"))
    for z, y, x in [(0, 0, 0), (3, 0, 5), (1, 4, 2)]:
        assert image.TransformIndexToPhysicalPoint((x, y, z)) == pytest.approx(volume.to_world((z, y, x)),
                                                                               abs=1e-3)
        assert image[x, y, z] == volume.array[z, y, x]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_number_types_survive(tmp_path, dtype):
    volume = some_volume(dtype=dtype)
    write_volume(volume, tmp_path / "scan.nii.gz")
    back = read_volume(tmp_path / "scan.nii.gz").array
    assert back.dtype == dtype and np.array_equal(back, volume.array)


def test_booleans_become_uint8(tmp_path):
    write_volume(some_volume().with_array(some_volume().array > 50), tmp_path / "mask.nii.gz")
    back = read_volume(tmp_path / "mask.nii.gz").array
    assert back.dtype == np.uint8 and np.array_equal(back, some_volume().array > 50)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_a_volume_of_one_slice_stays_3d(tmp_path, ending):
    write_scan(some_volume(shape=(1, 5, 6)), tmp_path / f"one{ending}")
    assert read_volume(tmp_path / f"one{ending}").array.shape == (1, 5, 6)


def test_writing_leaves_one_file_and_nothing_hidden(tmp_path):
    for ending in (".nii.gz", ".nii"):
        write_volume(some_volume(), tmp_path / f"scan{ending}")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scan.nii", "scan.nii.gz"]


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


def one_line(error, *words):
    """The message is one line and holds the words."""
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, f"{word!r} not in {text!r}"


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_file_is_refused(tmp_path, ending, share):
    path = tmp_path / f"scan{ending}"
    write_scan(some_volume(shape=(20, 30, 40), seed=3), path)
    content = path.read_bytes()
    path.write_bytes(content[:int(len(content) * share)])
    with pytest.raises(InputError) as error:
        read_volume(path)
    one_line(error, path.name)


def test_a_nii_file_beside_it_is_not_taken_for_the_nii_gz(tmp_path):
    write_volume(some_volume(seed=1), tmp_path / "scan.nii")
    write_volume(some_volume(seed=2), tmp_path / "scan.nii.gz")
    # refusing is fine, the other file's voxels are not
    with contextlib.suppress(InputError):
        assert np.array_equal(read_volume(tmp_path / "scan.nii.gz").array, some_volume(seed=2).array)


@pytest.mark.parametrize("name", ["slice.png", "slice.dcm", "scan", "scan.nrrd.gz"])
def test_unknown_endings_are_refused_and_known_ones_listed(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything")
    for call, ending in ((read_volume, ".mha"), (lambda path: write_volume(some_volume(), path), ".nii")):
        with pytest.raises(InputError) as error:
            call(tmp_path / name)
        one_line(error, name, ".nii.gz", ending)
    assert (tmp_path / name).read_bytes() == b"anything"


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd"])
def test_other_formats_are_read_and_not_written(tmp_path, ending):
    with pytest.raises(InputError, match=r"cannot write this format; use one of \.nii\.gz, \.nii"):
        write_volume(some_volume(), tmp_path / f"scan{ending}")
    assert not list(tmp_path.iterdir())


# Geometry ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("array, spacing, direction, words", [
    (np.zeros((2, 3, 4, 5)), (1, 1, 1), None, "4"),
    (np.zeros((3, 4)), (1, 1, 1), None, "2"),
    (np.zeros((2, 3, 4)), (1, -1, 1), None, "positive"),
    (np.zeros((2, 3, 4)), (0, 1, 1), None, "positive"),
    (np.zeros((2, 3, 4)), (1, 1, float("nan")), None, "positive"),
    (np.zeros((2, 3, 4)), (1, 1, 1), [[1, 0, 0], [0, 1, 0.2], [0, 0, 1]], "perpendicular"),
    (np.zeros((2, 3, 4)), (1, 1, 1), np.zeros((3, 3)), "perpendicular"),
])
def test_impossible_volumes_are_refused(array, spacing, direction, words):
    with pytest.raises(InputError, match=words):
        Volume(array, spacing, direction=direction)


def test_another_array_must_fit_the_grid():
    with pytest.raises(InputError, match="does not fit"):
        some_volume().with_array(np.zeros((4, 5, 7)))


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_world_positions_are_simpleitks(direction):
    volume = some_volume(direction)
    image = as_sitk(volume)
    for z, y, x in np.ndindex(volume.array.shape):
        assert volume.to_world((z, y, x)) == pytest.approx(image.TransformIndexToPhysicalPoint((x, y, z)),
                                                           abs=1e-9)


@pytest.mark.parametrize("shift, same", [(0.009, True), (0.011, False)])
def test_same_geometry_holds_up_to_the_tolerance(shift, same):
    volume = some_volume(TURNED)
    moved = Volume(volume.array, SPACING, tuple(np.add(ORIGIN, TURNED[:, 1] * shift)), TURNED)
    assert same_geometry(volume, moved) is same
    # 4 slices: 3 steps
    longer = Volume(volume.array, (SPACING[0] + shift / 3, *SPACING[1:]), ORIGIN, TURNED)
    assert same_geometry(volume, longer) is same
    turned = TURNED @ Rotation.from_rotvec([0, 0, 1e-9]).as_matrix()
    assert same_geometry(volume, Volume(volume.array, SPACING, ORIGIN, turned))


def test_grids_of_different_shape_or_turned_about_the_origin_differ():
    volume = some_volume()
    assert not same_geometry(volume, Volume(volume.array[:-1], SPACING, ORIGIN))
    turned = Rotation.from_rotvec([0, 0, 0.01]).as_matrix()
    assert not same_geometry(volume, Volume(volume.array, SPACING, ORIGIN, turned))


def test_reorient_is_simpleitks_dicom_orient():
    assert len(set(CODES)) == 48
    for code in CODES:
        for seed in range(3):
            volume = reorient(some_volume(random_rotation(seed), seed=seed),
                              CODES[(CODES.index(code) * 7 + seed) % 48])
            ours, theirs = reorient(volume, code), sitk.DICOMOrient(as_sitk(volume), code)
            assert orientation(ours) == code
            assert np.array_equal(ours.array,
                                  sitk.GetArrayFromImage(theirs)) and ours.array.flags.c_contiguous
            assert ours.spacing == pytest.approx(theirs.GetSpacing()[::-1])
            assert ours.origin == pytest.approx(theirs.GetOrigin(), abs=1e-9)
            assert ours.direction.ravel() == pytest.approx(theirs.GetDirection(), abs=1e-12)


def test_orientation_is_simpleitks():
    for code in CODES:
        volume = reorient(some_volume(random_rotation(CODES.index(code))), code)
        direction = volume.direction.ravel().tolist()
        theirs = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction)
        assert orientation(volume) == theirs == code


def test_there_and_back_loses_nothing():
    for code in CODES:
        volume = some_volume(random_rotation(CODES.index(code) + 100))
        back = reorient(reorient(volume, code), orientation(volume))
        assert np.array_equal(back.array, volume.array) and back.spacing == volume.spacing
        assert np.array_equal(back.direction, volume.direction)
        assert back.origin == pytest.approx(volume.origin, abs=1e-9)


@pytest.mark.parametrize("code", ["RAS", "PIR", "SLA"])
def test_every_voxel_keeps_its_place_in_the_patient(code):
    volume = some_volume(DIRECTIONS["oblique coronal"])             # every value occurs once
    turned = reorient(volume, code)
    for index in np.ndindex(volume.array.shape):
        new, = np.argwhere(turned.array == volume.array[index])
        assert turned.to_world(tuple(new)) == pytest.approx(volume.to_world(index), abs=1e-9)


@pytest.mark.parametrize("code", ["", "LP", "LPSA", "LRS", "XYZ", "lps", "LLS"])
def test_wrong_codes_are_refused(code):
    with pytest.raises(InputError, match="LPS or RAS"):
        reorient(some_volume(), code)


def test_a_bounding_box_holds_the_mask_and_a_margin_within_the_array():
    mask = np.zeros((9, 10, 11), np.uint8)
    mask[2, 3:5, 4], mask[5, 6, 9] = 1, 2
    assert bounding_box(mask) == (slice(2, 6), slice(3, 7), slice(4, 10))
    assert bounding_box(mask > 0, 3) == (slice(0, 9), slice(0, 10), slice(1, 11))
    assert bounding_box(mask, (1, 0, 2)) == (slice(1, 7), slice(3, 7), slice(2, 11))


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_samples_are_linear_between_voxels_and_end_with_them(direction):
    index = np.random.default_rng(0).uniform(0, 1, (20, 3)) * (3, 4, 5)
    ramp = some_volume(direction).with_array(np.arange(120.0).reshape(4, 5, 6))          # 30 z + 6 y + x
    points = np.array([ramp.to_world(tuple(place)) for place in index])
    assert ramp.sample(points) == pytest.approx(index @ (30, 6, 1), abs=1e-3)
    beyond = np.array([[ramp.to_world((-1, 2, 2)), ramp.to_world((2, 2, 5.5))]])
    assert ramp.sample(beyond).shape == (1, 2) and np.isnan(ramp.sample(beyond)).all()
    assert (ramp.sample(beyond, -1000) == -1000).all()


# DICOM ------------------------------------------------------------------------------------------------

def hu(slices=5):
    return np.random.default_rng(4).integers(-1000, 2000, (slices, 6, 7)).astype(np.int16)


def write_slice(path, pixels, position, direction, number, tags):
    image = sitk.GetImageFromArray(pixels)
    image.SetSpacing((SPACING[2], SPACING[1]))
    values = {
        "0008|0016": "1.2.840.10008.5.1.4.1.1.2", "0008|0018": f"1.2.826.0.1.3680043.2.{number}",
        "0008|0060": "CT",
        "0020|000d": "1.2.3", "0020|000e": "1.2.3.4", "0020|0013": str(number), "0018|0050": str(SPACING[0]),
        "0020|0032": "\\".join(f"{v:.6f}" for v in position),
        "0020|0037": "\\".join(f"{v:.8f}" for v in direction[:, :2].T.ravel()),
        "0028|1052": "-1024", "0028|1053": "1"}
    for tag, value in (values | tags).items():
        if value is not None:
            image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path.with_name("new.dcm")))      # SimpleITK insists on an ending
    before = locale.setlocale(locale.LC_ALL)
    writer.Execute(image)
    # writing DICOM sets "C", and text is ASCII for all later tests
    locale.setlocale(locale.LC_ALL, before)
    path.with_name("new.dcm").rename(path)


def write_series(folder, array, direction=None, numbers=None, names=None, change=None, tags=None, step=None):
    """Slice k lies k * SPACING[0] along the normal from ORIGIN. ``change``: k -> tags of that slice alone."""
    direction = np.eye(3) if direction is None else direction
    step = direction[:, 2] * SPACING[0] if step is None else step
    folder.mkdir(parents=True, exist_ok=True)
    for k, pixels in enumerate(array):
        number = k + 1 if numbers is None else numbers[k]
        name = f"{k:03d}.dcm" if names is None else names[k]
        write_slice(folder / name, pixels, np.asarray(ORIGIN) + step * k, direction, number,
                    (tags or {}) | (change or {}).get(k, {}))
    return folder


def assert_is_the_series(volume, array, direction=None):
    direction = np.eye(3) if direction is None else direction
    assert np.array_equal(volume.array, array)
    assert volume.spacing == pytest.approx(SPACING, abs=1e-5)
    assert volume.origin == pytest.approx(ORIGIN, abs=1e-5)
    assert volume.direction == pytest.approx(direction, abs=1e-6)


@pytest.mark.parametrize("direction", [
    np.eye(3), TURNED, np.diag([-1.0, -1, 1]), np.eye(3)[:, [0, 2, 1]] * [1, -1, 1], np.eye(3)[:, [1, 2, 0]],
], ids=["axial", "oblique", "prone", "coronal", "sagittal"])
def test_a_dicom_series_lies_where_its_headers_say(tmp_path, direction):
    assert np.linalg.det(direction) == pytest.approx(1)
    write_series(tmp_path / "series", hu(), direction)
    assert_is_the_series(read_volume(tmp_path / "series"), hu(), direction)


def test_file_names_and_instance_numbers_may_disagree_with_positions(tmp_path):
    write_series(tmp_path / "series", hu(), numbers=[4, 2, 5, 1, 3], names=[f"{n}.dcm" for n in "dacbe"])
    assert_is_the_series(read_volume(tmp_path / "series"), hu())


@pytest.mark.parametrize("numbers", [range(1, 6), range(5, 0, -1)], ids=["foot to head", "head to foot"])
def test_slices_may_run_either_way(tmp_path, numbers):
    numbers = list(numbers)
    write_series(tmp_path / "series", hu(), numbers=numbers, names=[f"IM{n:04d}" for n in numbers])
    assert_is_the_series(read_volume(tmp_path / "series"), hu())


@pytest.mark.parametrize("thickness", ["7.0", None, "0"], ids=["wrong", "missing", "zero"])
def test_slice_thickness_does_not_matter(tmp_path, thickness):
    write_series(tmp_path / "series", hu(), tags={"0018|0050": thickness, "0018|0088": thickness})
    assert_is_the_series(read_volume(tmp_path / "series"), hu())


def test_the_rescale_slope_and_intercept_are_applied(tmp_path):
    write_series(tmp_path / "series", hu() // 2 * 2, tags={"0028|1052": "-1024", "0028|1053": "2"})
    for path in (tmp_path / "series").iterdir():
        assert path.read_bytes().count(b"-1024 ") == 1
        path.write_bytes(path.read_bytes().replace(b"-1024 ", b"-1000 "))
    assert np.array_equal(read_volume(tmp_path / "series").array, hu() // 2 * 2 + 24)


def test_each_slice_has_its_own_rescale(tmp_path):
    write_series(tmp_path / "series", hu(), change={2: {"0028|1052": "-1000"}, 3: {"0028|1052": "0"}})
    assert np.array_equal(read_volume(tmp_path / "series").array, hu())


def test_slices_off_by_a_little_are_taken_as_evenly_spaced(tmp_path):
    position = f"{ORIGIN[0]}\\{ORIGIN[1]}\\{ORIGIN[2] + 2 * SPACING[0] + 0.1}"
    write_series(tmp_path / "series", hu(), change={2: {"0020|0032": position}})
    assert_is_the_series(read_volume(tmp_path / "series"), hu())


def test_files_that_are_no_dicom_do_not_matter(tmp_path):
    write_series(tmp_path / "series", hu())
    (tmp_path / "series" / "README.txt").write_text("exported today")
    assert_is_the_series(read_volume(tmp_path / "series"), hu())


def test_a_dicom_series_survives_nifti(tmp_path):
    write_series(tmp_path / "series", hu(), TURNED)
    volume = read_volume(tmp_path / "series")
    write_volume(volume, tmp_path / "scan.nii.gz")
    back = read_volume(tmp_path / "scan.nii.gz")
    assert same_geometry(volume, back) and np.array_equal(back.array, volume.array)


def refused(folder, *words):
    with pytest.raises(InputError) as error:
        read_volume(folder)
    one_line(error, str(folder), *words)


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_a_missing_slice_is_refused(tmp_path, gone):
    (write_series(tmp_path / "series", hu()) / f"{gone:03d}.dcm").unlink()
    refused(tmp_path / "series", "a slice is missing", "export it completely")


@pytest.mark.parametrize("which", [0, -1])
def test_a_truncated_slice_at_the_end_is_refused(tmp_path, which):
    """GDCM leaves it out of the series without a word, and at the end no gap shows."""
    path = sorted(write_series(tmp_path / "series", hu()).glob("*.dcm"))[which]
    path.write_bytes(path.read_bytes()[:300])
    refused(tmp_path / "series", path.name, "no readable slice", "export the series again")


@pytest.mark.parametrize("tag, what", [(0x0032, "Image Position"), (0x0037, "Image Orientation")])
def test_a_slice_without_position_or_orientation_is_named(tmp_path, tag, what):
    path = write_series(tmp_path / "series", hu()) / "003.dcm"
    header = bytes([0x20, 0, tag, 0])                       # the tag as it stands in the file
    assert path.read_bytes().count(header) == 1
    path.write_bytes(path.read_bytes().replace(header, bytes([0x20, 0, tag + 1, 0])))
    refused(tmp_path / "series", "003.dcm", what, "export the series again")


def test_differing_sizes_are_refused(tmp_path):
    write_series(tmp_path / "series", hu())
    larger, top = np.zeros((8, 8), np.int16), np.add(ORIGIN, [0, 0, 4 * SPACING[0]])
    write_slice(tmp_path / "series" / "004.dcm", larger, top, np.eye(3), 5, {})
    refused(tmp_path / "series", "different image sizes", "keep one series")


def test_a_truncated_slice_is_refused(tmp_path):
    path = write_series(tmp_path / "series", hu()) / "002.dcm"
    path.write_bytes(path.read_bytes()[:-40])
    refused(tmp_path / "series")


def test_corners_are_the_centres_of_the_outermost_voxels():
    volume = Volume(np.zeros((3, 5, 9)), (4.0, 2.0, 1.5), (10.0, 20.0, 30.0))
    assert sorted(map(tuple, corners(volume))) == [(x, y, z) for x in (10.0, 22.0) for y in (20.0, 28.0)
                                                   for z in (30.0, 38.0)]


def test_half_precision_is_written_as_float32_and_compressed(tmp_path):
    array = np.zeros((20, 30, 40), np.float16)
    array[5, 6, 7] = 1.5
    write_volume(Volume(array, (1.0, 1.0, 1.0)), tmp_path / "a.nii.gz")
    again = read_volume(tmp_path / "a.nii.gz").array
    assert again.dtype == np.float32 and np.array_equal(again, array)
    assert (tmp_path / "a.nii.gz").stat().st_size < array.size
