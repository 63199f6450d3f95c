"""Scores beside those of SimpleITK and MONAI, on random and degenerate masks, at spacings that differ by
axis.

Overlap agrees to the last digits. Distances cannot: ours run between surfaces through the corners of voxels,
each piece weighted with its area; theirs between the centres of border voxels, each counted once. So they lie
apart by a part of a voxel's diagonal, and the tolerances below are in these: largest distance (Hausdorff),
95th percentile, mean (twice that for SimpleITK's, whose borders hold the voxels that touch the outside with a
corner, too).
"""

import warnings

import numpy as np
import pytest
import SimpleITK
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    compute_surface_dice,
    get_confusion_matrix,
)
from test_surfaces import SPACINGS, blob

from magunet.metrics import overlap
from magunet.surfaces import surface_distances, surface_scores

SHAPE = (10, 14, 13)
RANDOM, DEGENERATE = (0.25, 0.4, 0.2), (0.6, 0.4, 0.7)
"""Tolerances, in diagonals of a voxel."""


def degenerate():
    """A voxel, a row, a plate, a corner, everything: pairs that share something or nothing."""
    one, far, row, plate, corner = (np.zeros(SHAPE, bool) for _ in range(5))
    one[4, 5, 6] = far[9, 13, 12] = row[3, 4] = plate[5] = corner[:3, :3, :3] = True
    full = np.ones(SHAPE, bool)
    return {"a voxel and itself": (one, one), "two voxels": (one, far), "a voxel in all": (one, full),
            "all": (full, full),
            "a plate and a row": (plate, row), "a plate in all": (plate, full), "two corners": (corner, far),
            "two plates": (plate, np.roll(plate, 2, 0)), "a blob in all": (blob(1, SHAPE), full)}


PAIRS = {f"blobs {seed}": (blob(seed, SHAPE), blob(seed + 100, SHAPE)) for seed in range(6)} | degenerate()


def tensors(*masks):
    return [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in masks]


@pytest.mark.parametrize("name", PAIRS)
def test_overlap_is_that_of_simpleitk_and_monai(name):
    prediction, truth = PAIRS[name]
    ours, theirs = overlap(prediction, truth), SimpleITK.LabelOverlapMeasuresImageFilter()
    theirs.Execute(*(SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in (prediction, truth)))
    assert ours.dice == pytest.approx(theirs.GetDiceCoefficient(), abs=1e-12)
    assert ours.iou == pytest.approx(theirs.GetJaccardCoefficient(), abs=1e-12)
    assert ours.precision == pytest.approx(1 - theirs.GetFalseDiscoveryRate(), abs=1e-12)
    assert ours.recall == pytest.approx(1 - theirs.GetFalseNegativeError(), abs=1e-12)
    pair = tensors(prediction, truth)
    assert ours.dice == pytest.approx(compute_dice(*pair).item(), abs=1e-6)
    assert ours.iou == pytest.approx(compute_iou(*pair).item(), abs=1e-6)
    hit, extra, _, missed = get_confusion_matrix(*pair)[0, 0].tolist()
    assert (ours.true_positive, ours.false_positive, ours.false_negative) == (hit, extra, missed)


@pytest.mark.parametrize("spacing", [*SPACINGS, (0.4, 2.0, 5.0)])
@pytest.mark.parametrize("name", PAIRS)
def test_distances_are_those_of_simpleitk_and_monai_within_a_voxel(name, spacing):
    """Padded, since MONAI sees no surface where the volume ends; SimpleITK is given the borders, since it
    measures to masks."""
    prediction, truth = PAIRS[name]
    distances, scores = surface_distances(prediction, truth,
                                          spacing), surface_scores(prediction, truth, spacing)
    padded, diagonal = [np.pad(mask, 1) for mask in (prediction, truth)], np.linalg.norm(spacing)
    largest, percentile, mean = (part * diagonal
                                 for part in (RANDOM if name.startswith("blobs") else DEGENERATE))
    borders, theirs = [], SimpleITK.HausdorffDistanceImageFilter()
    for mask in padded:
        borders.append(SimpleITK.LabelContour(SimpleITK.GetImageFromArray(mask.astype(np.uint8)),
                                              fullyConnected=True))
        borders[-1].SetSpacing([float(s) for s in spacing[::-1]])
    theirs.Execute(*borders)
    assert distances.hausdorff(1.0) == pytest.approx(theirs.GetHausdorffDistance(), abs=largest)
    assert scores.assd == pytest.approx(theirs.GetAverageHausdorffDistance(), abs=2 * mean)
    options = {"include_background": True, "spacing": spacing}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)                  # of one part of MONAI about another
        pair = tensors(*padded)
        assert distances.hausdorff(1.0) == pytest.approx(compute_hausdorff_distance(*pair, **options).item(),
                                                         abs=largest)
        theirs = compute_hausdorff_distance(*pair, percentile=95, **options).item()
        assert scores.hd95 == pytest.approx(theirs, abs=percentile)
        assert scores.assd == pytest.approx(
            compute_average_surface_distance(*pair, symmetric=True, **options).item(), abs=mean)


@pytest.mark.parametrize("spacing", [*SPACINGS, (0.4, 2.0, 5.0)])
@pytest.mark.parametrize("name", PAIRS)
def test_surface_dice_is_that_of_monai_where_the_tolerance_spans_voxels(name, spacing):
    """Tolerance in diagonals of a voxel -> how far the shares of surface may lie apart."""
    prediction, truth = PAIRS[name]
    distances, pair = surface_distances(prediction, truth,
                                        spacing), tensors(*(np.pad(mask, 1) for mask in (prediction, truth)))
    random = name.startswith("blobs")
    for diagonals, apart in ({1: 0.1, 2: 0.02} if random else {2: 0.12}).items():
        tolerance = diagonals * np.linalg.norm(spacing)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            theirs = compute_surface_dice(*pair, [tolerance], include_background=True, spacing=spacing,
                                          use_subvoxels=not random)
        assert distances.nsd(tolerance) == pytest.approx(theirs.item(), abs=apart)


@pytest.mark.parametrize("empty", ["prediction", "truth", "both"])
def test_empty_masks_score_as_in_monai_but_never_nan_or_infinite(empty):
    """MONAI leaves distances undefined; here the longest distance in the scan counts, or 0 where both are
    right about nothing."""
    voxel, nothing = PAIRS["two voxels"][0], np.zeros(SHAPE, bool)
    pair = {"prediction": (nothing, voxel), "truth": (voxel, nothing), "both": (nothing, nothing)}[empty]
    ours, distances, theirs = overlap(*pair), surface_scores(*pair, (1.0, 1.0, 1.0)), tensors(*pair)
    assert ours.dice == compute_dice(*theirs, ignore_empty=False).item()
    assert ours.iou == compute_iou(*theirs, ignore_empty=False).item()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hausdorff = compute_hausdorff_distance(*theirs, include_background=True).item()
        surface = compute_surface_dice(*theirs, [1.0], include_background=True).item()
    if empty == "both":
        assert np.isnan([hausdorff, surface]).all() and (distances.hd95, distances.nsd,
                                                         distances.undefined) == (0, 1, False)
    else:
        assert hausdorff == np.inf and surface == distances.nsd == 0
        assert (distances.hd95 == distances.assd == pytest.approx(np.linalg.norm(SHAPE))
                and distances.undefined)
