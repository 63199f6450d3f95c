"""The paper as data: Tables 1 to 4, hyper-parameters and where each number stands.

Yan W., Jing Y., Xu Y., Zhang X., Wang C.: "Sacral-iliac joint segmentation network integrating large kernel
gated mechanisms and dual attention" (in Chinese), School of Computer Science and Technology, Taiyuan
Normal University. Scores are percentages, parameters are in Mi = 2^20 although the paper writes M. Its claims
stand in ``compendium/audit/claims.csv``, the numbers that its text repeats in ``quotes.csv`` beside it.
"""

from dataclasses import dataclass

MI = 2**20
"""Parameters to a unit of the paper's parameter columns."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of one table. ``network`` is the row's name in ``magunet.studies``."""

    table: int
    name: str
    network: str
    dice: float | None = None
    iou: float | None = None
    precision: float | None = None
    recall: float | None = None
    params_mi: float | None = None


def _rows(table: int, columns: tuple[str, ...], *rows: tuple) -> tuple[Row, ...]:
    return tuple(Row(table=table, name=name, network=network, **dict(zip(columns, values)))
                 for name, network, *values in rows)


TABLE_1 = _rows(
    1, ("dice", "iou", "precision", "recall", "params_mi"),
    ("3D U-Net", "3D U-Net", 90.4, 82.6, 89.2, 92.6, 22.45),
    ("3D V-Net", "3D V-Net", 89.5, 81.0, 88.5, 91.0, 54.14),
    ("ResUNet", "ResUNet", 91.0, 83.6, 91.1, 91.3, 55.92),
    ("Attention UNet", "Attention UNet", 91.8, 84.1, 92.0, 91.5, 118.51),
    ("SegNet", "SegNet", 88.6, 79.5, 87.5, 89.0, 76.80),
    ("UNETR", "UNETR", 87.3, 77.9, 84.6, 88.4, 106.27),
    ("DeepLabv3+", "DeepLabv3+", 90.7, 82.9, 91.0, 90.6, 52.85),
    ("MAG-UNet", "MAG-UNet", 92.5, 86.0, 93.3, 91.3, 23.98),
)
"""Comparison with other networks, Sec. 2.2."""

TABLE_2 = _rows(
    2, ("dice", "iou", "precision"),
    ("3D U-Net", "3D U-Net", 90.4, 82.6, 89.2),
    ("+SE", "+SE", 90.7, 83.0, 89.5),
    ("+CBAM", "+CBAM", 91.0, 83.2, 89.8),
    ("+Non-local", "+Non-local", 90.6, 82.8, 89.4),
    ("+ECA", "+ECA", 88.4, 79.6, 87.6),
    ("+DA", "+DA", 91.5, 84.4, 90.9),
)
"""Comparison of attention modules, Sec. 2.3."""

TABLE_3 = _rows(
    3, ("iou", "params_mi"),
    ("[1]", "[1]", 79.6, 22.42),
    ("[3]", "[3]", 82.6, 22.45),
    ("[5]", "[5]", 80.2, 22.54),
    ("[1,3]", "[1,3]", 82.5, 22.48),
    ("[3,3]", "[3,3]", 81.6, 22.50),
    ("[1,3,5]", "[1,3,5]", 83.2, 23.14),
    ("[3,3,3]", "[3,3,3]", 80.8, 22.58),
    ("[3,5,7]", "[3,5,7]", 81.0, 22.62),
)
"""Comparison of MFF's kernel sizes, Sec. 2.4."""

TABLE_4 = _rows(
    4, ("iou", "dice", "precision", "params_mi"),
    ("base", "3D U-Net", 82.6, 90.4, 89.2, 22.45),
    ("+DA", "+DA", 84.4, 91.5, 90.9, 23.01),
    ("+MFF", "+MFF", 83.2, 90.8, 89.5, 23.14),
    ("+LGAG", "+LGAG", 83.0, 90.6, 89.4, 23.09),
    ("+DA+MFF", "+DA+MFF", 84.8, 91.7, 91.2, 23.45),
    ("+DA+LGAG", "+DA+LGAG", 84.6, 91.6, 91.0, 23.30),
    ("all", "MAG-UNet", 86.0, 92.4, 93.3, 23.98),
)
"""Ablation, Sec. 2.5."""

TABLES = (TABLE_1, TABLE_2, TABLE_3, TABLE_4)
"""In the order of the paper."""

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
EPOCHS = 300
"""Passes over the training cases, with batch size 1, Sec. 2.1.3."""
LEARNING_RATE = 1e-4
"""Adam's, Sec. 2.1.3."""
WEIGHT_DECAY = 1e-4
"""Adam's, Sec. 2.1.3."""
