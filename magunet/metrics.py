"""Scores of a predicted mask against the truth, Eqs. 11-14.

Empty masks: a fraction whose denominator is 0 counts as 1 where truth and prediction are both empty, and as 0
where only one of them is. So no case is ever dropped from a mean.
"""

from dataclasses import dataclass

import numpy as np

from magunet.base.errors import InputError


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of one case; the four scores of the paper are ratios of them, in [0, 1]."""

    true_positive: int
    false_positive: int
    false_negative: int

    def _ratio(self, part: int, whole: int) -> float:
        return part / whole if whole else float(not (self.false_positive or self.false_negative))

    @property
    def dice(self) -> float:
        """2 |X n Y| / (|X| + |Y|), Eq. 11."""
        double = 2 * self.true_positive
        return self._ratio(double, double + self.false_positive + self.false_negative)

    @property
    def iou(self) -> float:
        """|X n Y| / |X u Y|, Eq. 12."""
        return self._ratio(self.true_positive, self.true_positive + self.false_positive + self.false_negative)

    @property
    def precision(self) -> float:
        """TP / (TP + FP), Eq. 13."""
        return self._ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        """TP / (TP + FN), Eq. 14."""
        return self._ratio(self.true_positive, self.true_positive + self.false_negative)


def check_same_shape(prediction: np.ndarray, truth: np.ndarray) -> None:
    """Raises InputError when two masks differ in shape."""
    if prediction.shape != truth.shape:
        raise InputError(f"prediction {prediction.shape} and truth {truth.shape} lie on different grids; "
                         "resample the prediction onto the scan's grid first")


def overlap(prediction: np.ndarray, truth: np.ndarray) -> Overlap:
    """Count voxels of two masks of one shape, any dtype, non-zero is foreground; else InputError."""
    check_same_shape(prediction, truth)
    x, y = prediction != 0, truth != 0
    hit = int(np.count_nonzero(x & y))
    return Overlap(hit, int(np.count_nonzero(x)) - hit, int(np.count_nonzero(y)) - hit)
