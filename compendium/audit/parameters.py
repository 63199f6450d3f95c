"""Parameter counts: the unit of the paper's columns, and its numbers beside those of the networks here.

A number printed as 22.45 stands for 22.445 to 22.455 units if digits were rounded, for 22.45 to 22.46 if they
were cut. The differences of two such numbers are less than 0.01 off either way.
"""

import math
from itertools import pairwise, product

import pandas as pd
import torch
from torch import nn

from compendium.paper import MI, TABLE_3, TABLE_4, TABLES
from magunet.base.errors import require
from magunet.blocks import LGAG, PAM, double_conv
from magunet.model import MAGUNet, MAGUNetConfig, count_parameters
from magunet.studies import BASELINE, VARIANTS, build_on_meta

UNITS = {"10^6 parameters": 1e6, "2^20 parameters": MI, "10^6 bytes": 1e6 / 4, "2^20 bytes": MI / 4}
"""Parameters to a unit; bytes are those of 32-bit weights."""
DECODERS = ("merge", "add", "trilinear", "classic")
"""merge, the one trained: 3^3 transposed convolution, concatenation, one convolution. add: the same with a
sum and two convolutions. trilinear, classic: interpolation or 2^3 transposed; joined, two convolutions."""


def printed(parameters: float, unit: float, cut: bool = False) -> float:
    """Parameters in a unit, with two decimals, rounded half up or cut."""
    return math.floor(100 * parameters / unit + (0 if cut else 0.5)) / 100


def alternative(config: MAGUNetConfig, *, decoder: str = "merge", reduction: int = 8, after_sum: bool = True,
                groups: int = 16, projection: bool = False) -> MAGUNet:
    """A network on the meta device, with parameters but no values.

    decoder: one of `DECODERS`. reduction: of the channels of PAM's B and C. after_sum: the convolution after
    DA's sum. groups: of LGAG's convolutions. projection: a 1^3 convolution behind LGAG.
    """
    require(decoder in DECODERS, f"no decoder {decoder!r}; there are {', '.join(DECODERS)}")
    with torch.device("meta"):
        network = MAGUNet(config)
        for step, c, c_deep in zip(network.decoder, config.widths[-2::-1], config.widths[:0:-1]):
            step.up, step.merge = {
                "merge": (step.up, step.merge),
                "add": (nn.ConvTranspose3d(c_deep, c, 3, 2, 1, output_padding=1), double_conv(c, c)),
                "trilinear": (nn.Upsample(scale_factor=2, mode="trilinear"), double_conv(c_deep + c, c)),
                "classic": (nn.ConvTranspose3d(c_deep, c, 2, 2), double_conv(2 * c, c))}[decoder]
            if config.lgag:
                step.gate = LGAG(c, groups)
                step.gate.projection = nn.Conv3d(c, c, 1) if projection else nn.Identity()
        if config.attention == "da":
            network.attention.pam = PAM(config.widths[-1], reduction)
            if not after_sum:
                network.attention.out = nn.Identity()
    return network


def normalised_biases(network: nn.Module) -> int:
    """Biases of convolutions before a batch normalisation: they change nothing, and many leave them out."""
    chains = [list(module) for module in network.modules() if isinstance(module, nn.Sequential)]
    return sum(a.bias.numel() for chain in chains for a, b in pairwise(chain)
               if isinstance(b, nn.BatchNorm3d) and a.bias is not None)


def count(first_width: int = 32, biases: bool = True, decoder: str = "merge",
          switches: dict = BASELINE) -> int:
    """Parameters of a 3D U-Net whose widths double from level to level, with switches of MAGUNetConfig on."""
    widths = tuple(first_width * 2**level for level in range(5))
    network = alternative(MAGUNetConfig(**BASELINE | switches, widths=widths), decoder=decoder)
    return count_parameters(network) - (0 if biases else normalised_biases(network))


def kernels_of(row: str) -> tuple[int, ...]:
    """Kernel sides of a row of Table 3: "[1,3]" -> (1, 3)."""
    return tuple(int(k) for k in row.strip("[]").split(","))


def swapped(base: int, first_width: int, biases: bool, kernels: tuple[int, ...]) -> int:
    """A count of Table 3, if one 3^3 convolution of level 1 becomes parallel ones, joined by the next."""
    channels, more = first_width**2, len(kernels) - 1
    wider = 27 * channels + (3 if biases else 2) * first_width
    return base + channels * (sum(k**3 for k in kernels) - 27) + wider * more


def explanations() -> pd.DataFrame:
    """Every joint assumption under which the 3D U-Net prints as the paper's number, best first.

    Assumed: the first level's width (doubling to level 5), biases before batch normalisation or none, the
    decoder, the unit, digits rounded or cut. "Table 4" and "Table 3" list rows that then print the same.
    """
    lines = []
    for first, biases, decoder in product(range(8, 65, 8), (True, False), DECODERS):
        base = count(first, biases, decoder)
        for unit, cut in product(UNITS, (False, True)):
            if printed(base, UNITS[unit], cut) != TABLE_4[0].params_mi:
                continue
            ours = {row: count(first, biases, decoder, VARIANTS[row.network]) for row in TABLE_4}
            ours |= {row: swapped(base, first, biases, kernels_of(row.name)) for row in TABLE_3}
            hits = [row for row, number in ours.items() if printed(number, UNITS[unit], cut) == row.params_mi]
            lines.append({"first width": first, "biases": biases, "decoder": decoder, "unit": unit,
                          "digits": "cut" if cut else "rounded",
                          "parameters": base, "printed": base / UNITS[unit],
                          **{f"Table {n}": [row.name for row in hits if row.table == n] for n in (4, 3)}})
    table = pd.DataFrame(lines)
    fits = table["Table 4"].str.len() + table["Table 3"].str.len()
    return table.iloc[(-fits).argsort(kind="stable")].reset_index(drop=True)


def parameter_audit() -> pd.DataFrame:
    """One row for each row of Tables 1 to 4: the paper's count in Mi, ours exactly and in Mi, difference."""
    lines = [(row.table, row.name, row.params_mi, count_parameters(build_on_meta(row.network)))
             for table in TABLES for row in table]
    table = pd.DataFrame(lines, columns=["table", "row", "paper Mi", "parameters"])
    table["Mi"] = table["parameters"] / MI
    return table.assign(difference=table["Mi"] - table["paper Mi"])
