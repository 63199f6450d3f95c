"""Overlap beside SimpleITK's and distances beside MONAI's, on random and degenerate masks, at odd spacings.

Overlap agrees to the last digits. Distances cannot: ours run between surfaces through the corners of voxels,
each piece weighted with its area; theirs between the centres of border voxels, each counted once. So they lie
apart by a part of a voxel's diagonal: largest distance, 95th percentile and mean.
"""

import numpy as np
import pytest
import SimpleITK
import torch
from monai import metrics as monais
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


def test_overlap_is_that_of_simpleitk():
    for name, masks in PAIRS.items():
        ours, theirs = overlap(*masks), SimpleITK.LabelOverlapMeasuresImageFilter()
        theirs.Execute(*(SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in masks))
        assert (ours.dice, ours.iou, ours.precision, ours.recall) == pytest.approx(
            (theirs.GetDiceCoefficient(), theirs.GetJaccardCoefficient(), 1 - theirs.GetFalseDiscoveryRate(),
             1 - theirs.GetFalseNegativeError()), abs=1e-12), name


@pytest.mark.parametrize("spacing", [*SPACINGS, (0.4, 2.0, 5.0)])
@pytest.mark.parametrize("name", PAIRS)
def test_distances_are_those_of_monai_within_a_voxel(name, spacing):
    """Padded, since MONAI sees no surface where the volume ends. Surface Dice is compared where its tolerance
    spans one or two voxels."""
    distances, diagonal = surface_distances(*PAIRS[name], spacing), np.linalg.norm(spacing)
    random = name.startswith("blobs")
    largest, percentile, mean = (part * diagonal for part in (RANDOM if random else DEGENERATE))
    pair = [torch.from_numpy(np.pad(mask, 1)[None, None].astype(np.float32)) for mask in PAIRS[name]]
    options = {"include_background": True, "spacing": spacing}
    for ours, call, more, slack in (
            (distances.hausdorff(1.0), monais.compute_hausdorff_distance, {}, largest),
            (distances.hausdorff(0.95), monais.compute_hausdorff_distance, {"percentile": 95}, percentile),
            (distances.assd(), monais.compute_average_surface_distance, {"symmetric": True}, mean)):
        assert ours == pytest.approx(call(*pair, **options, **more).item(), abs=slack), (call, more)
    for diagonals, apart in ({1: 0.1, 2: 0.02} if random else {2: 0.12}).items():
        tolerance = diagonals * diagonal
        theirs = monais.compute_surface_dice(*pair, [tolerance], **options, use_subvoxels=not random).item()
        assert distances.nsd(tolerance) == pytest.approx(theirs, abs=apart), diagonals
