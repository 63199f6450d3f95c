"""How far a predicted joint can be trusted: the Dice to expect of it, from the network's own probabilities.

Were they right, the Dice to expect of a mask would be 2 sum(p in it) / (voxels in it + sum(p)). Networks are
too sure of themselves, so a line through what phantoms showed corrects it (workflow/weights.py).
"""

from collections.abc import Sequence

import numpy as np

from magunet.joints import Midline, joints_of, left_and_right
from magunet.predict import THRESHOLD
from magunet.volume import Volume


def own_dice(chance: Volume, plane: Midline) -> dict[str, float]:
    """Side of each joint -> the Dice that the network expects of its mask; a side without a mask is left out.

    chance: foreground probability (d, h, w), as `magunet.predict.Answer` has it; plane: parts the sides.
    """
    inside = left_and_right(chance.with_array(chance.array > THRESHOLD), plane.x)
    sides = left_and_right(chance.with_array(np.ones(chance.array.shape, bool)), plane.x).array
    expected = {}
    for joint in joints_of(inside):
        p, mask = chance.array[sides == joint.label], inside.array[sides == joint.label] > 0
        if mask.any():
            expected[joint.side] = float(2 * p[mask].sum() / (mask.sum() + p.sum()))
    return expected


def dice_to_expect(chance: Volume, plane: Midline, line: Sequence[float]) -> dict[str, float]:
    """`own_dice` of each side, corrected by a line (intercept, slope), in [0, 1]."""
    return {side: float(np.clip(line[0] + line[1] * value, 0, 1))
            for side, value in own_dice(chance, plane).items()}
