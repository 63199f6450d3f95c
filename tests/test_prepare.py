"""Preparation against scipy and analytic shapes: nothing moves, nothing is lost, nothing stale is read."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from magunet import prepare as module
from magunet.base import profiles, provenance
from magunet.base.errors import InputError
from magunet.prepare import (
    clip_and_scale,
    pad_to_square,
    prepare,
    prepare_case,
    resize,
    resized_shape,
    restore,
    target_slices,
)
from magunet.volume import Volume, orientation, read_volume, reorient, same_geometry, write_volume

SETTINGS = replace(profiles.load("smoke"), size=32, slice_mm=None, margin_mm=0.0)
TURNED = Rotation.from_euler("xyz", (15, -10, 20), degrees=True).as_matrix()
DIRECTIONS = {"LPS": np.eye(3), "RAS": np.diag([-1.0, -1.0, 1.0]), "oblique": TURNED,
              "permuted": np.eye(3)[:, [2, 0, 1]],
              "oblique PIR": TURNED @ (np.eye(3)[:, [1, 2, 0]] * [1, -1, -1])}


# Resizing ---------------------------------------------------------------------------------------------

def centres(n, m):
    """Positions of m voxel centres in units of n voxels when both cover the same length."""
    return (np.arange(m) + 0.5) * n / m - 0.5


def enlarged(array, shape):
    """Linear interpolation by scipy, with the outer faces in place."""
    where = np.meshgrid(*[centres(n, m) for n, m in zip(array.shape, shape)], indexing="ij")
    return map_coordinates(array.astype(np.float64), where, order=1, mode="nearest")


def shrunk_along(array, m, axis):
    """Triangle filter as wide as two new voxels, in a plain loop."""
    n = array.shape[axis]
    weight = np.array([[max(0, 1 - abs(i - centre) * m / n) for i in range(n)] for centre in centres(n, m)])
    return np.moveaxis(np.tensordot(weight / weight.sum(1, keepdims=True), array, (1, axis)), 0, axis)


@pytest.mark.parametrize("shape", [(5, 6, 7), (10, 12, 14), (7, 11, 13), (5, 9, 7), (8, 6, 7)])
def test_enlarging_is_linear_interpolation(shape):
    array = np.random.default_rng(0).normal(size=(5, 6, 7))
    assert resize(array, shape) == pytest.approx(enlarged(array, shape), abs=1e-5)


@pytest.mark.parametrize("shape", [(5, 6, 7), (10, 6, 7), (4, 5, 4), (5, 12, 7)])
def test_shrinking_is_a_triangle_filter(shape):
    array = np.random.default_rng(1).normal(size=(10, 12, 14))
    expected = array
    for axis, m in enumerate(shape):
        expected = shrunk_along(expected, m, axis)
    assert resize(array, shape) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", [(20, 24, 36), (20, 48, 24), (5, 6, 9), (5, 20, 9), (40, 6, 36)])
def test_linear_ramps_stay_in_place(shape):
    n = (10, 12, 18)
    # 0..1 from face to face
    position = np.meshgrid(*[(np.arange(k) + 0.5) / k for k in n], indexing="ij")
    new = np.meshgrid(*[(np.arange(k) + 0.5) / k for k in shape], indexing="ij")
    inside = tuple(slice(int(np.ceil(max(m / k, 1))), -int(np.ceil(max(m / k, 1)))) for k, m in zip(n, shape))
    for axis in range(3):
        assert resize(position[axis], shape)[inside] == pytest.approx(new[axis][inside], abs=1e-5)


@pytest.mark.parametrize("factor", [(2, 1, 1), (1, 2, 2), (3, 2, 4)])
def test_shrinking_keeps_constants_and_the_mean(factor):
    shape = tuple(24 // f for f in factor)
    assert resize(np.full((24, 24, 24), -123.25), shape) == pytest.approx(-123.25, abs=1e-4)
    bump = np.zeros((24, 24, 24))
    # away from the faces
    bump[9:14, 9:14, 9:14] = np.random.default_rng(2).uniform(size=(5, 5, 5))
    assert resize(bump, shape).mean() == pytest.approx(bump.mean(), rel=1e-5)


def test_resizing_is_float32_and_leaves_its_input_alone():
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)[:, ::-1]
    before = array.copy()
    assert resize(array, (3, 4, 5)).dtype == np.float32 and np.array_equal(resize(array, (3, 4, 5)), before)
    resize(array, (3, 4, 5))[:] = 0
    assert np.array_equal(array, before)


# Steps ------------------------------------------------------------------------------------------------

def test_the_window_is_scaled_linearly():
    hu = np.array([-3000, -200, -199, 150, 500, 1200, 1201, 3000], np.int16)
    scaled = clip_and_scale(hu)
    assert scaled.dtype == np.float32
    assert scaled == pytest.approx([0, 0, 1 / 1400, 0.25, 0.5, 1, 1, 1], abs=1e-7)


@pytest.mark.parametrize("margin, expected", [(0.0, (4, 7)), (1.0, (4, 7)), (2.5, (3, 8)), (5.0, (2, 9)),
                                              (99.0, (0, 12))])
def test_slices_with_the_target_and_a_margin_are_kept(margin, expected):
    mask = np.zeros((12, 5, 5), np.uint8)
    mask[4, 2, 2] = mask[6, 1, 1] = 1
    assert target_slices(mask, 2.5, margin) == expected


def test_an_empty_mask_has_no_slices_to_keep():
    with pytest.raises(InputError, match=r"empty.*remove the case or label it"):
        target_slices(np.zeros((4, 5, 5)), 1.0, 0.0)


@pytest.mark.parametrize("slice_mm, slices", [(None, 40), (3.0, 40), (2.0, 60), (6.0, 20), (7.0, 17),
                                              (1000.0, 1)])
def test_slices_are_spaced_as_asked(slice_mm, slices):
    assert resized_shape((40, 100, 100), (3.0, 0.7, 0.7), 32, slice_mm) == (slices, 32, 32)


@pytest.mark.parametrize("shape, spacing, inside", [
    ((2, 5, 9), (3.0, 1.0, 1.0), (slice(2, 7), slice(0, 9))),
    ((2, 9, 4), (1.0, 1.0, 1.5), (slice(0, 9), slice(1, 5))),
    ((2, 6, 6), (1.0, 1.0, 1.0), (slice(0, 6), slice(0, 6))),
    ((2, 4, 8), (1.0, 2.0, 1.0), (slice(0, 4), slice(0, 8)))])
def test_padding_makes_slices_square_in_mm(shape, spacing, inside):
    array = np.ones(shape, np.int16)
    padded, found = pad_to_square(array, spacing, -7)
    assert found == inside and (padded[:, found[0], found[1]] == 1).all()
    assert (padded == -7).sum() == padded.size - array.size
    assert abs(padded.shape[1] * spacing[1] - padded.shape[2] * spacing[2]) <= max(spacing[1:]) / 2


# There and back ---------------------------------------------------------------------------------------

def sphere_scan(direction=None, shape=(20, 36, 48), spacing=(3.0, 1.4, 1.1), off=(0.0, 0.0, 0.0),
                radius=14.0):
    """A ball of bone in air and its mask; the ball's centre is ``off`` mm from the middle, along the array's
    axes."""
    direction = np.eye(3) if direction is None else direction
    axes = [(np.arange(n) - (n - 1) / 2) * s - o for n, s, o in zip(shape, spacing, off)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    mask = (z**2 + y**2 + x**2 < radius**2).astype(np.uint8)
    origin = (12.0, -34.0, 56.0)
    return (Volume(np.where(mask, 800, -1000).astype(np.int16), spacing, origin, direction),
            Volume(mask, spacing, origin, direction))


def centroid(volume):
    """LPS mm of the centre of mass of the voxels."""
    index = np.argwhere(volume.array > 0)
    weight = volume.array[tuple(index.T)].astype(float)
    return volume.to_world(tuple((index * weight[:, None]).sum(0) / weight.sum()))


@pytest.mark.parametrize("slice_mm", [None, 2.0, 4.0])
@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_mask_comes_back_to_its_own_grid_and_place(direction, slice_mm):
    scan, mask = sphere_scan(direction, off=(-6.0, 3.0, 8.0))
    prepared, frame = prepare(scan, mask, replace(SETTINGS, slice_mm=slice_mm))
    back = restore(prepared.mask, frame)
    assert same_geometry(scan, back, 1e-9) and back.array.dtype == np.float32
    found = back.array > 0.5
    dice = 2 * (found & (mask.array == 1)).sum() / (found.sum() + mask.array.sum())
    # size 32 is coarser than the scan in plane
    assert dice > (0.95 if slice_mm is None else 0.92)
    moved = scan.direction.T @ (centroid(back.with_array(found)) - centroid(mask))
    assert (np.abs(moved[::-1]) / scan.spacing < 0.5).all()


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_finer_grid_loses_next_to_nothing(direction):
    scan, mask = sphere_scan(direction)
    _, frame = prepare(scan, None, replace(SETTINGS, size=64, slice_mm=1.5))
    square, _ = pad_to_square(reorient(mask, "LPS").array, reorient(mask, "LPS").spacing)
    found = restore(resize(square, frame.resized_shape), frame).array > 0.5
    assert 2 * (found & (mask.array == 1)).sum() / (found.sum() + mask.array.sum()) > 0.98


@pytest.mark.parametrize("code", ["LPS", "RAS", "SPL", "AIR"])
def test_nothing_changes_when_the_sizes_already_agree(code):
    array = np.random.default_rng(3).integers(-200, 1201, (9, 32, 32)).astype(np.int16)
    lps = Volume(array, (3.0, 1.1, 1.1), (1, 2, 3), TURNED)
    scan = reorient(lps, code)
    prepared, frame = prepare(scan, None, SETTINGS)
    assert np.array_equal(prepared.image,
                          clip_and_scale(array)) and prepared.spacing == pytest.approx(lps.spacing)
    assert restore(resize(array, array.shape), frame).array == pytest.approx(scan.array, abs=1e-3)


@pytest.mark.parametrize("slice_mm", [None, 2.0])
def test_a_mask_by_slabs_is_the_restored_probability_cut_at_the_threshold(slice_mm):
    rng = np.random.default_rng(0)
    scan = Volume(rng.normal(0, 300, (37, 50, 44)).astype(np.float32), (3.0, 1.5, 1.5))
    prepared, frame = prepare(reorient(scan, "SAR"), None, replace(SETTINGS, slice_mm=slice_mm))
    whole, mask = restore(prepared.image, frame), restore(prepared.image, frame, 0.2)
    assert mask.array.dtype == np.uint8 and same_geometry(mask, whole)
    np.testing.assert_array_equal(mask.array, whole.array > 0.2)
    assert 0 < mask.array.mean() < 1


def test_slices_that_were_not_kept_are_zero_after_restoring():
    scan, mask = sphere_scan(DIRECTIONS["RAS"], radius=8.0)
    prepared, frame = prepare(scan, mask, replace(SETTINGS, margin_mm=3.0))
    holds = np.flatnonzero(mask.array.any((1, 2)))
    assert frame.slices == (holds[0] - 1, holds[-1]
                            + 2) and len(prepared.image) == frame.slices[1] - frame.slices[0]
    back = restore(np.ones_like(prepared.image), frame).array
    assert (back[slice(*frame.slices)] == 1).all() and back.sum() == back[slice(*frame.slices)].size


@pytest.mark.parametrize("slice_mm", [None, 2.0])
def test_slices_that_are_kept_are_what_they_are_in_the_whole_scan(slice_mm):
    """Only they are resized where slices stay what they are; in `prepare` of the whole scan, all are."""
    rng, settings = np.random.default_rng(0), replace(SETTINGS, slice_mm=slice_mm)
    mask = np.zeros((20, 40, 48), np.uint8)
    mask[8:12, 15:25, 10:20] = 1
    scan = Volume(rng.normal(300, 300, mask.shape).astype(np.float32), (3.0, 1.0, 1.2))
    part, frame = prepare(scan, scan.with_array(mask), settings)
    whole, _ = prepare(scan, None, settings)
    assert frame.slices[0] > 0 and frame.slices[1] < len(whole.image)
    np.testing.assert_allclose(part.image, whole.image[slice(*frame.slices)], atol=1e-6)


def test_without_a_mask_every_slice_is_kept():
    scan, _ = sphere_scan()
    prepared, frame = prepare(scan, None, SETTINGS)
    assert prepared.mask is None and prepared.image.shape == (20, 32, 32) and frame.slices == (0, 20)


@pytest.mark.parametrize("slice_mm", [None, 2.0, 7.0])
@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_prepared_voxels_cover_the_extent_of_the_scan(direction, slice_mm):
    scan, _ = sphere_scan(direction)
    prepared, _ = prepare(scan, None, replace(SETTINGS, slice_mm=slice_mm))
    extent = np.multiply(prepared.image.shape, prepared.spacing)
    lps = reorient(scan, "LPS")
    of_scan = np.multiply(lps.array.shape, lps.spacing)
    assert extent[0] == pytest.approx(of_scan[0])
    assert extent[1:] == pytest.approx([of_scan[1:].max()] * 2,
                                       abs=max(lps.spacing)), "a square of the longer side"
    if slice_mm:
        assert prepared.spacing[0] == pytest.approx(slice_mm, rel=0.1)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_the_patients_left_back_and_head_are_at_larger_indices(direction):
    shape, spacing = (40, 44, 48), (1.0, 1.1, 0.9)
    middle = Volume(np.zeros(shape, np.uint8), spacing,
                    direction=direction).to_world(tuple((n - 1) / 2 for n in shape))
    for world, axis in ((0, 2), (1, 1), (2, 0)):                    # LPS x, y, z -> array x, y, z
        offset = np.zeros(3)
        offset[world] = 12.0                                        # mm to the left, back, head of the middle
        empty = Volume(np.zeros(shape, np.uint8), spacing, tuple(-middle), direction)
        index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
        places = (index[..., ::-1] * spacing[::-1]) @ empty.direction.T + empty.origin
        mask = empty.with_array((np.linalg.norm(places - offset, axis=-1) < 5).astype(np.uint8))
        scan = mask.with_array(np.where(mask.array, 1000, -1000).astype(np.int16))
        prepared, _ = prepare(scan, None, SETTINGS)
        place = np.argwhere(prepared.image > 0.5).mean(0) - (np.array(prepared.image.shape) - 1) / 2
        assert (np.argmax(np.abs(place * prepared.spacing)) == axis
                and place[axis] * prepared.spacing[axis] > 8)


@pytest.mark.parametrize("spoil, words", [
    (lambda s, m: (s, Volume(m.array, m.spacing, (12.0, -34.0, 57.0))), "different grids.*resample the mask"),
    (lambda s, m: (s, Volume(m.array[:-1], m.spacing, m.origin)), "different grids.*resample the mask"),
    (lambda s, m: (s, m.with_array(np.zeros_like(m.array))), "empty"),
    (lambda s, m: (s.with_array(np.where(m.array, np.nan, s.array)), m), "NaN"),
    (lambda s, m: (s.with_array(np.where(m.array, np.inf, s.array)), None), "infinite"),
], ids=["shifted mask", "shorter mask", "empty mask", "NaN", "infinite"])
def test_what_cannot_be_prepared_is_refused(spoil, words):
    with pytest.raises(InputError, match=words):
        prepare(*spoil(*sphere_scan()), SETTINGS)


# Cache ------------------------------------------------------------------------------------------------

@pytest.fixture
def files(compendium):
    """Paths of a scan and its mask in a compendium."""
    paths = compendium / "case_0000.nii.gz", compendium / "case.nii.gz"
    for volume, path in zip(sphere_scan(), paths):
        write_volume(volume, path)
    return paths


def cannot(*_):
    raise AssertionError("computed again")


def test_a_case_is_prepared_once(files, monkeypatch):
    first, key = prepare_case("case", *files, SETTINGS)
    monkeypatch.setattr(module, "prepare", cannot)
    again, same_key = prepare_case("case", *files, SETTINGS)
    assert key == same_key and first.spacing == again.spacing
    assert np.array_equal(first.image, again.image) and np.array_equal(first.mask, again.mask)


def test_the_stored_case_is_what_prepare_returns(files):
    stored, _ = prepare_case("case", *files, SETTINGS)
    fresh, _ = prepare(*map(read_volume, files), SETTINGS)
    assert stored.image.dtype == np.float16 and stored.image == pytest.approx(fresh.image, abs=2**-11)
    assert stored.mask.dtype == np.uint8 and np.array_equal(stored.mask, fresh.mask)
    assert stored.spacing == pytest.approx(fresh.spacing)


@pytest.mark.parametrize("change", [{"size": 48}, {"slice_mm": 2.0}, {"margin_mm": 9.0}])
def test_another_setting_is_another_case(files, monkeypatch, change):
    _, key = prepare_case("case", *files, SETTINGS)
    changed, other = prepare_case("case", *files, replace(SETTINGS, **change))
    fresh, _ = prepare(*map(read_volume, files), replace(SETTINGS, **change))
    assert other != key and changed.image.shape == fresh.image.shape
    monkeypatch.setattr(module, "prepare", cannot)
    assert prepare_case("case", *files, SETTINGS)[1] == key             # both are kept


@pytest.mark.parametrize("change", [{"epochs": 9}, {"seeds": (3,)}, {"profile": "mine"},
                                    {"learning_rate": 0.5}])
def test_settings_of_training_do_not_prepare_anew(files, change):
    assert module.cache_key(*files, SETTINGS) == module.cache_key(*files, replace(SETTINGS, **change))


@pytest.mark.parametrize("which", [0, 1])
def test_other_voxels_are_another_case(files, which):
    _, key = prepare_case("case", *files, SETTINGS)
    write_volume(sphere_scan(radius=10.0)[which], files[which])
    changed, other = prepare_case("case", *files, SETTINGS)
    assert other != key
    fresh, _ = prepare(*map(read_volume, files), SETTINGS)
    assert (np.array_equal(changed.mask, fresh.mask) and changed.image
            == pytest.approx(fresh.image, abs=2**-11))


def test_other_code_is_another_case(files, monkeypatch):
    key = module.cache_key(*files, SETTINGS)
    original = provenance.code_hash
    monkeypatch.setattr(provenance, "code_hash", lambda *modules: original(*modules) + "changed")
    assert module.cache_key(*files, SETTINGS) != key


def test_another_hu_window_is_another_case(files, monkeypatch):
    key = module.cache_key(*files, SETTINGS)
    monkeypatch.setattr(module, "HU_WINDOW", (-100.0, 1000.0))
    assert module.cache_key(*files, SETTINGS) != key


def test_an_error_names_the_file_and_stores_nothing(files, compendium):
    _, mask = sphere_scan()
    write_volume(mask.with_array(np.zeros_like(mask.array)), files[1])
    with pytest.raises(InputError, match=r"case\.nii\.gz: the mask is empty"):
        prepare_case("case", *files, SETTINGS)
    assert not list((compendium / "data").rglob("*.safetensors"))


def test_an_interrupted_write_stores_nothing(files, compendium, monkeypatch):
    def killed(part, content):
        with part.open("wb") as stream:
            stream.write(content[:9])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module.Path, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_case("case", *files, SETTINGS)
    assert not [p for p in (compendium / "data").rglob("*") if p.is_file()]
    assert orientation(read_volume(files[0])) == "LPS" and prepare_case("case", *files,
                                                                        SETTINGS)[0].mask.any()
