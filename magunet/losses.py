"""The training loss, Eqs. 15-17. All take logits and return a scalar.

logits, target: (b, 1, d, h, w); target holds 0 and 1. Computed in the precision of the logits: the
training loop hands them over in float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1.0
"""Added to both sides of the Dice fraction, in voxels: an empty mask predicted empty costs 0. Eq. 15 has
none and is undefined there."""


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (2 sum p g + s) / (sum p + sum g + s) with p = sigmoid(logits), a case at a time (Eq. 15)."""
    p = torch.sigmoid(logits).flatten(1)                    # (b, n)
    g = target.flatten(1).to(p.dtype)
    overlap = 2 * (p * g).sum(1) + SMOOTH
    return (1 - overlap / (p.sum(1) + g.sum(1) + SMOOTH)).mean()


def cross_entropy_loss(logits: Tensor, target: Tensor) -> Tensor:
    """-(1/N) sum g log p + (1 - g) log(1 - p), Eq. 16 with the mean it needs.

    As printed, a sum over 3.3 million voxels would drown the Dice term, which is at most 1.
    """
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))


def dice_ce_loss(logits: Tensor, target: Tensor) -> Tensor:
    """L = L_Dice + L_CE, Eq. 17."""
    return dice_loss(logits, target) + cross_entropy_loss(logits, target)
