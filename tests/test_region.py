"""The region of interest: cut and put back as torch interpolates, and where it lies in the patient."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import refused
from joint_object import DIRECTIONS, WIDE, both, grid, world

from magunet.base.profiles import BOX_MM, box_shape
from magunet.metrics import overlap
from magunet.region import cut, joints_centre, linear, put_back, region_about, resample
from magunet.volume import reorient


@pytest.mark.parametrize("shape", [(9, 13, 17), (9, 40, 60), (18, 20, 30)])
def test_resampling_is_torchs_antialiased_interpolation(shape):
    array = np.random.default_rng(0).normal(size=(9, 20, 30)).astype(np.float32)
    axes = [linear(n, 2.0, n / m - 1, 2 * n / m, m) for n, m in zip(array.shape, shape)]
    expected = F.interpolate(torch.from_numpy(array)[None], shape[1:], mode="bilinear", antialias=True)[0]
    if shape[0] != 9:
        flat = expected.reshape(1, 1, 9, -1)
        expected = F.interpolate(flat, (shape[0], flat.shape[-1]), mode="bilinear", antialias=True)[0, 0]
    assert resample(array, axes) == pytest.approx(expected.numpy().reshape(shape), abs=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_region_lies_where_the_joints_are_and_comes_back_to_its_place(direction):
    mask = both(grid(DIRECTIONS[direction], WIDE))
    lps = reorient(mask, "LPS")
    centre = joints_centre(mask)
    inside = lps.array > 0
    places = [world(lps)[inside & side] for side in (world(lps)[..., 0] > 0, world(lps)[..., 0] < 0)]
    local = [(np.concatenate([p]) - lps.origin) @ lps.direction for p in places]       # mm along x, y, z
    middle = np.mean([(p.min(0) + p.max(0)) / 2 for p in local], axis=0)
    assert centre == pytest.approx(middle[::-1], abs=1e-6)
    for voxel in (1.5, 2.0):
        region = region_about(centre, mask, voxel)
        part = cut(mask, region)
        assert part.shape == box_shape(voxel) == tuple(round(side / voxel) for side in BOX_MM)
        assert part.sum() * voxel**3 == pytest.approx(inside.sum() * np.prod(lps.spacing), rel=0.02)
        back = put_back((part > 0.5).astype(np.float32), region, mask)
        assert overlap(back.array > 0.5, mask.array > 0).dice >= 0.93, voxel


def test_beyond_the_scan_there_is_air_and_an_empty_mask_has_no_region():
    scan = grid(np.eye(3), WIDE)
    scan = scan.with_array(np.full(scan.array.shape, 40, np.int16))
    region = region_about((0.0, 0.0, 0.0), scan, 2.0)           # about the first voxel
    part = cut(scan, region, -200)
    assert part[0, 0, 0] == -200 and part[-1, -1, -1] == pytest.approx(40) and part.max() == pytest.approx(40)
    refused(lambda: joints_centre(scan.with_array(0 * scan.array)), "is empty")
