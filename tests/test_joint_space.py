"""The joint space of plates whose distance is known, and of a phantom; and what cannot be measured."""

import numpy as np
import pytest
from joint_object import TILT, world
from scipy import ndimage

from benchmarks.joint_space import healthy_phantom, true_widths
from compendium.view.joint_space import CONTRAST, STEP, cleft_width, joint_space, measured_widths
from magunet.joints import left_and_right
from magunet.volume import Volume, reorient

MARROW, PLATE, CLEFT = 150, 900, 60
"""HU."""


def plates(gap, direction=TILT, pixel=0.6, blur=0.5, noise=0.0, bend=0.004, shift=0.0, shape=(60, 70, 60)):
    """A curved joint: two plates 2 mm thick of bone, ``gap`` mm apart, and the mask of a band of 12 - gap mm around it.

    The mask is ``shift`` mm off, as a prediction is.
    """
    spacing = (pixel, pixel, pixel)
    middle = (np.array(shape[::-1]) - 1) / 2 * pixel
    origin = np.array([50.0, 10.0, -20.0]) - direction @ middle
    scan = Volume(np.zeros(shape, np.float32), spacing, tuple(origin), direction)
    at = world(scan) - (50, 10, -20)
    across = at[..., 0] - bend * (at[..., 1] ** 2 + at[..., 2] ** 2)
    slope = 2 * bend * at[..., 1:]
    across = across / np.sqrt(1 + (slope**2).sum(-1))                    # distance to the middle surface, to first order
    depth = np.abs(across) - gap / 2
    soft = pixel
    bone, inner = (np.clip(0.5 + (depth - d) / soft, 0, 1) for d in (0, 2))
    hu = CLEFT + (PLATE - CLEFT) * bone + (MARROW - PLATE) * inner
    hu = ndimage.gaussian_filter(hu, blur / pixel) + np.random.default_rng(0).normal(0, noise, shape)
    near = (np.abs(across - shift) < 6 - gap / 2) & (np.abs(at[..., 1:]) < (12, 9)).all(-1)
    return scan.with_array(hu.astype(np.float32)), scan.with_array(near)


@pytest.mark.parametrize("gap", [2.0, 3.0, 4.5])
@pytest.mark.parametrize("direction", [np.eye(3), TILT, TILT @ np.diag([1.0, -1, 1])], ids=["straight", "oblique", "mirrored"])
def test_the_distance_of_two_plates(gap, direction):
    found = joint_space(*plates(gap, direction))
    assert found.mean == pytest.approx(gap, abs=0.2) and found.sd < 0.3
    assert found.share > 0.9 and found.profiles > 100 and found.reason is None


def test_other_axes_give_the_same_width():
    scan, mask = plates(3.0)
    expected = joint_space(scan, mask)
    for code in ("RAS", "SPL", "AIR"):
        found = joint_space(reorient(scan, code), reorient(mask, code))
        assert found.mean == pytest.approx(expected.mean, abs=0.03)


@pytest.mark.parametrize("options", [dict(noise=60.0), dict(shift=1.5), dict(shift=-1.5), dict(blur=0.8)])
def test_noise_blur_and_a_mask_that_lies_beside_the_joint(options):
    assert joint_space(*plates(3.0, **options)).mean == pytest.approx(3.0, abs=0.35)


def test_narrow_clefts_read_too_wide_never_too_narrow():
    """Blurred by 0.5 mm, half maxima do not fall below some 1.5 mm."""
    found = joint_space(*plates(1.0))
    assert found.mean is None or 1.0 < found.mean < 2.0


def test_what_is_not_there_is_not_measured():
    scan, mask = plates(3.0)
    fused = joint_space(scan.with_array(np.full_like(scan.array, 600)), mask)
    assert fused.mean is None and fused.share == 0 and "a cleft is seen in 0% of the profiles" in fused.reason
    soft = joint_space(scan.with_array(np.where(scan.array > 100, CLEFT + CONTRAST - 20, CLEFT)), mask)
    assert soft.mean is None
    nothing = joint_space(scan, mask.with_array(np.zeros(mask.array.shape, bool)))
    assert nothing.mean is None and "no joint on this side" in nothing.reason


@pytest.mark.parametrize("voxels", [1, 3, 60])
def test_a_mask_that_is_too_small_is_not_measured(voxels):
    scan, mask = plates(3.0)
    few = np.zeros(mask.array.size, bool)
    few[np.flatnonzero(mask.array)[:voxels]] = True
    found = joint_space(scan, mask.with_array(few.reshape(mask.array.shape)))
    assert found.mean is None and "too small" in found.reason


def test_large_voxels_do_not_resolve_a_joint():
    found = joint_space(*plates(3.0, pixel=1.5, shape=(30, 34, 30)))
    assert found.mean is None and "voxels measure 1.50 mm across the joint; at most 1 mm" in found.reason


def test_profiles_that_leave_the_scan_do_not_count():
    scan, mask = plates(3.0, direction=np.eye(3))
    first = int(np.flatnonzero(mask.array.any((0, 1)))[0])
    cut = [Volume(v.array[..., first + 2:], v.spacing, v.to_world((0, 0, first + 2)), v.direction) for v in (scan, mask)]
    assert joint_space(*cut).mean is None


def test_a_profile_by_hand():
    """HU 0 from -1 to +1 mm, rising linearly to 400 at +-2 mm: half is at 1.5 mm."""
    at = np.arange(-10, 10.01, STEP)
    profile = np.clip((np.abs(at) - 1) * 400, 0, 400)
    assert cleft_width(profile) == pytest.approx(3.0)
    assert cleft_width(np.roll(profile, 4)) == pytest.approx(3.0)                   # 1 mm aside
    assert np.isnan(cleft_width(profile / 3))                                       # too little contrast
    assert np.isnan(cleft_width(np.where(at > 0, 0, profile)))                      # a plate on one side only
    assert np.isnan(cleft_width(np.full(len(at), np.nan)))


def test_a_phantoms_joints_within_the_error_that_the_benchmark_prints():
    phantom = healthy_phantom(115)
    scan = Volume(phantom.image, phantom.spacing)
    labels = left_and_right(scan.with_array(phantom.mask))
    for label, side in ((1, "left"), (2, "right")):
        joint = labels.with_array(labels.array == label)
        found, (places, normals, widths) = joint_space(scan, joint), measured_widths(scan, joint)
        true = true_widths(phantom, side, places, normals)
        assert found.mean == pytest.approx(true[np.isfinite(widths)].mean(), abs=0.9)
        assert found.mean == pytest.approx(widths[np.isfinite(widths)].mean()) and found.share > 0.5
