"""Preparation against scipy and analytic shapes: nothing moves, nothing is lost, nothing stale is read."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import refused
from joint_object import DIRECTIONS
from scipy import ndimage

from magunet import prepare as module
from magunet.base import profiles
from magunet.cohort import Case
from magunet.metrics import overlap
from magunet.prepare import clip_and_scale, prepare, prepare_case, training_region
from magunet.region import cut, placed, put_back, resize, whole_planes
from magunet.volume import Volume, read_volume, reorient, same_geometry, write_volume

SETTINGS = replace(profiles.load("smoke"), voxel_mm=None, depth=32, size=32, margin_mm=0.0)
REGION = replace(SETTINGS, voxel_mm=2.0, depth=None, size=None)


def resized(array, shape):
    """Linear interpolation, or a triangle filter as wide as two new voxels, in a plain loop an axis."""
    for axis, m in enumerate(shape):
        n = array.shape[axis]
        centres = (np.arange(m) + 0.5) * n / m - 0.5
        weight = np.array([[max(0, 1 - abs(i - at) / max(1, n / m)) for i in range(n)] for at in centres])
        weight /= weight.sum(1, keepdims=True)
        array = np.moveaxis(np.tensordot(weight, array, (1, axis)), 0, axis)
    return array


@pytest.mark.parametrize("old, shapes", [
    ((5, 6, 7), [(5, 6, 7), (10, 12, 14), (7, 11, 13), (5, 9, 7), (8, 6, 7)]),
    ((10, 12, 14), [(5, 6, 7), (10, 6, 7), (4, 5, 4), (5, 12, 7), (20, 24, 36), (5, 20, 9), (40, 6, 36)]),
    ((24, 24, 24), [(12, 24, 24), (24, 12, 12), (8, 12, 6), (1, 30, 24)])])
def test_resizing_is_linear_interpolation_and_a_triangle_filter_where_it_shrinks(old, shapes):
    array = np.random.default_rng(0).normal(size=old)
    for shape in shapes:
        assert resize(array, shape) == pytest.approx(resized(array, shape), abs=1e-5), shape
    array = np.ones(old, np.float32)
    same = resize(array, old)
    same[:] = 0
    assert same.dtype == np.float32 and array.all(), "the result shares memory with what was given"


def test_the_window_is_scaled_linearly():
    scaled = clip_and_scale(np.array([-3000, -200, -199, 150, 500, 1200, 1201, 3000], np.int16))
    assert scaled.dtype == np.float32
    assert scaled == pytest.approx([0, 0, 1 / 1400, 0.25, 0.5, 1, 1, 1], abs=1e-7)


def test_slices_with_the_target_and_a_margin_are_kept_and_spaced_as_asked():
    mask = np.zeros((12, 5, 5), np.uint8)
    mask[4, 2, 2] = mask[6, 1, 1] = 1
    for margin, kept in {0.0: (4, 7), 1.0: (4, 7), 2.5: (3, 8), 4.0: (2, 9), 99.0: (0, 12)}.items():
        assert module.target_slices(mask, 2.5, margin) == kept, margin
    refused(lambda: module.target_slices(mask * 0, 1.0, 0.0), "empty", "remove the case or label it")
    for slice_mm, slices in {None: 40, 3.0: 40, 2.0: 60, 6.0: 20, 7.0: 17, 100.0: 1}.items():
        scan = Volume(np.zeros((40, 100, 100)), (3.0, 0.7, 0.7))
        region = whole_planes(scan, replace(SETTINGS, slice_mm=slice_mm))
        assert region.shape == (slices, 32, 32), slice_mm
        assert region.voxel == pytest.approx((120 / slices, 70 / 32, 70 / 32))


@pytest.mark.parametrize("shape, spacing, size, inside", [
    ((2, 10, 18), (3.0, 1.0, 1.0), 18, (slice(4, 14), slice(0, 18))),
    ((2, 18, 8), (1.0, 1.0, 1.5), 18, (slice(0, 18), slice(3, 15))),
    ((2, 16, 16), (1.0, 1.0, 1.0), 16, (slice(0, 16), slice(0, 16))),
    ((2, 8, 16), (1.0, 2.0, 1.0), 16, (slice(0, 16), slice(0, 16)))])
def test_planes_are_squares_in_mm_with_air_beside_the_scan(shape, spacing, size, inside):
    scan = Volume(np.ones(shape, np.int16), spacing)
    square = cut(scan, whole_planes(scan, replace(SETTINGS, size=size)), -7)
    assert square.shape == (2, size, size) and (square[:, inside[0], inside[1]] == 1).all()
    assert (square == -7).sum() == square.size - square[:, inside[0], inside[1]].size


def ball_scan(direction=DIRECTIONS["LPS"], off=(0.0, 0.0, 0.0), radius=14.0):
    """A ball of bone in air and its mask, ``off`` mm from the middle along the array's (z, y, x)."""
    shape, spacing = (20, 36, 56), (3.0, 1.4, 1.1)
    lines = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing)]
    away = np.stack(np.meshgrid(*lines, indexing="ij"), -1) - off
    mask = Volume((np.linalg.norm(away, axis=-1) < radius).astype(np.uint8), spacing, (12.0, -34.0, 56.0),
                  direction)
    return mask.with_array(np.where(mask.array, 800, -1000).astype(np.int16)), mask


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_mask_comes_back_to_its_own_grid_and_place(direction):
    """Though the prepared grid is coarser than the scan's."""
    scan, mask = ball_scan(DIRECTIONS[direction], off=(-6.0, 3.0, 8.0))
    for slice_mm, dice in ((None, 0.95), (2.0, 0.92), (4.0, 0.92)):
        settings = replace(SETTINGS, slice_mm=slice_mm)
        back = put_back(prepare(scan, mask, settings).mask, training_region(mask, settings), scan)
        assert same_geometry(scan, back, 1e-9) and back.array.dtype == np.float32
        found = back.with_array(back.array > 0.5)
        assert overlap(found.array, mask.array).dice > dice, slice_mm
        places = [volume.to_world(ndimage.center_of_mass(volume.array)) for volume in (found, mask)]
        moved = scan.direction.T @ (places[0] - places[1])
        assert (np.abs(moved[::-1]) / scan.spacing < 0.5).all(), slice_mm


@pytest.mark.parametrize("code", ["LPS", "RAS", "SPL", "AIR"])
def test_nothing_changes_when_the_sizes_already_agree(code):
    array = np.random.default_rng(3).integers(-200, 1201, (9, 32, 32)).astype(np.int16)
    lps = Volume(array, (3.0, 1.1, 1.1), (1, 2, 3), DIRECTIONS["oblique"])
    scan = reorient(lps, code)
    region = whole_planes(scan, SETTINGS)
    assert region.voxel == pytest.approx(lps.spacing) and region.first == pytest.approx((0, 0, 0), abs=1e-9)
    assert cut(scan, region) == pytest.approx(array, abs=1e-3)
    assert put_back(array, region, scan).array == pytest.approx(scan.array, abs=1e-3)


@pytest.mark.parametrize("slice_mm", [None, 2.0])
def test_only_slices_around_the_target_are_kept_as_they_are_in_the_whole_scan(slice_mm):
    rng, settings = np.random.default_rng(0), replace(SETTINGS, slice_mm=slice_mm, margin_mm=3.0)
    mask = np.zeros((20, 40, 48), np.uint8)
    mask[8:12, 15:25, 10:20] = 1
    scan = Volume(rng.normal(300, 300, mask.shape).astype(np.float32), (3.0, 1.0, 1.2))
    target = scan.with_array(mask)
    part, region = prepare(scan, target, settings), training_region(target, settings)
    first, stop = (10, 20) if slice_mm else (7, 13)
    whole = cut(scan, whole_planes(scan, settings), -200)
    np.testing.assert_allclose(part.image, clip_and_scale(whole[first:stop]), atol=1e-6)
    back = put_back(np.ones_like(part.image), region, scan).array
    assert back[7:13] == pytest.approx(1) and not back[:7].any() and not back[13:].any()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_patients_left_back_and_head_are_at_larger_indices_of_a_square_of_the_scans_extent(direction):
    for slice_mm in (None, 2.0, 7.0):
        for world, axis in ((0, 2), (1, 1), (2, 0)):                    # LPS x, y, z -> array x, y, z
            off = 12 * DIRECTIONS[direction][world, ::-1]               # mm to the left, back, head
            scan, _ = ball_scan(DIRECTIONS[direction], off, 5.0)
            lps = reorient(scan, "LPS")
            region = whole_planes(scan, replace(SETTINGS, slice_mm=slice_mm))
            image = clip_and_scale(cut(scan, region, -200))
            extent, old = np.multiply(region.shape, region.voxel), np.multiply(lps.array.shape, lps.spacing)
            assert extent[0] == pytest.approx(old[0]) and image.shape[1:] == (32, 32)
            assert extent[1:] == pytest.approx([old[1:].max()] * 2), "the longer side"
            assert slice_mm is None or region.voxel[0] == pytest.approx(slice_mm, rel=0.1)
            place = np.array(ndimage.center_of_mass(image))
            there = scan.to_world(ndimage.center_of_mass(scan.array > 0))
            assert placed(image, region, scan).to_world(place) == pytest.approx(there, abs=2), slice_mm
            moved = (place - (np.array(image.shape) - 1) / 2) * region.voxel
            assert moved[axis] > 8 and np.argmax(np.abs(moved)) == axis, (slice_mm, world)


def test_what_cannot_be_prepared_is_refused():
    s, m = ball_scan()
    speck = np.zeros_like(m.array)
    speck[9, 9, 9] = 1
    for scan, mask, *words in (
            (s, Volume(m.array, m.spacing, (12.0, -34.0, 57.0)), "different grids", "resample the mask"),
            (s, Volume(m.array[:-1], m.spacing, m.origin), "different grids", "resample the mask"),
            (s, m.with_array(m.array * 0), "empty"),
            (s, m.with_array(speck), "the target vanishes when resized to", "raise size"),
            (s.with_array(np.where(m.array, np.nan, s.array)), m, "NaN"),
            (s.with_array(np.where(m.array, np.inf, s.array)), m, "infinite")):
        refused(lambda pair=(scan, mask): prepare(*pair, SETTINGS), *words)
        if "vanishes" not in words[0]:
            refused(lambda pair=(scan, mask): prepare(*pair, REGION), *words)
    refused(lambda: prepare(s, m.with_array(speck), replace(REGION, voxel_mm=8.0)),
            "the target vanishes in such voxels", "lower voxel_mm")


def test_a_region_is_the_box_about_the_joints_with_the_margin_on_every_side():
    """A ramp along each axis stays one, so values tell places; the ball is in the middle."""
    _, mask = ball_scan()
    for axis in range(3):
        ramp = np.indices(mask.array.shape)[axis] * mask.spacing[axis]              # mm from the first voxel
        scan = mask.with_array((ramp * 10 - 150).astype(np.float32))
        prepared = prepare(scan, mask, replace(REGION, margin_mm=8.0))
        assert prepared.image.shape == prepared.mask.shape == (68, 68, 96) and prepared.spacing == (2, 2, 2)
        inside = ndimage.binary_erosion(prepared.mask, iterations=2)
        place = (prepared.image * 1400 - 200 + 150) / 10                            # undoes clip_and_scale
        steps = np.diff(place, axis=axis)[np.delete(inside, -1, axis)]
        assert steps == pytest.approx(2.0, abs=0.1)
        assert place[inside].mean() == pytest.approx(ramp[mask.array > 0].mean(), abs=0.5), axis
    middle = ndimage.center_of_mass(prepared.mask)
    assert middle == pytest.approx(np.subtract(prepared.mask.shape, 1) / 2, abs=1.5)
    assert prepared.mask.sum() * 8 == pytest.approx(mask.array.sum() * np.prod(mask.spacing), rel=0.03)


@pytest.fixture
def files(compendium):
    """Paths of a scan and its mask in a compendium."""
    paths = compendium / "case_0000.nii.gz", compendium / "case.nii.gz"
    for volume, path in zip(ball_scan(), paths):
        write_volume(volume, path)
    return paths


def a_case(files):
    return Case("case", *files, "p", {"any_values": True})             # a ball of bone is no patient


def check_stored(files, settings):
    """The stored case is what `prepare` returns, in half precision; returns its key."""
    stored, key = prepare_case(a_case(files), settings)
    fresh = prepare(*map(read_volume, files), settings)
    assert stored.image.dtype == np.float16 and stored.image == pytest.approx(fresh.image, abs=2**-11)
    assert stored.mask.dtype == np.uint8 and np.array_equal(stored.mask, fresh.mask)
    assert stored.spacing == pytest.approx(fresh.spacing)
    return key


def test_a_case_is_prepared_once_and_anew_with_another_setting_file_code_or_window(files, monkeypatch):
    keys = [check_stored(files, replace(SETTINGS, **change)) for change in (
        {}, {"size": 48}, {"slice_mm": 2.0}, {"margin_mm": 9.0}, {"voxel_mm": 3.0}, {"voxel_mm": 2.0})]
    with monkeypatch.context() as patched:
        patched.setattr(module, "prepare", lambda *_: pytest.fail("prepared again"))
        for change in ({}, {"epochs": 9}, {"seeds": (3,)}, {"profile": "mine"}, {"learning_rate": 0.5}):
            assert prepare_case(a_case(files), replace(SETTINGS, **change))[1] == keys[0], change
    for path, volume in zip(files, ball_scan(radius=10.0)):
        write_volume(volume, path)
        keys.append(check_stored(files, SETTINGS))
    for target, value in (("magunet.base.provenance.code_hash", lambda *_: ""),
                          ("magunet.prepare.HU_WINDOW", (-100.0, 900.0)),
                          ("magunet.prepare.BOX_MM", (90.0, 90.0, 90.0))):
        monkeypatch.setattr(target, value)
        keys.append(check_stored(files, SETTINGS))
    assert len(set(keys)) == 11


@pytest.mark.parametrize("slices, said", [(30, ""), (50, "case.nii.gz: 40.0% of the mask lie outside")])
def test_of_a_mask_that_is_larger_than_the_box_is_said_what_no_network_learns(files, capsys, slices, said):
    bar = Volume(np.zeros((60, 40, 40)), (4.0, 4.0, 4.0))               # the box is 120 mm high
    bar.array[5:5 + slices, 18:22, 18:22] = 1
    for path, array in zip(files, (800 * bar.array, bar.array)):
        write_volume(bar.with_array(array), path)
    prepare_case(a_case(files), replace(SETTINGS, voxel_mm=4.0, depth=None, size=None))
    assert said in (note := capsys.readouterr().err) and bool(said) == bool(note)


def test_an_error_and_an_interrupted_write_store_nothing(files, compendium, monkeypatch):
    def killed(part, content):
        part.write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module.Path, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_case(a_case(files), SETTINGS)
    _, mask = ball_scan()
    write_volume(mask.with_array(mask.array * 0), files[1])
    refused(lambda: prepare_case(a_case(files), SETTINGS), "case.nii.gz: the mask is empty")
    assert not [path for path in (compendium / "data").rglob("*") if path.is_file()]
