"""Windows, blending, and a mask on the scan's own grid."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from magunet.base import profiles
from magunet.base.errors import InputError
from magunet.predict import Model, gaussian_weights, load_model, predict_windows, window_starts
from magunet.volume import Volume, orientation, reorient, same_geometry


@given(slices=st.integers(1, 300), depth=st.integers(16, 64))
def test_windows_cover_every_slice_and_overlap_by_half(slices, depth):
    starts = window_starts(slices, depth)
    assert starts[0] == 0
    if slices > depth:
        assert starts[-1] == slices - depth
        assert max(np.diff(starts)) <= -(-depth // 2)
        covered = {z for s in starts for z in range(s, s + depth)}
        assert covered == set(range(slices))


@pytest.mark.parametrize("slices", [1, 5, 16, 17, 40, 75])
def test_blending_is_exact_on_x_plus_1(slices):
    image = np.random.default_rng(slices).random((slices, 5, 6)).astype(np.float32)
    blended = predict_windows(image, 16, lambda window: window + np.float32(1))
    np.testing.assert_array_equal(blended, image + np.float32(1))


def test_blending_weighs_windows_by_the_gaussian():
    """Two windows that answer 0 and 1: the blend is the share of the second's weight."""
    answers = iter((0.0, 1.0))
    blended = predict_windows(np.zeros((24, 2, 2), np.float32), 16,
                              lambda window: np.full(window.shape, next(answers)))
    first, second = np.zeros(24), np.zeros(24)
    first[:16], second[8:] = gaussian_weights(16), gaussian_weights(16)
    np.testing.assert_allclose(blended[:, 0, 0], second / (first + second), rtol=1e-6)


def test_every_window_has_the_networks_depth_even_for_thin_scans():
    shapes = []
    predict_windows(np.zeros((5, 4, 4), np.float32), 16, lambda window: shapes.append(window.shape) or window)
    assert shapes == [(16, 4, 4)]


class Brightness(torch.nn.Module):
    """Stands in for a network: foreground where the prepared image is above one half."""

    def forward(self, x):
        return 100 * (x - 0.5)


def model_of(network):
    settings = profiles.load("smoke")
    return Model(network, settings, {}, torch.device("cpu"), torch.float32)


def bright_ball(direction, spacing=(2.5, 1.5, 1.5)):
    """A ball of 1000 HU in air, off centre, on a grid with the given direction."""
    index = np.indices((40, 64, 64)).reshape(3, -1).T
    grid = Volume(np.zeros((40, 64, 64), np.int16), spacing, (11.0, -7.0, 30.0), direction)
    world = np.array([grid.to_world(tuple(i)) for i in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))])
    points = world[0] + index @ (world[1:] - world[0])
    centre = grid.to_world((22, 36, 25))
    inside = np.linalg.norm(points - centre, axis=1).reshape(40, 64, 64) < 20
    return grid.with_array(np.where(inside, 1000, -1000).astype(np.int16)), inside


@pytest.mark.parametrize("code", ["LPS", "RAS", "SPL", "AIR"])
def test_the_mask_lies_on_the_scans_own_grid_in_any_orientation(code, compendium):
    tilt = np.deg2rad(12)
    rotation = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    scan, inside = bright_ball(rotation)
    turned = reorient(scan, code)
    truth = reorient(scan.with_array(inside.astype(np.uint8)), code)
    mask = model_of(Brightness()).segment(turned)
    assert same_geometry(mask, turned)
    assert orientation(mask) == code
    assert mask.array.dtype == np.uint8
    assert 2 * (mask.array & truth.array).sum() / (mask.array.sum() + truth.array.sum()) > 0.95


def test_a_mirrored_scan_gets_the_mirrored_answer():
    """Whatever the network, and each side's answer stays on its side."""
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 1, 3, padding=1)
    image = np.random.default_rng(0).random((40, 64, 64), np.float32)
    model = model_of(network)
    answer, mirrored = model.probability(image), model.probability(image[..., ::-1])
    np.testing.assert_allclose(mirrored, answer[..., ::-1], atol=1e-6)
    with torch.inference_mode():
        both = [torch.sigmoid(network(torch.from_numpy(np.ascontiguousarray(x[:32]))[None, None]))[0,
                                                                                                   0].numpy()
                for x in (image, image[..., ::-1])]
    np.testing.assert_allclose(answer[0], (both[0][0] + both[1][0][:, ::-1]) / 2, atol=1e-6)
    assert np.abs(both[0] - both[1][..., ::-1]).max() > 0.01                # for this network they differ


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"run.json: missing; give the folder of a finished run"):
        load_model(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"config": {}}))
    (tmp_path / "weights.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match="cannot be read or do not fit together"):
        load_model(tmp_path)
