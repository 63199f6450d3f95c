"""Augmentation against scipy, analytic shapes and statistics: image and mask stay together, millimetres stay
millimetres."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from scipy.spatial.transform import Rotation

from magunet import augment as module
from magunet.augment import augment, happens, random_affine, resample, sampling_grid, vary_appearance
from magunet.metrics import overlap

SHAPE, SPACING = (24, 64, 48), (3.0, 1.0, 1.25)            # 72 x 64 x 60 mm


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def noise(seed=0, shape=(12, 20, 16)):
    return torch.rand(1, 1, *shape, generator=seeded(seed))


def blob():
    """A smooth image (1, 1, d, h, w) in [0, 1], lopsided about its middle, and the mask where it exceeds a
    half."""
    middle = (np.reshape(SHAPE, (3, 1, 1, 1)) - 1) / 2
    places = (np.indices(SHAPE) - middle) * np.reshape(SPACING, (3, 1, 1, 1))                   # mm
    distance = sum(((p - c) / w) ** 2 for p, c, w in zip(places, (4.0, -6.0, 5.0), (14.0, 14.0, 8.4)))
    image = torch.from_numpy(np.exp(-distance)).float()[None, None]
    return image, (image > 0.5).to(torch.uint8)


def only(monkeypatch, *operations):
    """Let flip, affine and gamma happen as given, in this order."""
    script = iter(operations)
    monkeypatch.setattr(module, "happens", lambda generator, probability: next(script))


# Geometry ---------------------------------------------------------------------------------------------
def test_a_random_affine_is_a_similarity_in_millimetres_within_its_ranges():
    half, angles, scales, shifts = np.multiply(SHAPE, SPACING)[::-1] / 2, [], [], []
    for seed in range(200):
        affine = random_affine(seeded(seed), SHAPE, SPACING).double().numpy()
        assert affine.shape == (3, 4)
        matrix = np.diag(half) @ affine[:, :3] @ np.diag(1 / half)                  # mm -> mm
        scale = np.cbrt(np.linalg.det(matrix))
        assert matrix.T @ matrix == pytest.approx(scale**2 * np.eye(3), abs=1e-5), seed
        angles.append(np.abs(Rotation.from_matrix(matrix / scale).as_euler("xyz", degrees=True)).max())
        scales.append(1 / scale)
        shifts.append(np.abs(affine[:, 3]).max() / 2)
    assert 8 < max(angles) <= 10 + 1e-4
    assert 0.85 - 1e-5 <= min(scales) < 0.9 and 1.1 < max(scales) <= 1.15 + 1e-5
    assert 0.07 < max(shifts) <= 0.08 + 1e-6


def test_strong_is_twice_the_reach_and_other_grey_values_after_it(monkeypatch):
    """With everything of the paper's happening, the strong window is the one that its own steps give."""
    image, mask = blob()
    monkeypatch.setattr(module, "AUGMENTATION_PROBABILITY", 1.0)
    wider = {"ROTATION_DEGREES": 20.0, "SCALING": 0.3, "TRANSLATION": 0.16, "LOG_GAMMA": 0.6}
    for seed in range(5):
        found, found_mask = augment(image, mask, SPACING, seeded(seed), "strong")
        generator = seeded(seed)
        with monkeypatch.context() as patched:
            for name, value in wider.items():
                patched.setattr(module, name, value)
            wide, wide_mask = augment(image, mask, SPACING, generator)
        assert torch.equal(found_mask, wide_mask), seed
        assert torch.equal(found, vary_appearance(wide, generator)), seed


def naive_resample(array, matrix):
    """The same map by scipy, on voxel indices. array: (d, h, w); matrix: 3 x 4 on x, y, z in window units."""
    size = np.array(array.shape)[::-1, None]
    units = (2 * np.indices(array.shape).reshape(3, -1)[::-1] + 1) / size - 1
    source = ((matrix[:, :3] @ units + matrix[:, 3:] + 1) * size - 1) / 2
    return ndimage.map_coordinates(array, source[::-1], order=1, mode="grid-constant").reshape(array.shape)


def test_resample_is_scipys_linear_interpolation_with_air_outside():
    for seed in range(3):
        rng = np.random.default_rng(seed)
        image, mask = rng.random((7, 9, 11)), (rng.random((7, 9, 11)) > 0.5).astype(np.uint8)
        matrix = random_affine(seeded(seed), image.shape, SPACING)
        seen, seen_mask = resample(*(torch.from_numpy(a)[None, None] for a in (image, mask)), matrix)
        expected, cover = (naive_resample(a.astype(float), matrix.double().numpy()) for a in (image, mask))
        assert seen[0, 0].numpy() == pytest.approx(expected, abs=1e-6), seed
        certain = np.abs(cover - 0.5) > 1e-6
        assert np.array_equal(seen_mask[0, 0].numpy()[certain], (cover > 0.5)[certain]), seed


def test_the_grid_is_torchs_and_the_identity_changes_nothing():
    for seed in range(4):
        affine = random_affine(seeded(seed), SHAPE, SPACING)
        grid = F.affine_grid(affine[None], [1, 1, *SHAPE], align_corners=False)
        torch.testing.assert_close(sampling_grid(affine, SHAPE), grid, rtol=0, atol=1e-6)
    image, mask = blob()
    seen, seen_mask = resample(image, mask, torch.eye(3, 4))
    assert torch.allclose(seen, image, atol=1e-5) and torch.equal(seen_mask, mask)


def test_image_and_mask_stay_together(monkeypatch):
    before, before_mask = blob()
    for seed in range(8):
        only(monkeypatch, True, True, False)
        image, mask = augment(before, before_mask, SPACING, seeded(seed))
        assert overlap(image > 0.5, mask).dice > 0.9, seed
        assert overlap(mask, before_mask).dice < 0.85, seed                     # and something moved


# Operations -------------------------------------------------------------------------------------------
def test_a_flip_changes_left_and_right_and_without_any_operation_nothing_changes(monkeypatch):
    pair = noise(), (noise() > 0.5).to(torch.uint8)
    for flips in (True, False):
        only(monkeypatch, flips, False, False)
        for ours, given in zip(augment(*pair, SPACING, seeded(0)), pair, strict=True):
            assert np.array_equal(ours, given.numpy()[..., ::-1] if flips else given), flips


def test_gamma_keeps_order_range_and_mask(monkeypatch):
    image = noise(shape=(4, 5, 6))
    image[0, 0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    mask, order, exponents = (image > 0.5).to(torch.uint8), image.flatten().argsort(), []
    for seed in range(200):
        only(monkeypatch, False, False, True)
        changed, same = augment(image, mask, SPACING, seeded(seed))
        assert changed.min() == 0 and changed.max() == 1 and torch.equal(same, mask), seed
        assert (changed.flatten()[order].diff() >= 0).all(), seed
        exponents.append((changed[0, 0, 2, 2, 2].log() / image[0, 0, 2, 2, 2].log()).item())
    assert math.exp(-0.3) - 1e-4 <= min(exponents) < 0.78 and 1.28 < max(exponents) <= math.exp(0.3) + 1e-4


def test_each_operation_is_drawn_for_itself_with_its_own_probability(monkeypatch):
    generator, asked = seeded(0), []
    for p in (0.25, 0.5):
        count = sum(happens(generator, p) for _ in range(400))
        assert abs(count - 400 * p) < 4 * math.sqrt(400 * p * (1 - p)), p
    monkeypatch.setattr(module, "happens", lambda generator, p: asked.append(p) or happens(generator, p))
    for strength in ("paper", "strong"):
        augment(*blob(), SPACING, seeded(0), strength)
    assert asked == [0.5] * 3 + [0.5] * 3 + [0.25] * 4


def test_a_seed_is_an_augmentation_that_leaves_its_input_alone_and_masks_0_and_1_of_their_type():
    image, mask = blob()
    kept, seen = (image.clone(), mask.clone()), set()
    for seed in range(40):
        dtype = (torch.uint8, torch.float32, torch.int64)[seed % 3]
        first, again = (augment(image, mask.to(dtype), SPACING, seeded(seed)) for _ in range(2))
        assert all(map(torch.equal, first, again)), seed
        assert first[1].dtype == dtype and set(first[1].unique().tolist()) <= {0, 1}, seed
        assert first[0].dtype == torch.float32 and first[0].shape == image.shape == first[1].shape, seed
        assert 0 <= first[0].min() and first[0].max() <= 1, seed
        seen.add(first[0].numpy().tobytes())
    assert torch.equal(image, kept[0]) and torch.equal(mask, kept[1])
    assert len(seen) > 25, "an eighth has no operation, an eighth only a flip"


# Grey values ------------------------------------------------------------------------------------------
def test_blur_is_scipys_gaussian_and_contrast_spreads_about_the_mean():
    image = noise()
    for sigma, radius in ((0.5, 2), (0.73, 3), (1.0, 3)):
        expected = ndimage.gaussian_filter(image[0, 0].numpy(), sigma, mode="nearest", radius=radius)
        assert module.blur(image, sigma)[0, 0].numpy() == pytest.approx(expected, abs=1e-6), sigma
    seen = module.change_contrast(image, 1.2, 0.03)
    assert seen.mean().item() == pytest.approx(image.mean().item() + 0.03, abs=1e-6)
    assert seen.std().item() == pytest.approx(1.2 * image.std().item(), rel=1e-5)


def test_half_the_resolution_is_the_mean_of_eight_voxels_laid_out_linearly():
    image, at = noise(), (np.indices((12, 20, 16)) + 0.5) / 2 - 0.5
    small = image[0, 0].numpy().reshape(6, 2, 10, 2, 8, 2).mean((1, 3, 5))
    expected = ndimage.map_coordinates(small, at, order=1, mode="nearest")
    assert module.coarsen(image, (6, 10, 8))[0, 0].numpy() == pytest.approx(expected, abs=1e-6)
    assert torch.allclose(module.coarsen(image, (12, 20, 16)), image, atol=1e-6)


def test_noise_has_the_deviation_that_was_drawn(monkeypatch):
    flat, found = torch.full((1, 1, 12, 32, 32), 0.5), []
    for seed in range(20):
        only(monkeypatch, False, False, False, True)
        found.append((vary_appearance(flat, seeded(seed)) - flat).std().item())
    assert 0 <= min(found) < 0.006 and 0.044 < max(found) < 0.0505


def test_each_operation_changes_the_window_and_keeps_it_within_0_and_1(monkeypatch):
    image = noise(3)
    for operation in range(4):
        only(monkeypatch, *(k == operation for k in range(4)))
        seen = vary_appearance(image, seeded(1))
        assert seen.shape == image.shape and seen.dtype == torch.float32, operation
        assert 0 <= seen.min() and seen.max() <= 1 and (seen - image).abs().max() > 1e-3, operation
