"""Windows, blending, and a mask on the scan's own grid."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from magunet.base import profiles
from magunet.predict import Model, predict_windows, window_starts
from magunet.volume import Volume, orientation, reorient, same_geometry


@given(slices=st.integers(1, 300), depth=st.integers(16, 64))
def test_windows_cover_every_slice_and_overlap_by_half(slices, depth):
    starts = window_starts(slices, depth)
    assert starts[0] == 0
    if slices > depth:
        assert starts[-1] == slices - depth
        assert max(np.diff(starts)) <= -(-depth // 2)
        assert {z for s in starts for z in range(s, s + depth)} == set(range(slices))


def test_blending_is_exact_on_x_plus_1_of_windows_that_all_have_the_networks_shape():
    for slices, shape in itertools.product((1, 5, 16, 17, 40, 75), ((16, 5, 6), (16, 4, 6), (16, 3, 9))):
        image, windows = np.random.default_rng(slices).random((slices, 5, 6), np.float32), []
        blended = predict_windows(image, shape, lambda x, seen=windows: seen.append(x) or x + np.float32(1))
        np.testing.assert_allclose(blended, image + np.float32(1), 1e-6, err_msg=f"{slices} slices, {shape}")
        assert {window.shape for window in windows} == {shape}, f"{slices} slices"


def test_blending_weighs_windows_by_the_gaussian():
    """Of two windows that answer 0 and 1, the share of the second's weight, sigma a quarter of a window."""
    first, second = np.zeros(24), np.zeros(24)
    first[:16] = second[8:] = np.exp(-0.5 * ((np.arange(16) - 7.5) / 4) ** 2)
    for axis in range(3):
        image, answers = np.zeros(np.roll((24, 2, 2), axis), np.float32), iter((0.0, 1.0))
        blended = predict_windows(image, tuple(np.roll((16, 2, 2), axis)),
                                  lambda x, answers=answers: np.full(x.shape, next(answers)))
        along = np.moveaxis(blended, axis, 0)[:, 0, 0]
        np.testing.assert_allclose(along, second / (first + second), rtol=1e-6)


class Brightness(torch.nn.Module):
    """Stands in for a network: foreground where the prepared image is above one half."""

    def forward(self, x):
        return 100 * (x - 0.5)


PLANES = replace(profiles.load("smoke"), voxel_mm=None, depth=32, size=64, slice_mm=3.0)


def model_of(network, settings=PLANES):
    return Model(network, settings, {"pixel_mm": 1.5}, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("settings", [PLANES, replace(PLANES, voxel_mm=1.5, depth=None, size=None)],
                         ids=["planes", "region"])
def test_the_mask_lies_on_the_scans_own_grid_in_any_orientation(settings):
    """A ball of 1000 HU in air, off centre, on an oblique grid."""
    oblique = Rotation.from_euler("z", 12, degrees=True).as_matrix()
    grid = Volume(np.zeros((40, 64, 64), np.int16), (2.5, 1.5, 1.5), (11.0, -7.0, 30.0), oblique)
    away = (np.indices(grid.array.shape).T - (22, 36, 25)) * grid.spacing               # (w, h, d, 3), mm
    ball = (np.linalg.norm(away, axis=-1) < 20).T
    for code in ("LPS", "RAS", "SPL", "AIR"):
        scan = reorient(grid.with_array(np.where(ball, 1000, -1000).astype(np.int16)), code)
        truth = reorient(grid.with_array(ball.astype(np.uint8)), code).array
        mask = model_of(Brightness(), settings).segment(scan, (22 * 2.5, 36 * 1.5, 25 * 1.5))     # the centre
        assert same_geometry(mask, scan) and orientation(mask) == code and mask.array.dtype == np.uint8
        assert 2 * (mask.array & truth).sum() / (mask.array.sum() + truth.sum()) > 0.95, code


def test_a_mirrored_scan_gets_the_mirrored_answer():
    """Whatever the network, and each side's answer stays on its side."""
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 1, 3, padding=1)
    image = np.random.default_rng(0).random((40, 64, 64), np.float32)
    answer, mirrored = (model_of(network).probability(x) for x in (image, image[..., ::-1]))
    np.testing.assert_allclose(mirrored, answer[..., ::-1], atol=1e-6)
    with torch.inference_mode():
        both = [torch.sigmoid(network(torch.from_numpy(x[:32].copy())[None, None]))[0, 0].numpy()
                for x in (image, image[..., ::-1])]
    np.testing.assert_allclose(answer[0], (both[0][0] + both[1][0][:, ::-1]) / 2, atol=1e-6)
    assert np.abs(both[0] - both[1][..., ::-1]).max() > 0.01                # for this network they differ
