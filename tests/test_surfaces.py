"""Surface distances against spheres and brute force, at spacings that differ by axis."""

from dataclasses import astuple

import numpy as np
import pytest
from conftest import refused
from scipy import ndimage
from scipy.spatial.distance import cdist

from magunet.surfaces import diagonal, surface_distances, surface_elements, surface_scores

SPACINGS = [(1.0, 1.0, 1.0), (3.0, 0.7, 0.7), (1.5, 0.5, 1.0)]


def blob(seed, shape=(9, 11, 12)):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2)
    return noise > np.quantile(noise, 0.75)


def naive_elements(mask, spacing):
    """Voxel by voxel, with each difference written out: places from the array's corner, and areas."""
    padded = np.pad(mask, 1).astype(int)
    places, areas = [], []
    for z, y, x in np.ndindex(*(n - 1 for n in padded.shape)):
        cube = {(a, b, c): padded[z + a, y + b, x + c] for a in (0, 1) for b in (0, 1) for c in (0, 1)}
        if len(set(cube.values())) == 1:
            continue
        halfway, slope = [], [0.0, 0.0, 0.0]
        for corner, value in cube.items():
            for axis in range(3):
                if corner[axis] == 0:
                    other = tuple(1 if k == axis else corner[k] for k in range(3))
                    slope[axis] += (cube[other] - value) / 4 / spacing[axis]
                    if cube[other] != value:
                        halfway.append([(p + q) / 2 for p, q in zip(corner, other)])
        mean = [sum(point[k] for point in halfway) / len(halfway) for k in range(3)]
        places.append([(index + m - 1) * s for index, m, s in zip((z, y, x), mean, spacing)])
        areas.append(sum(g * g for g in slope) ** 0.5 * spacing[0] * spacing[1] * spacing[2])
    return np.array(places), np.array(areas)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_scores_are_those_of_all_pairs_of_elements(spacing):
    for seed in range(4):
        x, y = blob(seed), blob(seed + 100)
        (a, a_areas), (b, b_areas) = naive_elements(x, spacing), naive_elements(y, spacing)
        pairs = cdist(a, b)
        there, back = pairs.min(axis=1), pairs.min(axis=0)
        both, areas = np.concatenate([there, back]), np.concatenate([a_areas, b_areas])

        def covered(values, areas, share):
            return min(v for v in values if areas[values <= v].sum() >= share * areas.sum() - 1e-9)

        hd95 = max(covered(there, a_areas, 0.95), covered(back, b_areas, 0.95))
        nsd = areas[both <= 1 + 1e-6].sum() / areas.sum()
        expected = hd95, np.average(both, weights=areas), nsd, False
        ours = surface_scores(x, y.astype(np.uint8) * 7, spacing)       # any non-zero value is foreground
        assert astuple(ours) == pytest.approx(expected, rel=1e-9), seed
        median = surface_distances(x, y, spacing).median()
        assert median == pytest.approx(covered(both, areas, 0.5), rel=1e-9), seed


@pytest.mark.parametrize("spacing, excess", zip(SPACINGS, (1.06, 1.16, 1.11)))
def test_spheres_have_their_radii_the_stated_area_and_the_distance_between_their_radii(spacing, excess):
    shape, slack = [int(60 / s) for s in spacing], np.linalg.norm(spacing) / 2
    centre = np.array((0.3, 0.1, -0.2)) + np.floor_divide(shape, 2) * np.array(spacing)
    places = np.moveaxis(np.indices(shape), 0, -1) * spacing
    large, small = (np.linalg.norm(places - centre, axis=-1) < r for r in (20, 16))
    places, areas = surface_elements(large, spacing)
    assert np.linalg.norm(places - centre, axis=1).mean() == pytest.approx(20, abs=0.03)
    assert areas.sum() / (4 * np.pi * 20**2) == pytest.approx(excess, abs=0.01)
    scores = surface_scores(large, small, spacing)
    assert scores.assd == pytest.approx(4, abs=0.1 * max(spacing))
    assert 4 <= scores.hd95 <= 4 + slack and scores.nsd == 0
    assert surface_scores(large, small, spacing, tolerance=4 + 2 * slack).nsd == 1


def test_empty_masks_follow_the_stated_policy_and_different_grids_are_refused():
    """The diagonal of 4 x 3 x 12 voxels of 1 mm is 13 mm; that of a scan that they were cut from, 50 mm."""
    penalty = diagonal((30, 40, 0), (1, 1, 1))
    for prediction, truth, worst, expected in (
            (0, 0, None, (0, 0, 1, False)), (1, 0, None, (13, 13, 0, True)), (0, 1, None, (13, 13, 0, True)),
            (1, 0, penalty, (50, 50, 0, True)), (0, 0, penalty, (0, 0, 1, False))):
        masks = [np.full((4, 3, 12), value) for value in (prediction, truth)]
        found = astuple(surface_scores(*masks, (1, 1, 1), worst))
        assert found == expected, (prediction, truth, worst)
    refused(lambda: surface_scores(masks[0], masks[0][1:], (1, 1, 1)), "lie on different grids")
