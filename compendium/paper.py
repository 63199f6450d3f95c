"""The paper as data: Tables 1 to 4 (``paper.csv``, scores in percent), hyper-parameters and their sections.

Yan W., Jing Y., Xu Y., Zhang X., Wang C.: "Sacral-iliac joint segmentation network integrating large kernel
gated mechanisms and dual attention" (in Chinese), School of Computer Science and Technology, Taiyuan
Normal University. Its claims are in ``audit/claims.csv``, numbers that its text repeats in ``quotes.csv``.
"""

import csv
from pathlib import Path
from typing import NamedTuple

MI = 2**20
"""Parameters to a unit of the paper's parameter columns, although it writes M."""


class Row(NamedTuple):
    """One row of one table. ``network`` is the row's name in ``magunet.studies``."""

    table: int
    name: str
    network: str
    dice: float | None = None
    iou: float | None = None
    precision: float | None = None
    recall: float | None = None
    params_mi: float | None = None


def _rows(number: int) -> tuple[Row, ...]:
    """The rows of one table; None where it does not print a number."""
    _, *lines = csv.reader(Path(__file__).with_suffix(".csv").read_text(encoding="utf-8").splitlines())
    return tuple(Row(number, name, network, *(float(text) if text else None for text in numbers))
                 for table, name, network, *numbers in lines if int(table) == number)


TABLES = TABLE_1, TABLE_2, TABLE_3, TABLE_4 = tuple(map(_rows, (1, 2, 3, 4)))
"""Comparison with other networks, Sec. 2.2; of attention modules, 2.3; of MFF's kernels, 2.4; ablation."""
INPUT_SIZE = (50, 256, 256)
"""Voxels (d, h, w) of the network's input, Sec. 1.1."""
CASES = 70
"""Scans of the cohort, one a patient, Sec. 2.1.1."""
TRAIN_CASES = 49
"""Of them for training, drawn at random, Sec. 2.1.1."""
VAL_CASES = 21
"""Of them for validation, Sec. 2.1.1."""
SLICES = (50, 200)
"""Fewest and most slices of a scan, Sec. 2.1.2."""
