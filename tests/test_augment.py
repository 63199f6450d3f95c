"""Augmentation against scipy, analytic shapes and statistics: image and mask stay together, millimetres stay
millimetres."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from magunet import augment as module
from magunet.augment import (
    augment,
    blur,
    change_contrast,
    coarsen,
    happens,
    random_affine,
    resample,
    rotation_matrix,
    sampling_grid,
    uniform,
    vary_appearance,
)

SHAPE, SPACING = (24, 64, 48), (3.0, 1.0, 1.5)             # 72 x 64 x 72 mm


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def positions(shape=SHAPE, spacing=SPACING):
    """mm (z, y, x) of voxel centres from the window's middle, (3, d, h, w)."""
    return np.stack(np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing)],
                                indexing="ij"))


def blob(centre=(4.0, -6.0, 5.0), width=14.0):
    """A smooth image (1, 1, d, h, w) in [0, 1] and the mask where it exceeds one half."""
    distance = sum(((p - c) / s) ** 2 for p, c, s in zip(positions(), centre, (width, width, 0.6 * width)))
    image = torch.from_numpy(np.exp(-distance)).float()[None, None]
    return image, (image > 0.5).to(torch.uint8)


def only(monkeypatch, *operations):
    """Let flip, affine and gamma happen as given, in this order."""
    script = iter(operations)
    monkeypatch.setattr(module, "happens", lambda generator, probability: next(script))


def dice(a, b):
    return 2 * (a & b).sum().item() / (a.sum() + b.sum()).item()


# Geometry ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("angles", [(0.3, 0, 0), (0, -0.8, 0), (0, 0, 2.0), (0.5, -0.4, 1.1),
                                    (-1.0, 2.0, 0.1)])
def test_rotation_matrix_is_scipys_and_orthonormal(angles):
    ours = rotation_matrix(torch.tensor(angles, dtype=torch.float64)).double().numpy()
    theirs = Rotation.from_euler("xyz", angles).as_matrix()         # small letters: about fixed axes
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert (ours.T @ ours == pytest.approx(np.eye(3), abs=1e-6) and np.linalg.det(ours)
            == pytest.approx(1, abs=1e-6))


def test_a_random_affine_is_a_similarity_in_millimetres_within_its_ranges():
    half = np.multiply(SHAPE, SPACING)[::-1] / 2
    angles, scales, shifts = [], [], []
    for seed in range(200):
        affine = random_affine(seeded(seed), SHAPE, SPACING).double().numpy()
        assert affine.shape == (3, 4)
        matrix = np.diag(half) @ affine[:, :3] @ np.diag(1 / half)                  # mm -> mm
        scale = np.cbrt(np.linalg.det(matrix))
        assert matrix.T @ matrix == pytest.approx(scale**2 * np.eye(3), abs=1e-5)
        angles.append(np.abs(Rotation.from_matrix(matrix / scale).as_euler("xyz", degrees=True)).max())
        scales.append(1 / scale)
        shifts.append(np.abs(affine[:, 3]).max() / 2)
    assert 8 < max(angles) <= 10 + 1e-4
    assert 0.85 - 1e-5 <= min(scales) < 0.9 and 1.1 < max(scales) <= 1.15 + 1e-5
    assert 0.07 < max(shifts) <= 0.08 + 1e-6


def test_strong_is_twice_the_reach_and_other_grey_values_after_it(monkeypatch):
    """With everything of the paper's happening, the strong window is the one that its own steps give."""
    image, mask = blob()
    for seed in range(5):
        monkeypatch.setattr(module, "AUGMENTATION_PROBABILITY", 1.0)
        found, found_mask = augment(image, mask, SPACING, seeded(seed), "strong")
        generator = seeded(seed)
        monkeypatch.setattr(module, "ROTATION_DEGREES", 20.0)
        monkeypatch.setattr(module, "SCALING", 0.3)
        monkeypatch.setattr(module, "TRANSLATION", 0.16)
        monkeypatch.setattr(module, "LOG_GAMMA", 0.6)
        wide, wide_mask = augment(image, mask, SPACING, generator)
        assert torch.equal(found_mask, wide_mask)
        assert torch.equal(found, vary_appearance(wide, generator))
        monkeypatch.undo()


@pytest.mark.parametrize("spacing", [(3.0, 1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 2.0, 0.8)])
def test_a_ball_stays_a_ball_at_any_spacing(monkeypatch, spacing):
    shape = tuple(round(n / s) for n, s in zip((72, 60, 64), spacing))
    monkeypatch.setattr(module, "ROTATION_DEGREES", 80.0)           # a wrong matrix would show
    places, radius = positions(shape, spacing), 16.0
    ball = torch.from_numpy((places**2).sum(0) < radius**2)[None, None]
    for seed in range(6):
        affine = random_affine(seeded(seed), shape, spacing)
        seen = resample(ball.float(), ball.to(torch.uint8), affine)[1][0, 0].numpy() > 0
        half = np.multiply(shape, spacing)[::-1] / 2
        scale = 1 / np.cbrt(np.linalg.det(np.diag(half) @ affine[:, :3].numpy() @ np.diag(1 / half)))
        index = np.argwhere(seen)
        extent = (np.ptp(index, 0) + 1) * spacing
        assert np.abs(extent - 2 * radius * scale).max() <= max(spacing) + 0.5
        found = places[:, seen]
        variance = (radius * scale) ** 2 / 5
        assert np.cov(found) == pytest.approx(variance * np.eye(3), abs=0.06 * variance)


def naive_resample(array, matrix):
    """The same map by scipy, on voxel indices. array: (d, h, w); matrix: 3 x 4 on x, y, z in window units."""
    size = np.array(array.shape)[::-1, None]
    index = np.stack([g.ravel() for g in np.meshgrid(*map(np.arange, array.shape), indexing="ij")])[::-1]
    units = (2 * index + 1) / size - 1
    source = ((matrix[:, :3] @ units + matrix[:, 3:] + 1) * size - 1) / 2
    return map_coordinates(array, source[::-1], order=1, mode="grid-constant").reshape(array.shape)


@pytest.mark.parametrize("seed", range(3))
def test_resample_is_scipys_linear_interpolation_with_air_outside(seed):
    rng = np.random.default_rng(seed)
    image, mask = rng.random((7, 9, 11)), (rng.random((7, 9, 11)) > 0.5).astype(np.uint8)
    matrix = random_affine(seeded(seed), image.shape, SPACING)
    seen, seen_mask = resample(*(torch.from_numpy(a)[None, None] for a in (image, mask)), matrix)
    expected, cover = (naive_resample(a.astype(float), matrix.double().numpy()) for a in (image, mask))
    assert seen[0, 0].numpy() == pytest.approx(expected, abs=1e-6)
    certain = np.abs(cover - 0.5) > 1e-6
    assert np.array_equal(seen_mask[0, 0].numpy()[certain], (cover > 0.5)[certain])


@pytest.mark.parametrize("seed", range(4))
def test_the_grid_is_torchs(seed):
    affine = random_affine(seeded(seed), SHAPE, SPACING)
    grid = F.affine_grid(affine[None], [1, 1, *SHAPE], align_corners=False)
    torch.testing.assert_close(sampling_grid(affine, SHAPE), grid, rtol=0, atol=1e-6)


def test_the_identity_changes_nothing():
    image, mask = blob()
    seen, seen_mask = resample(image, mask, torch.eye(3, 4))
    assert torch.allclose(seen, image, atol=1e-5) and torch.equal(seen_mask, mask)


@pytest.mark.parametrize("seed", range(8))
def test_image_and_mask_stay_together(monkeypatch, seed):
    only(monkeypatch, True, True, False)
    before, before_mask = blob()
    image, mask = augment(before, before_mask, SPACING, seeded(seed))
    assert dice(image > 0.5, mask == 1) > 0.9
    assert dice(mask == 1, before_mask == 1) < 0.85                             # and something moved


# Operations -------------------------------------------------------------------------------------------

def test_a_flip_changes_left_and_right_of_image_and_mask_and_nothing_else(monkeypatch):
    image, mask = torch.rand(1, 1, 4, 5, 6), (torch.rand(1, 1, 4, 5, 6) > 0.5).to(torch.uint8)
    only(monkeypatch, True, False, False)
    flipped, flipped_mask = augment(image, mask, SPACING, seeded(0))
    assert np.array_equal(flipped, image.numpy()[..., ::-1]) and np.array_equal(flipped_mask,
                                                                                mask.numpy()[..., ::-1])


def test_gamma_keeps_order_range_and_mask(monkeypatch):
    image = torch.rand(1, 1, 4, 5, 6)
    image[0, 0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    mask, exponents = (image > 0.5).to(torch.uint8), []
    order = image.flatten().argsort()
    for seed in range(200):
        only(monkeypatch, False, False, True)
        changed, same = augment(image, mask, SPACING, seeded(seed))
        assert changed.min() == 0 and changed.max() == 1 and torch.equal(same, mask)
        assert (changed.flatten()[order].diff() >= 0).all()
        exponents.append((changed[0, 0, 2, 2, 2].log() / image[0, 0, 2, 2, 2].log()).item())
    assert math.exp(-0.3) - 1e-4 <= min(exponents) < 0.78 and 1.28 < max(exponents) <= math.exp(0.3) + 1e-4


def test_nothing_happens_when_nothing_should(monkeypatch):
    only(monkeypatch, False, False, False)
    image, mask = blob()
    same, same_mask = augment(image, mask, SPACING, seeded(0))
    assert torch.equal(same, image) and torch.equal(same_mask, mask)


def test_each_operation_happens_half_of_the_time_and_independently(monkeypatch):
    drawn = []
    monkeypatch.setattr(module, "happens", lambda *arguments: drawn.append(happens(*arguments)) or drawn[-1])
    image, mask = torch.rand(1, 1, 3, 4, 5), torch.zeros(1, 1, 3, 4, 5)
    for seed in range(400):
        augment(image, mask, SPACING, seeded(seed))
    counts = np.reshape(drawn, (400, 3))
    assert (np.abs(counts.sum(0) - 200) < 4 * math.sqrt(400 / 4)).all()
    for combination in np.ndindex(2, 2, 2):
        times = (counts == combination).all(1).sum()
        assert abs(times - 50) < 4 * math.sqrt(400 * 7 / 64), combination


@pytest.mark.parametrize("probability", [0.25, 0.5])
def test_happens_as_often_as_it_should(probability):
    generator = seeded(0)
    count = sum(happens(generator, probability) for _ in range(400))
    assert abs(count - 400 * probability) < 4 * math.sqrt(400 * probability * (1 - probability))


def test_uniform_stays_within_its_bounds():
    drawn = uniform(seeded(0), -2.0, 5.0, 1000)
    assert -2 <= drawn.min() < -1.9 and 4.9 < drawn.max() < 5
    assert drawn.mean().item() == pytest.approx(1.5, abs=4 * 7 / 12**0.5 / 1000**0.5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64])
def test_a_mask_stays_0_and_1_and_of_its_type(dtype):
    image, mask = blob()
    for seed in range(12):
        seen, seen_mask = augment(image, mask.to(dtype), SPACING, seeded(seed))
        assert seen_mask.dtype == dtype and set(seen_mask.unique().tolist()) <= {0, 1}
        assert seen.dtype == torch.float32 and seen.shape == image.shape == seen_mask.shape
        assert 0 <= seen.min() and seen.max() <= 1


def test_the_same_seed_is_the_same_augmentation_and_input_is_left_alone():
    image, mask = blob()
    kept = image.clone(), mask.clone()
    for seed in range(10):
        first, again = (augment(image, mask, SPACING, seeded(seed)) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert torch.equal(image, kept[0]) and torch.equal(mask, kept[1])


def test_other_seeds_are_other_augmentations():
    image, mask = blob()
    seen = {augment(image, mask, SPACING, seeded(seed))[0].numpy().tobytes() for seed in range(40)}
    # an eighth has no operation, an eighth only a flip
    assert len(seen) > 25


# Grey values ------------------------------------------------------------------------------------------

def noise(seed=0, shape=(12, 20, 16)):
    return torch.rand(1, 1, *shape, generator=seeded(seed))


@pytest.mark.parametrize("sigma", [0.5, 0.73, 1.0])
def test_blur_is_scipys_gaussian(sigma):
    image = noise()
    expected = ndimage.gaussian_filter(image[0, 0].numpy(), sigma, mode="nearest",
                                       radius=math.ceil(3 * sigma))
    assert blur(image, sigma)[0, 0].numpy() == pytest.approx(expected, abs=1e-6)


def test_half_the_resolution_is_the_mean_of_eight_voxels_laid_out_linearly():
    image = noise()
    small = image[0, 0].numpy().reshape(6, 2, 10, 2, 8, 2).mean((1, 3, 5))
    at = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / 2 - 0.5 for n in (12, 20, 16)], indexing="ij"))
    expected = ndimage.map_coordinates(small, at, order=1, mode="nearest")
    assert coarsen(image, (6, 10, 8))[0, 0].numpy() == pytest.approx(expected, abs=1e-6)
    assert torch.allclose(coarsen(image, (12, 20, 16)), image, atol=1e-6)


def test_contrast_spreads_about_the_mean():
    image = noise()
    seen = change_contrast(image, 1.2, 0.03)
    assert seen.mean().item() == pytest.approx(image.mean().item() + 0.03, abs=1e-6)
    assert seen.std().item() == pytest.approx(1.2 * image.std().item(), rel=1e-5)


def test_noise_has_the_deviation_that_was_drawn(monkeypatch):
    flat, found = torch.full((1, 1, 24, 64, 64), 0.5), []
    for seed in range(20):
        only(monkeypatch, False, False, False, True)
        found.append((vary_appearance(flat, seeded(seed)) - flat).std().item())
    assert 0 <= min(found) < 0.006 and 0.044 < max(found) < 0.0505


@pytest.mark.parametrize("operation", range(4))
def test_each_operation_changes_the_window_and_keeps_it_within_0_and_1(operation, monkeypatch):
    image = noise(3)
    only(monkeypatch, *(k == operation for k in range(4)))
    seen = vary_appearance(image, seeded(1))
    assert seen.shape == image.shape and seen.dtype == torch.float32 and 0 <= seen.min() and seen.max() <= 1
    assert (seen - image).abs().max() > 1e-3


def test_each_happens_in_a_quarter_of_windows(monkeypatch):
    calls = dict.fromkeys(("change_contrast", "coarsen", "blur"), 0)
    for name in calls:
        monkeypatch.setattr(module, name, lambda image, *_,
                            name=name: calls.update({name: calls[name] + 1}) or image)
    image, noisy = noise(0, (2, 3, 4)), 0
    for seed in range(800):
        noisy += not torch.equal(vary_appearance(image, seeded(seed)), image)
    for count in (*calls.values(), noisy):
        assert abs(count - 200) < 4 * math.sqrt(800 * 3 / 16)
