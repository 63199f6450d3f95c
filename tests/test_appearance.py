"""Contrast, resolution, blur and noise against scipy, naive means and statistics."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from magunet import appearance
from magunet.appearance import between, blurred, coarser, contrasted, vary_appearance

SHAPE = (12, 20, 16)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def picture(seed=0, shape=SHAPE):
    return torch.rand(1, 1, *shape, generator=seeded(seed))


@pytest.mark.parametrize("sigma", [0.5, 0.73, 1.0])
def test_blur_is_scipys_gaussian(sigma):
    image = picture()
    expected = ndimage.gaussian_filter(image[0, 0].numpy(), sigma, mode="nearest", radius=math.ceil(3 * sigma))
    assert blurred(image, sigma)[0, 0].numpy() == pytest.approx(expected, abs=1e-6)


def test_half_the_resolution_is_the_mean_of_eight_voxels_laid_out_linearly():
    image = picture()
    small = image[0, 0].numpy().reshape(6, 2, 10, 2, 8, 2).mean((1, 3, 5))
    at = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / 2 - 0.5 for n in SHAPE], indexing="ij"))
    expected = ndimage.map_coordinates(small, at, order=1, mode="nearest")
    assert coarser(image, (6, 10, 8))[0, 0].numpy() == pytest.approx(expected, abs=1e-6)
    assert torch.allclose(coarser(image, SHAPE), image, atol=1e-6)


def test_contrast_spreads_about_the_mean():
    image = picture()
    seen = contrasted(image, 1.2, 0.03)
    assert seen.mean().item() == pytest.approx(image.mean().item() + 0.03, abs=1e-6)
    assert seen.std().item() == pytest.approx(1.2 * image.std().item(), rel=1e-5)


def alone(monkeypatch, number):
    """Let only the operation of this number happen: 0 contrast, 1 resolution, 2 blur, 3 noise."""
    turns = []

    def drawn(generator, low, high):
        if (low, high) == (0, 1):
            turns.append(len(turns))
            return 0.0 if turns[-1] == number else 1.0
        return between(generator, low, high)

    monkeypatch.setattr(appearance, "between", drawn)


def test_noise_has_the_deviation_that_was_drawn(monkeypatch):
    flat, found = torch.full((1, 1, 24, 64, 64), 0.5), []
    for seed in range(20):
        alone(monkeypatch, 3)
        found.append((vary_appearance(flat, seeded(seed)) - flat).std().item())
    assert 0 <= min(found) < 0.006 and 0.044 < max(found) < 0.0505


@pytest.mark.parametrize("number", range(4))
def test_each_operation_changes_the_window_and_keeps_it_within_0_and_1(number, monkeypatch):
    image = picture(3)
    alone(monkeypatch, number)
    seen = vary_appearance(image, seeded(1))
    assert seen.shape == image.shape and seen.dtype == torch.float32 and 0 <= seen.min() and seen.max() <= 1
    assert (seen - image).abs().max() > 1e-3


def test_nothing_happens_when_nothing_should(monkeypatch):
    alone(monkeypatch, None)
    assert torch.equal(vary_appearance(picture(), seeded(0)), picture())


def test_each_happens_in_a_quarter_of_windows(monkeypatch):
    calls = dict.fromkeys(("contrasted", "coarser", "blurred"), 0)
    for name in calls:
        monkeypatch.setattr(appearance, name, lambda image, *_, name=name: calls.update({name: calls[name] + 1}) or image)
    image, noisy = picture(0, (2, 3, 4)), 0
    for seed in range(800):
        noisy += not torch.equal(vary_appearance(image, seeded(seed)), image)
    for count in (*calls.values(), noisy):
        assert abs(count - 200) < 4 * math.sqrt(800 * 3 / 16)


def test_the_same_seed_is_the_same_and_input_is_left_alone():
    image = picture()
    for seed in range(20):
        assert torch.equal(*(vary_appearance(image, seeded(seed)) for _ in range(2)))
    assert torch.equal(image, picture())
