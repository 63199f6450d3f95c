"""What unit the paper's parameter columns are in: exact counts against numbers printed with two decimals.

A number printed as 22.45 stands for a window of counts: 22.445 to 22.455 units if digits were rounded, 22.45
to 22.46 if they were cut. The differences of two such numbers are less than 0.01 off either way.
"""

import math
from collections.abc import Mapping
from functools import cache
from itertools import combinations, pairwise

import pandas as pd
import torch
from torch import nn

from compendium.paper import MI, TABLE_3, TABLE_4
from magunet.fast import BatchNorm
from magunet.model import DECODERS, MAGUNet, MAGUNetConfig, count_parameters
from magunet.studies import DA, GATES, MFF, PLAIN

UNITS = {"10^6 parameters": 1e6, "2^20 parameters": MI, "10^6 bytes": 1e6 / 4, "2^20 bytes": MI / 4}
"""Parameters to a unit; bytes are those of 32-bit weights."""
STEP = 0.01
"""Of the last printed digit."""


def printed(parameters: float, unit: float, cut: bool = False) -> float:
    """Parameters in a unit, with two decimals, rounded half up or cut."""
    return math.floor(parameters / unit / STEP + (0 if cut else 0.5)) / round(1 / STEP)


def window(value: float, unit: float, cut: bool = False) -> tuple[float, float]:
    """Counts from (inclusive) and to (exclusive) that print as ``value``."""
    low = value if cut else value - STEP / 2
    return low * unit, (low + STEP) * unit


def swap_window(rows: Mapping[int, float], unit: float) -> tuple[float, float]:
    """Open window of c_in * c_out of the one convolution whose kernel side differs between rows.

    rows: kernel side -> printed number. Swapping k for l changes the count by c_in c_out (l^3 - k^3); every pair
    of rows must allow it. Empty where low >= high.
    """
    pairs = [((rows[b] - rows[a]) * unit, b**3 - a**3) for a, b in combinations(sorted(rows), 2)]
    return max((d - STEP * unit) / n for d, n in pairs), min((d + STEP * unit) / n for d, n in pairs)


def normalised_biases(network: nn.Module) -> int:
    """Biases of convolutions that a batch normalisation follows; they change nothing, and many leave them out."""
    chains = [list(m) for m in network.modules() if isinstance(m, nn.Sequential)]
    return sum(a.bias.numel() for chain in chains for a, b in pairwise(chain)
               if isinstance(b, BatchNorm) and a.bias is not None)


def count(first_width: int = 32, biases: bool = True, decoder: str = "merge", **switches) -> int:
    """Parameters of a 3D U-Net, with ``switches`` of MAGUNetConfig on, whose widths double from level to level."""
    widths = tuple(first_width * 2**level for level in range(5))
    with torch.device("meta"):
        network = MAGUNet(MAGUNetConfig(**PLAIN | switches, widths=widths, decoder=decoder))
    return count_parameters(network) - (0 if biases else normalised_biases(network))


@cache
def _module_costs(first_width: int, biases: bool) -> dict[str, int]:
    base = count(first_width, biases)
    return {name: count(first_width, biases, **switches) - base
            for name, switches in (("DA", DA), ("MFF", MFF), ("LGAG", GATES))}


def modules_of(row: str) -> tuple[str, ...]:
    """Modules that are on in a row of Table 4."""
    return {"base": (), "all": ("DA", "MFF", "LGAG")}.get(row) or tuple(m for m in row.split("+") if m not in ("", "base"))


def kernels_of(row: str) -> tuple[int, ...]:
    """Kernel sides of a row of Table 3: "[1,3]" -> (1, 3)."""
    return tuple(int(k) for k in row.strip("[]").split(","))


def _swapped(base: int, first_width: int, biases: bool, kernels: tuple[int, ...]) -> int:
    """A count of Table 3, if one 3^3 convolution of level 1 becomes parallel ones that the next one concatenates."""
    u, more = first_width**2, len(kernels) - 1
    return base + u * (sum(k**3 for k in kernels) - 27) + (27 * u + (3 if biases else 2) * first_width) * more


@cache
def readings(first_widths: tuple[int, ...] = (8, 16, 24, 32, 40, 48, 56, 64)) -> pd.DataFrame:
    """Every joint assumption under which the 3D U-Net prints as the paper's number, best first.

    Assumed: the first level's width (doubling to level 5), biases before batch normalisation or none, the decoder,
    the unit, digits rounded or cut. Columns "Table 4" and "Table 3": which rows then print as in the paper.
    """
    rows = []
    for first in first_widths:
        for biases in (True, False):
            for decoder in DECODERS:
                base = count(first, biases, decoder)
                for unit_name, unit in UNITS.items():
                    for cut in (False, True):
                        if printed(base, unit, cut) == TABLE_4[0].params_mi:
                            costs = _module_costs(first, biases)
                            ours = {r.name: base + sum(costs[m] for m in modules_of(r.name)) for r in TABLE_4}
                            ours |= {r.name: _swapped(base, first, biases, kernels_of(r.name)) for r in TABLE_3}
                            fits = {f"Table {t[0].table}": [r.name for r in t if printed(ours[r.name], unit, cut) == r.params_mi]
                                    for t in (TABLE_4, TABLE_3)}
                            rows.append({"first width": first, "biases": biases, "decoder": decoder, "unit": unit_name,
                                         "digits": "cut" if cut else "rounded", "parameters": base,
                                         "printed": base / unit, **fits})
    table = pd.DataFrame(rows)
    fitted = -(table["Table 4"].str.len() + table["Table 3"].str.len())
    return table.iloc[fitted.argsort(kind="stable")].reset_index(drop=True)
