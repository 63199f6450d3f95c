"""Augmentation against scipy and analytic shapes: image and mask stay together, millimetres stay millimetres."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from magunet import augment as module
from magunet.augment import augment, happens, random_affine, resample, rotation_matrix, sampling_grid, uniform, where_seen

SHAPE, SPACING = (24, 64, 48), (3.0, 1.0, 1.5)             # 72 x 64 x 72 mm
WHOLE = tuple(slice(0, n) for n in SHAPE)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def positions(shape=SHAPE, spacing=SPACING):
    """mm (z, y, x) of voxel centres from the window's middle, (3, d, h, w)."""
    return np.stack(np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing)], indexing="ij"))


def blob(centre=(4.0, -6.0, 5.0), width=14.0):
    """A smooth image (1, 1, d, h, w) in [0, 1] and the mask where it exceeds one half."""
    distance = sum(((p - c) / s) ** 2 for p, c, s in zip(positions(), centre, (width, width, 0.6 * width)))
    image = torch.from_numpy(np.exp(-distance)).float()[None, None]
    return image, (image > 0.5).to(torch.uint8)


def only(monkeypatch, *operations):
    """Let flip, affine and gamma happen as given, in this order."""
    script = iter(operations)
    monkeypatch.setattr(module, "happens", lambda generator: next(script))


def dice(a, b):
    return 2 * (a & b).sum().item() / (a.sum() + b.sum()).item()


# Geometry ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("angles", [(0.3, 0, 0), (0, -0.8, 0), (0, 0, 2.0), (0.5, -0.4, 1.1), (-1.0, 2.0, 0.1)])
def test_rotation_matrix_is_scipys_and_orthonormal(angles):
    ours = rotation_matrix(torch.tensor(angles, dtype=torch.float64)).double().numpy()
    theirs = Rotation.from_euler("xyz", angles).as_matrix()         # small letters: about fixed axes
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert ours.T @ ours == pytest.approx(np.eye(3), abs=1e-6) and np.linalg.det(ours) == pytest.approx(1, abs=1e-6)


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
        only(monkeypatch, True, True, True)
        found, found_mask = augment(image, mask, SPACING, seeded(seed), "strong")
        generator = seeded(seed)
        monkeypatch.setattr(module, "ROTATION_DEGREES", 20.0)
        monkeypatch.setattr(module, "SCALING", 0.3)
        monkeypatch.setattr(module, "TRANSLATION", 0.16)
        monkeypatch.setattr(module, "LOG_GAMMA", 0.6)
        monkeypatch.setattr(module, "happens", lambda generator: True)
        wide, wide_mask = augment(image, mask, SPACING, generator)
        assert torch.equal(found_mask, wide_mask)
        assert torch.equal(found, module.vary_appearance(wide, generator))
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


@pytest.mark.parametrize("seed", range(12))
def test_the_box_holds_all_that_is_seen_of_the_mask(seed):
    """Against the whole window sampled with torch's own grid."""
    rng = np.random.default_rng(seed)
    mask = torch.zeros(1, 1, *SHAPE, dtype=torch.uint8)
    for _ in range(rng.integers(1, 4)):
        low = [int(rng.integers(0, n)) for n in SHAPE]
        mask[0, 0, *(slice(a, a + int(rng.integers(1, 12))) for a in low)] = 1
    affine = random_affine(seeded(seed), SHAPE, SPACING)
    grid = F.affine_grid(affine[None], [1, 1, *SHAPE], align_corners=False)
    torch.testing.assert_close(sampling_grid(affine, SHAPE, WHOLE), grid, rtol=0, atol=1e-6)
    whole = F.grid_sample(mask.float(), sampling_grid(affine, SHAPE, WHOLE), align_corners=False)
    assert torch.equal(resample(mask.float(), mask, affine)[1], (whole > 0.5).to(torch.uint8))
    outside = torch.ones_like(mask)
    outside[..., *where_seen(mask, affine)] = 0
    assert not (whole * outside).any()


def test_the_box_is_no_larger_than_it_must():
    mask = torch.zeros(1, 1, *SHAPE, dtype=torch.uint8)
    mask[0, 0, 10:14, 30:40, 20:30] = 1
    still = torch.eye(3, 4)
    assert where_seen(mask, still) == (slice(9, 15), slice(29, 41), slice(19, 31))


def test_an_empty_mask_stays_empty():
    image, mask = torch.rand(1, 1, *SHAPE), torch.zeros(1, 1, *SHAPE, dtype=torch.uint8)
    affine = random_affine(seeded(0), SHAPE, SPACING)
    assert where_seen(mask, affine) is None and not resample(image, mask, affine)[1].any()


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
    assert np.array_equal(flipped, image.numpy()[..., ::-1]) and np.array_equal(flipped_mask, mask.numpy()[..., ::-1])


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
    monkeypatch.setattr(module, "happens", lambda generator: drawn.append(happens(generator)) or drawn[-1])
    image, mask = torch.rand(1, 1, 3, 4, 5), torch.zeros(1, 1, 3, 4, 5)
    for seed in range(400):
        augment(image, mask, SPACING, seeded(seed))
    counts = np.reshape(drawn, (400, 3))
    assert (np.abs(counts.sum(0) - 200) < 4 * math.sqrt(400 / 4)).all()
    for combination in np.ndindex(2, 2, 2):
        times = (counts == combination).all(1).sum()
        assert abs(times - 50) < 4 * math.sqrt(400 * 7 / 64), combination


def test_happens_is_a_fair_coin():
    generator = seeded(0)
    heads = sum(happens(generator) for _ in range(400))
    assert abs(heads - 200) < 4 * math.sqrt(400 / 4)


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
    assert len(seen) > 25                                   # an eighth has no operation, an eighth only a flip
