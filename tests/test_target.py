"""The joint band on shapes whose band is known."""

import numpy as np
import pytest
from conftest import refused

from magunet import target
from magunet.metrics import overlap
from magunet.target import joint_band, sij_mask

SPACING = (2.5, 0.8, 1.1)  # mm, all different: a swapped axis shows


def grid(shape, spacing=SPACING):
    return np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing)), indexing="ij")


@pytest.fixture(scope="module")
def outside():
    """Distance in mm to the sacrum and to the hips, all of them balls, below 0 inside."""
    z, y, x = grid((24, 60, 110))
    return np.array([np.sqrt((z - 29)**2 + (y - 24)**2 + (x - centre)**2) - radius
                     for centre, radius in ((60, 18), (94, 14), (26, 14))])


def test_band_between_two_slabs_has_the_known_width_and_none_is_where_bones_stay_apart():
    _, _, x = grid((20, 40, 60))
    band = joint_band(np.maximum(x - 30, 0), np.maximum(33 - x, 0), SPACING, thickness=6.0)
    assert np.array_equal(band, (x > 27) & (x < 36))  # 6 mm from each face: 9 mm wide
    assert not joint_band(*[np.full((5, 6, 7), 20.0)] * 2, (1, 1, 1)).any()


# the smoothing shaves the thin rims of a lens
@pytest.mark.parametrize("thickness, dice", [(4.0, 0.88), (6.0, 0.93), (9.0, 0.95)])
def test_mask_of_spheres_agrees_with_their_equation(outside, thickness, dice):
    mask = sij_mask(*outside < 0, SPACING, thickness)
    assert mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 1}
    worst = np.minimum(*(np.maximum(outside[0], hip) for hip in outside[1:]))
    assert mask[worst < thickness - 2].all(), "the core of the band is missing"
    assert not mask[worst > thickness + 1].any(), "the mask reaches beyond the band"
    assert overlap(mask, worst < thickness).dice > dice


@pytest.mark.parametrize("spacing", [(1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 0.7, 0.7)])
def test_volume_does_not_depend_on_the_voxels(spacing):
    """Slabs 3 mm apart: the band reaches 4.5 mm to either side of the middle, 9 mm x 60 mm x 60 mm."""
    x = grid([round(n / s) for n, s in zip((60, 60, 120), spacing)], spacing)[2]
    sacrum, left, right = np.abs(x - 60) < 20, (x > 83) & (x < 110), (x < 37) & (x > 10)
    mask = sij_mask(sacrum, left, right, spacing)
    assert mask.sum() * np.prod(spacing) == pytest.approx(2 * 9 * 60 * 60, rel=0.12)


def test_one_joint_is_enough_and_specks_are_dropped(outside):
    sacrum, left, right = outside < 0
    mask = sij_mask(sacrum, left, np.roll(right, -10, axis=2), SPACING)
    assert mask[..., 55:].any() and not mask[..., :55].any()
    far = np.full((20, 60, 60), 50.0)
    far[:, 5:40, 5:40] = 0
    with_speck = far.copy()
    with_speck[2:5, 50:56, 50:56] = 0
    assert np.array_equal(joint_band(with_speck, with_speck, (1, 1, 1)), joint_band(far, far, (1, 1, 1)))


def test_what_is_no_pelvis_is_refused_with_the_bone_that_is_wrong(outside):
    sacrum, left, right = outside < 0
    for bones, word in (((sacrum * 0, left, right), "sacrum"), ((sacrum, left * 0, right), "left hip"),
                        ((sacrum, left, right * 0), "right hip"), ((sacrum, left[:-1], right), "shape"),
                        ((sacrum, np.roll(left, 9, 2), np.roll(right, -9, 2)), "no sacroiliac joint")):
        refused(lambda bones=bones: sij_mask(*bones, SPACING), word)


def test_the_boxes_that_save_time_change_the_joints_little(monkeypatch):
    """Distances are on a grid that begins where the box does."""
    bones, spacing = np.zeros((3, 30, 40, 90), bool), (3.0, 1.5, 1.5)
    bones[0, 8:22, 12:30, 35:55] = bones[1, 6:24, 12:26, 58:75] = bones[2, 9:20, 14:30, 12:33] = True
    joints = sij_mask(*bones, spacing)
    monkeypatch.setattr(target, "bounding_box", lambda array, *_: tuple(slice(0, n) for n in array.shape))
    assert overlap(joints, sij_mask(*bones, spacing)).dice > 0.985
