"""Surface distances against spheres, plates, brute force and SimpleITK, at spacings that differ by axis."""

import numpy as np
import pytest
from conftest import refused
from scipy import ndimage
from scipy.spatial.distance import cdist

from magunet.surfaces import diagonal, surface_distances, surface_elements, surface_scores, weighted_quantile

SPACINGS = [(1.0, 1.0, 1.0), (3.0, 0.7, 0.7), (1.5, 0.5, 1.0)]


def radius(spacing, size=60.0, centre=(0.3, 0.1, -0.2)):
    """Distance in mm of every voxel from a point near the middle of a cube of ``size`` mm."""
    axes = [(np.arange(int(size / s)) - int(size / s) / 2) * s + c for s, c in zip(spacing, centre)]
    return np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))


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


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spacing", SPACINGS)
def test_scores_are_those_of_all_pairs_of_elements(seed, spacing):
    x, y = blob(seed), blob(seed + 100)
    (a, a_areas), (b, b_areas) = naive_elements(x, spacing), naive_elements(y, spacing)
    pairs = cdist(a, b)
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    directed = []
    for values, areas in ((there, a_areas), (back, b_areas)):
        directed.append(min(v for v in values if areas[values <= v].sum() >= 0.95 * areas.sum() - 1e-9))
    both, areas = np.concatenate([there, back]), np.concatenate([a_areas, b_areas])
    ours = surface_scores(x, y.astype(np.uint8) * 7, spacing)           # any non-zero value is foreground
    assert ours.hd95 == pytest.approx(max(directed), rel=1e-9)
    assert ours.assd == pytest.approx(np.average(both, weights=areas), rel=1e-9)
    assert ours.nsd == pytest.approx(areas[both <= 1 + 1e-6].sum() / areas.sum(), rel=1e-9)
    assert not ours.undefined
    swapped = surface_scores(y, x, spacing)
    assert (swapped.hd95,
            swapped.nsd) == pytest.approx((ours.hd95, ours.nsd)) and swapped.assd == pytest.approx(ours.assd)


@pytest.mark.parametrize("spacing, excess", zip(SPACINGS, (1.06, 1.16, 1.11)))
def test_a_sphere_has_its_radius_and_the_stated_area(spacing, excess):
    ball = radius(spacing) < 20
    places, areas = surface_elements(ball, spacing)
    centre = [int(60 / s) / 2 * s - c for s, c in zip(spacing, (0.3, 0.1, -0.2))]
    assert np.linalg.norm(places - centre, axis=1).mean() == pytest.approx(20, abs=0.03)
    assert areas.sum() / (4 * np.pi * 20**2) == pytest.approx(excess, abs=0.01)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_spheres_within_each_other_are_as_far_apart_as_their_radii(spacing):
    r, slack = radius(spacing), np.linalg.norm(spacing) / 2
    scores = surface_scores(r < 20, r < 16, spacing)
    assert scores.assd == pytest.approx(4, abs=0.1 * max(spacing))
    assert 4 <= scores.hd95 <= 4 + slack
    assert scores.nsd == 0
    assert surface_scores(r < 20, r < 16, spacing, tolerance=4 + 2 * slack).nsd == 1


@pytest.mark.parametrize("axis", range(3))
def test_a_shifted_plate_is_as_far_as_it_was_moved(axis):
    """A plate one voxel thick, moved by 5 voxels along its normal: its near face by 4 voxels, its far face by
    5."""
    spacing, shape = (2.0, 1.0, 0.5), [60, 60, 60]
    shape[axis] = 12
    plates = [np.zeros(shape, bool), np.zeros(shape, bool)]
    for plate, at in zip(plates, (3, 8)):
        plate[tuple(at if k == axis else slice(None) for k in range(3))] = True
    scores = surface_scores(*plates, spacing)
    assert scores.hd95 == pytest.approx(5 * spacing[axis], rel=1e-9)
    assert scores.assd == pytest.approx(4.5 * spacing[axis], rel=0.02)          # the rim weighs a little
    assert surface_scores(*plates, spacing,
                          tolerance=4.001 * spacing[axis]).nsd == pytest.approx(0.5, abs=0.05)


def test_the_median_is_of_both_directions():
    """Two plates of 40 mm side, 4 voxels of 2 mm apart: of each, one face is 6 mm away and one 8, and rims do
    not count much."""
    plates = np.zeros((2, 12, 40, 40), bool)
    plates[0, 3] = plates[1, 7] = True
    assert surface_distances(*plates, (2.0, 1.0, 1.0)).median() == pytest.approx(7, abs=1.01)
    assert surface_distances(plates[0], plates[0], (2.0, 1.0, 1.0)).median() == 0


def test_hd95_is_the_larger_direction():
    """A plate, and one with a block on it: of the plain one 95 % are near the other, of the other they are
    not."""
    plain = np.zeros((30, 50, 50), bool)
    plain[3:6] = True
    block = plain.copy()
    block[6:16, :20, :20] = True
    distances = surface_distances(block, plain, (1, 1, 1))
    assert weighted_quantile(distances.from_truth, distances.truth_areas, 0.95) <= 2
    assert weighted_quantile(distances.from_prediction, distances.prediction_areas,
                             0.95) == pytest.approx(10, abs=0.5)
    assert surface_scores(block, plain, (1, 1, 1)).hd95 == pytest.approx(10, abs=0.5)
    assert surface_scores(plain, block, (1, 1, 1)).hd95 == pytest.approx(10, abs=0.5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_whole_hausdorff_distance_agrees_with_simpleitk_within_a_voxel(seed, spacing):
    """SimpleITK measures from voxel centres, and between masks, not surfaces: so these two lie apart."""
    sitk = pytest.importorskip("SimpleITK")
    masks = [np.zeros((12, 14, 40), np.uint8) for _ in range(2)]
    masks[0][1:10, 1:12, 1:13], masks[1][1:10, 1:12, 22:34] = blob(seed), blob(seed + 50)
    images = [sitk.GetImageFromArray(mask) for mask in masks]
    for image in images:
        image.SetSpacing([float(s) for s in spacing[::-1]])
    theirs = sitk.HausdorffDistanceImageFilter()
    theirs.Execute(*images)
    ours = surface_distances(*masks, spacing).hausdorff(1.0)
    assert ours == pytest.approx(theirs.GetHausdorffDistance(), abs=np.linalg.norm(spacing))
    assert ours > 5 * spacing[2]


def test_equal_masks_have_no_distance_even_at_the_border():
    mask = np.zeros((6, 7, 8), bool)
    mask[:3, :, 4:] = True
    scores = surface_scores(mask, mask, (3, 1, 1))
    assert (scores.hd95, scores.assd, scores.nsd, scores.undefined) == (0, 0, 1, False)
    _, areas = surface_elements(np.ones((40, 50, 60), bool), (3, 1, 0.5))
    assert areas.sum() == pytest.approx(2 * (120 * 50 + 120 * 30 + 50 * 30),
                                        rel=0.05)      # closed where the scan ends


def test_a_grid_twice_as_coarse_gives_distances_twice_as_long():
    x, y = blob(1), blob(2)
    fine, coarse = surface_scores(x, y, (1, 0.5, 0.7)), surface_scores(x, y, (2, 1, 1.4), tolerance=2)
    assert (coarse.hd95, coarse.assd, coarse.nsd) == pytest.approx((2 * fine.hd95, 2 * fine.assd, fine.nsd))


def test_what_lies_around_the_masks_does_not_matter():
    x, y = blob(3), blob(4)
    around = [np.pad(mask, ((5, 0), (2, 9), (0, 4))) for mask in (x, y)]
    ours, padded = surface_scores(x, y, (2, 1, 1)), surface_scores(*around, (2, 1, 1))
    assert (padded.hd95, padded.assd, padded.nsd) == pytest.approx((ours.hd95, ours.assd, ours.nsd))


@pytest.mark.parametrize("prediction, truth, expected", [
    (0, 0, (0, 0, 1, False)), (1, 0, (13, 13, 0, True)), (0, 1, (13, 13, 0, True))])
def test_empty_masks_follow_the_stated_policy(prediction, truth, expected):
    """The diagonal of 4 x 3 x 12 voxels of 1 mm is 13 mm."""
    scores = surface_scores(np.full((4, 3, 12), prediction), np.full((4, 3, 12), truth), (1, 1, 1))
    assert (scores.hd95, scores.assd, scores.nsd, scores.undefined) == expected


def test_the_penalty_can_be_that_of_the_scan_a_mask_was_cut_from():
    empty, full = np.zeros((2, 2, 2)), np.ones((2, 2, 2))
    assert surface_scores(empty, full, (1, 1, 1), penalty=diagonal((30, 40, 0), (1, 1, 1))).hd95 == 50


def test_different_grids_are_refused():
    refused(lambda: surface_scores(np.ones((2, 2, 2)), np.ones((2, 2, 3)), (1, 1, 1)),
            "lie on different grids")
