"""Scores beside those of SimpleITK and MONAI, on random and degenerate masks, at uneven spacings.

Overlap agrees to the last digits. Distances cannot: ours run between surfaces through the corners of voxels,
each piece weighted with its area; theirs between the centres of border voxels, each counted once. So they lie
apart by a part of a voxel's diagonal: the largest distance, 95th percentile, and mean (twice that for
SimpleITK's, whose borders hold the voxels that touch the outside with a corner, too).
"""

import numpy as np
import pytest
import SimpleITK
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
    get_confusion_matrix,
)
from test_surfaces import SPACINGS, blob

from magunet.metrics import overlap
from magunet.surfaces import surface_distances

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")         # of one part of MONAI about another
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


def test_overlap_is_that_of_simpleitk_and_monai():
    for name, masks in PAIRS.items():
        ours, theirs = overlap(*masks), SimpleITK.LabelOverlapMeasuresImageFilter()
        theirs.Execute(*(SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in masks))
        assert (ours.dice, ours.iou, ours.precision, ours.recall) == pytest.approx(
            (theirs.GetDiceCoefficient(), theirs.GetJaccardCoefficient(), 1 - theirs.GetFalseDiscoveryRate(),
             1 - theirs.GetFalseNegativeError()), abs=1e-12), name
        hit, extra, _, missed = get_confusion_matrix(*tensors(*masks))[0, 0].tolist()
        assert (ours.true_positive, ours.false_positive, ours.false_negative) == (hit, extra, missed), name


@pytest.mark.parametrize("spacing", [*SPACINGS, (0.4, 2.0, 5.0)])
@pytest.mark.parametrize("name", PAIRS)
def test_distances_are_those_of_simpleitk_and_monai_within_a_voxel(name, spacing):
    """Padded, since MONAI sees no surface where the volume ends; SimpleITK is given the borders, since it
    measures to masks. Surface Dice is compared where its tolerance spans one or two voxels."""
    distances = surface_distances(*PAIRS[name], spacing)
    hd95, assd = distances.hausdorff(0.95), distances.assd()
    padded, diagonal = [np.pad(mask, 1) for mask in PAIRS[name]], np.linalg.norm(spacing)
    random = name.startswith("blobs")
    largest, percentile, mean = (part * diagonal for part in (RANDOM if random else DEGENERATE))
    borders, theirs = [], SimpleITK.HausdorffDistanceImageFilter()
    for mask in padded:
        borders.append(SimpleITK.LabelContour(SimpleITK.GetImageFromArray(mask.astype(np.uint8)),
                                              fullyConnected=True))
        borders[-1].SetSpacing([float(s) for s in spacing[::-1]])
    theirs.Execute(*borders)
    assert distances.hausdorff(1.0) == pytest.approx(theirs.GetHausdorffDistance(), abs=largest)
    assert assd == pytest.approx(theirs.GetAverageHausdorffDistance(), abs=2 * mean)
    pair, options = tensors(*padded), {"include_background": True, "spacing": spacing}
    for ours, call, more, slack in (
            (distances.hausdorff(1.0), compute_hausdorff_distance, {}, largest),
            (hd95, compute_hausdorff_distance, {"percentile": 95}, percentile),
            (assd, compute_average_surface_distance, {"symmetric": True}, mean)):
        assert ours == pytest.approx(call(*pair, **options, **more).item(), abs=slack), (call, more)
    for diagonals, apart in ({1: 0.1, 2: 0.02} if random else {2: 0.12}).items():
        tolerance = diagonals * diagonal
        theirs = compute_surface_dice(*pair, [tolerance], **options, use_subvoxels=not random).item()
        assert distances.nsd(tolerance) == pytest.approx(theirs, abs=apart), diagonals
