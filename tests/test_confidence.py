"""The Dice to expect of each joint, from the network's probabilities: by loops, simulated, in the report."""

import numpy as np
import pytest
from joint_object import DIRECTIONS, both
from test_exports import ORIGIN, scan_of

from compendium.view.export import Exported, _report
from magunet.confidence import dice_to_expect, own_dice
from magunet.joints import JOINTS, Midline, sides
from magunet.volume import Volume


def chances(certain=0.9, beside=0.2):
    """Probabilities on a grid of 4 mm, of two joints 96 mm apart: of the left one certain, right one less."""
    values = np.full((10, 10, 40), 0.01, np.float32)
    values[2:8, 2:8, 28:31], values[2:8, 2:8, 4:7] = certain, 0.6
    values[2:8, 2:8, 27] = beside
    return Volume(values, (4.0, 4.0, 4.0))


def test_it_is_that_of_a_loop_over_the_voxels_of_each_side_in_any_orientation():
    chance, plane = chances(), Midline(70.0, "a test")
    for side, inside in (("left", lambda x: 4 * x >= 70), ("right", lambda x: 4 * x < 70)):
        common = voxels = total = 0.0
        for (_, _, x), p in np.ndenumerate(chance.array):
            if inside(x):
                total, voxels, common = total + p, voxels + (p > 0.5), common + p * (p > 0.5)
        assert own_dice(chance, plane)[side] == pytest.approx(2 * common / (voxels + total), rel=1e-5)
    assert own_dice(chance, Midline(np.nan, "nothing")).keys() == {"unknown"}
    chance.array[:, :, :10] = 0
    assert own_dice(chance, plane).keys() == {"left"}


def test_of_right_probabilities_it_is_the_mean_dice_of_drawn_truths():
    chance, rng = chances(), np.random.default_rng(0)
    mask = chance.array > 0.5
    drawn = [rng.random(mask.shape) < chance.array for _ in range(2000)]
    left = np.zeros(mask.shape, bool)
    left[..., 18:] = True
    dice = [2 * (truth & mask & left).sum() / ((truth & left).sum() + (mask & left).sum()) for truth in drawn]
    assert own_dice(chance, Midline(70.0, ""))["left"] == pytest.approx(np.mean(dice), abs=0.005)


def test_a_line_through_what_was_measured_corrects_it_and_stays_between_0_and_1():
    line = (-0.9, 2.0)
    expected = own_dice(chances(), Midline(70.0, ""))
    for side, dice in dice_to_expect(chances(), Midline(70.0, ""), line).items():
        assert dice == pytest.approx(np.clip(2 * expected[side] - 0.9, 0, 1))
    assert set(dice_to_expect(chances(), Midline(70.0, ""), (9, 1)).values()) == {1.0}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_report_has_it_of_each_joint_and_doubts_where_it_is_low(direction):
    scan = scan_of(direction)
    mask = both(scan)
    plane, (labels,) = sides(scan, mask)
    chance = mask.with_array(np.where(mask.array > 0, 0.9, 0.0).astype(np.float32))
    own = chance.array[labels.array == JOINTS[1].label] = 0.55
    report = _report(Exported("c", scan, mask, chance=chance), ORIGIN | {"calibration": (0, 1)},
                     {"sij": labels}, plane)
    joints = report["masks"]["sij"]["joints"]
    assert joints["left"]["dice_to_expect"] == pytest.approx(2 * 0.9 / 1.9, abs=0.006)
    assert joints["right"]["dice_to_expect"] == pytest.approx(2 * own / (1 + own), abs=0.006)
    assert not report["doubts"]
    report = _report(Exported("c", scan, mask, chance=chance), ORIGIN | {"calibration": (-0.2, 1)},
                     {"sij": labels}, plane)
    assert report["doubts"] == ["the right sacroiliac joint has a Dice to expect of 0.51 only"]
