"""The joint band on shapes whose band is known."""

import numpy as np
import pytest
from scipy import ndimage

from magunet import target
from magunet.base.errors import InputError
from magunet.metrics import overlap
from magunet.target import joint_band, mask_distance, sij_mask

SPACING = (2.5, 0.8, 1.1)  # mm, all different: a swapped axis shows


def grid(shape, spacing=SPACING):
    return np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing)), indexing="ij")


@pytest.fixture(scope="module")
def spheres():
    """A sacrum between two hips, all spheres: (sacrum, left, right)."""
    z, y, x = grid((24, 60, 110))
    return [(z - 29) ** 2 + (y - 24) ** 2 + (x - c) ** 2 < r**2 for c, r in ((60, 18), (94, 14), (26, 14))]


def test_band_between_two_slabs_has_the_known_width():
    _, _, x = grid((20, 40, 60))
    band = joint_band(np.maximum(x - 30, 0), np.maximum(33 - x, 0), SPACING, thickness=6.0)
    assert band.any()
    expected = (x > 27) & (x < 36)  # 6 mm from each face: 9 mm wide
    assert np.array_equal(band, expected)


# the smoothing shaves the thin rims of a lens
@pytest.mark.parametrize("thickness, overlap", [(4.0, 0.88), (6.0, 0.93), (9.0, 0.95)])
def test_mask_of_spheres_agrees_with_their_equation(spheres, thickness, overlap):
    mask = sij_mask(*spheres, SPACING, thickness)
    z, y, x = grid(spheres[0].shape)
    outside = [np.sqrt((z - 29) ** 2 + (y - 24) ** 2 + (x - c) ** 2) - r
               for c, r in ((60, 18), (94, 14), (26, 14))]
    worst = np.minimum(*(np.maximum(outside[0], hip) for hip in outside[1:]))
    assert mask[worst < thickness - 2].all(), "the core of the band is missing"
    assert not mask[worst > thickness + 1].any(), "the mask reaches beyond the band"
    band = worst < thickness
    dice = 2 * (band & (mask > 0)).sum() / (band.sum() + mask.sum())
    assert dice > overlap


@pytest.mark.parametrize("spacing", [(1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 0.7, 0.7)])
def test_volume_does_not_depend_on_the_voxels(spacing):
    """Slabs 3 mm apart: the band reaches 4.5 mm to either side of the middle, 9 mm x 60 mm x 60 mm."""
    x = grid([round(n / s) for n, s in zip((60, 60, 120), spacing)], spacing)[2]
    sacrum, left, right = np.abs(x - 60) < 20, (x > 83) & (x < 110), (x < 37) & (x > 10)
    mask = sij_mask(sacrum, left, right, spacing)
    assert mask.sum() * np.prod(spacing) == pytest.approx(2 * 9 * 60 * 60, rel=0.12)


def test_mask_is_uint8_of_both_sides_and_keeps_its_grid(spheres):
    mask = sij_mask(*spheres, SPACING)
    assert mask.dtype == np.uint8 and mask.shape == spheres[0].shape and set(np.unique(mask)) == {0, 1}
    halves = mask[..., :55].sum(), mask[..., 55:].sum()
    assert min(halves) > 0.8 * max(halves)


def test_spacing_is_read_as_z_y_x(spheres):
    assert sij_mask(*spheres, SPACING).sum() != sij_mask(*spheres, SPACING[::-1]).sum()


def test_one_joint_is_enough(spheres):
    sacrum, left, right = spheres
    far = np.roll(right, -10, axis=2)
    mask = sij_mask(sacrum, left, far, SPACING)
    assert mask[..., 55:].any() and not mask[..., :55].any()


def test_specks_are_dropped():
    shape = (20, 60, 60)
    far = np.full(shape, 50.0)
    far[:, 5:40, 5:40] = 0
    with_speck = far.copy()
    with_speck[2:5, 50:56, 50:56] = 0
    np.testing.assert_array_equal(
        joint_band(with_speck, with_speck, (1, 1, 1)), joint_band(far, far, (1, 1, 1))
    )


def test_no_band_where_the_bones_stay_apart():
    far = np.full((5, 6, 7), 20.0)
    assert not joint_band(far, far, (1, 1, 1)).any()


@pytest.mark.parametrize("index, name", [(0, "sacrum"), (1, "left hip"), (2, "right hip")])
def test_an_empty_bone_is_named(spheres, index, name):
    bones = list(spheres)
    bones[index] = np.zeros_like(bones[0])
    with pytest.raises(InputError, match=name):
        sij_mask(*bones, SPACING)


def test_shapes_must_agree(spheres):
    with pytest.raises(InputError, match="shape"):
        sij_mask(spheres[0], spheres[1][:-1], spheres[2], SPACING)


def test_without_a_joint_it_says_so(spheres):
    sacrum, left, right = spheres
    with pytest.raises(InputError, match="no sacroiliac joint"):
        sij_mask(sacrum, np.roll(left, 9, axis=2), np.roll(right, -9, axis=2), SPACING)


def whole(array, *_):
    return tuple(slice(0, n) for n in array.shape)


def test_the_boxes_that_save_time_change_the_joints_little(monkeypatch):
    """Distances are on a grid that begins where the box does."""
    sacrum, left, right = np.zeros((3, 30, 40, 90), bool)
    sacrum[8:22, 12:30, 35:55], left[6:24, 12:26, 58:75], right[9:20, 14:30, 12:33] = True, True, True
    boxed = sij_mask(sacrum, left, right, (3.0, 1.5, 1.5))
    monkeypatch.setattr(target, "bounding_box", whole)
    assert overlap(boxed, sij_mask(sacrum, left, right, (3.0, 1.5, 1.5))).dice > 0.985


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_the_same_up_to_where_they_are_cut_off(seed, monkeypatch):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(30, 40, 50)), 3)
    mask = np.zeros((60, 90, 100), bool)
    mask[15:45, 25:65, 25:75] = noise > 0.03
    boxed = mask_distance(mask, (1.5, 1.0, 1.2), 1.0)
    monkeypatch.setattr(target, "bounding_box", whole)
    everywhere = mask_distance(mask, (1.5, 1.0, 1.2), 1.0)
    near = np.abs(everywhere) < 30
    assert 0.05 < near.mean() < 1 and np.array_equal(boxed[near],
                                                     everywhere[near]) and (boxed[~near] >= 30).all()
