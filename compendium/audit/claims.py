"""What the paper claims, in our words, where, and which heading of notebook 11 shows whether it is so.

The verdicts are computed in ``compendium.audit.verdicts``; nothing is judged here.
"""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What became of a claim. PENDING claims are about trained networks and get one of the others from scores."""

    HOLDS = "holds here"
    FAILS = "does not hold here"
    CONTRADICTS = "contradicts the paper's own numbers"
    UNTESTABLE = "cannot be tested without the hospital's data"
    PENDING = "needs the study runs"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """``key`` names the function that judges it, ``place`` where the paper makes it, ``shown`` a heading of notebook 11."""

    key: str
    place: str
    says: str
    shown: str


def _claims(*rows: tuple[str, str, str, str]) -> tuple[Claim, ...]:
    return tuple(Claim(key=key, place=place, shown=shown, says=says) for key, place, shown, says in rows)


CLAIMS = _claims(
    ("grid", "Sec. 1.1", "Shapes through the network",
     "Four halvings bring 50 x 256 x 256 to 3 x 16 x 16 with 256 channels; four transposed convolutions bring it back."),
    ("light_mff", "Sec. 1.2", "Operations", "MFF is light: it keeps accuracy at a lower computing cost."),
    ("shared", "Sec. 1.2", "Operations", "A shared first convolution spares MFF redundant work."),
    ("global_kernel", "Sec. 1.2", "Reach of the largest kernel", "MFF's largest kernel captures global relations."),
    ("light_cam", "Sec. 1.3", "Operations", "CAM is cheap, as it has no convolutions."),
    ("light_gate", "Sec. 1.4", "Attention gates", "Grouped convolutions make LGAG cheaper than the usual gate, which is 1^3."),
    ("scans", "Sec. 2.1.1", "Scans and lists", "10,414 slices came from 70 scans of 150 to 200 slices each."),
    ("test_set", "Secs. 2.1.1, 2.6", "Scans and lists", "Networks are compared on cases of a test set."),
    ("augmentation", "Secs. 2.1.2, 2.1.3", "Scans and lists", "Training data are augmented as listed."),
    ("memory", "Sec. 2.1.3", "Memory of a training step", "The network trains at batch size 1 on a card with 24 GB."),
    ("loss", "Sec. 2.1.5", "Loss", "Eq. 17, as printed, lets Eqs. 15 and 16 guide the training together."),
    ("headline", "Abstract, Sec. 2.2", "Text against tables", "MAG-UNet's Dice is 92.4 (abstract), 92.5 (Sec. 2.2)."),
    ("iou_gain", "Abstract", "Text against tables", "IoU is 3.4 % above the 3D U-Net's."),
    ("dice_gain", "Sec. 2.2", "Text against tables", "Dice is 3.4 % above the 3D U-Net's."),
    ("quotes", "Sec. 2.5", "Text against tables", "The ablation's numbers in the text are those of Table 4."),
    ("possible", "Tables 1, 2, 4", "Scores row by row", "The scores of a row are means over the same cases."),
    ("best", "Sec. 2.2", "Claims that need trained networks", "MAG-UNet is best of eight in Dice, IoU and precision."),
    ("clearly", "Sec. 2.2", "Claims that need the hospital", "Its lead over the others is clear."),
    ("complete", "Sec. 2.2", "Rankings in the tables", "Its segmentations are more complete than the others'."),
    ("lighter", "Sec. 2.2", "Rankings in the tables", "It has far fewer parameters than TransUNet and ResUNet."),
    ("count", "Secs. 2.2, 2.5", "Counts beside the networks", "MAG-UNet has 23.98 M parameters."),
    ("attention", "Sec. 2.3", "Rankings in the tables", "Attention of whatever kind generally improves the 3D U-Net."),
    ("eca", "Table 2", "Claims that need trained networks", "ECA makes the 3D U-Net worse in Dice, IoU and precision."),
    ("da", "Sec. 2.3", "Claims that need trained networks", "DA is the best attention in Dice, IoU and precision."),
    ("table_3", "Table 3", "Table 3 as a sum of branches", "The counts are those of MFF with the branches named."),
    ("multi_scale", "Sec. 2.4", "Rankings in the tables", "Several scales beat a single kernel."),
    ("kernel_iou", "Sec. 2.4", "Claims that need trained networks", "Kernels [1,3,5] give the best IoU of Table 3."),
    ("kernel_count", "Sec. 2.4", "Rankings in the tables", "Kernels [1,3,5] are best in the number of parameters, too."),
    ("table_4", "Table 4", "Table 4 as a sum of modules", "The counts are those of the 3D U-Net with the modules named."),
    ("modules", "Sec. 2.5", "Claims that need trained networks", "DA, MFF and LGAG each raise Dice and IoU."),
    ("synergy", "Sec. 2.5", "Claims that need trained networks", "Together they raise Dice and IoU more than one by one."),
    ("pictures", "Sec. 2.6", "Claims that need the hospital", "In the cases shown, MAG-UNet errs least at complex borders."),
    ("lesions", "Sec. 3", "Claims that need the hospital", "Early and small lesions are found, of use to the clinic."),
)
"""In the order of the paper."""


@dataclass(frozen=True, kw_only=True)
class Erratum:
    """What is printed at ``place``, how it is read here, why, and which heading of notebook 11 shows it."""

    place: str
    printed: str
    reading: str
    why: str
    shown: str


def _errata(*rows: tuple[str, str, str, str, str]) -> tuple[Erratum, ...]:
    return tuple(Erratum(place=place, shown=shown, printed=printed, reading=reading, why=why)
                 for place, shown, printed, reading, why in rows)


ERRATA = _errata(
    ("Eqs. 1, 2 and 4, 5, 7, 8", "Two pairs of alpha and beta", "one α and one β",
     "two pairs: softmax weights of the fusion, free scales inside PAM and CAM",
     "β is said to start at 0, which a softmax cannot give"),
    ("Eq. 3, sentence", "Direction of S", "S_ji is the weight of position j in output i",
     "the weight of i in output j", "the softmax runs over i, and Eq. 5 sums over i"),
    ("Sec. 1.3, PAM, step 2", "Direction of S", "S is the transposed B' times C'", "S is the transpose of that",
     "B' transposed times C' has the index of B first, S_ji that of C"),
    ("Eqs. 4, 5", "Scales applied once", "α is in E' and again before the sum", "α applied once",
     "E' of Eq. 4 is already the term that Eq. 5 adds to A"),
    ("Eqs. 7, 8", "Scales applied once", "β is in F and again before the sum", "β applied once", "as with α"),
    ("Eq. 9", "Brackets of the gate", "R(BN(GC_g(g) + BN(GC_x(x))))", "R(BN(GC_g(g)) + BN(GC_x(x)))",
     "the prose normalises both maps before it adds them"),
    ("Eq. 15", "Loss", "no constant in the fraction", "1 added above and below", "0 / 0 where mask and answer are empty"),
    ("Eq. 16", "Loss", "a sum over voxels", "their mean",
     "the sentence below defines N, which stands in no equation; the sum would drown Eq. 15"),
    ("Sec. 2.1.2", "Windows and products", "HU mapped linearly to [-200, 1200]", "clipped to it, then scaled to [0, 1]",
     "scaling all of HU into that window would flatten the contrast, not raise it"),
    ("Sec. 2.1.2", "Windows and products", "mask and CT multiplied as matrices", "voxel by voxel",
     "a matrix product mixes the columns of a slice"),
    ("Secs. 0, 2.4", "Names and references", "kernels 1x1, 3x3, 5x5", "1^3, 3^3, 5^3", "Sec. 1.2 has them so"),
    ("Sec. 2.4", "Names and references", "seven combinations of kernels", "the eight of Table 3", "[3,3,3] is not in the text"),
    ("Sec. 3", "Names and references", "LGAG: locally guided adaptive enhancement", "large-kernel grouped attention gate",
     "the name of Sec. 1.4, which its equations are"),
    ("Table 4", "Unit of the parameter columns", "Params/MB", "2^20 parameters",
     "Table 1 writes M; which of two readings it is, the counts leave open"),
    ("Sec. 0", "Names and references", "references 19 to 22 for sacroiliac joints", "19 and 20",
     "by their titles, 21 and 22 are on the brain"),
)
"""In the order of the paper's numbering, equations first."""
