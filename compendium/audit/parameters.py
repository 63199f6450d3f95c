"""Parameter counts: the unit that the paper's columns are in, and its numbers beside those of the networks here.

A number printed as 22.45 stands for a window of counts: 22.445 to 22.455 units if digits were rounded, 22.45 to
22.46 if they were cut. The differences of two such numbers are less than 0.01 off either way.
"""

import math
from collections.abc import Mapping
from functools import cache
from itertools import combinations, pairwise, product

import pandas as pd
from torch import nn

from compendium.audit.readings import DECODERS, alternative
from compendium.paper import MI, TABLE_3, TABLE_4, TABLES
from magunet.model import MAGUNetConfig, count_parameters
from magunet.studies import DA, GATES, MFF, PLAIN, build_on_meta

UNITS = {"10^6 parameters": 1e6, "2^20 parameters": MI, "10^6 bytes": 1e6 / 4, "2^20 bytes": MI / 4}
"""Parameters to a unit; bytes are those of 32-bit weights."""
STEP = 0.01
"""Of the last printed digit."""
FIRST_WIDTHS = (8, 16, 24, 32, 40, 48, 56, 64)
"""Channels of the first level that `explanations` tries."""


def printed(parameters: float, unit: float, cut: bool = False) -> float:
    """Parameters in a unit, with two decimals, rounded half up or cut."""
    return math.floor(parameters / unit / STEP + (0 if cut else 0.5)) / round(1 / STEP)


def swap_window(rows: Mapping[int, float], unit: float) -> tuple[float, float]:
    """Open window of c_in * c_out of the one convolution whose kernel side differs between rows.

    rows: kernel side -> printed number. Swapping k for l changes the count by c_in c_out (l^3 - k^3); every pair
    of rows must allow it. Empty where low >= high.
    """
    pairs = [((rows[b] - rows[a]) * unit, b**3 - a**3) for a, b in combinations(sorted(rows), 2)]
    return max((d - STEP * unit) / n for d, n in pairs), min((d + STEP * unit) / n for d, n in pairs)


def normalised_biases(network: nn.Module) -> int:
    """Biases of convolutions that a batch normalisation follows; they change nothing, and many leave them out."""
    chains = [list(module) for module in network.modules() if isinstance(module, nn.Sequential)]
    return sum(a.bias.numel() for chain in chains for a, b in pairwise(chain)
               if isinstance(b, nn.BatchNorm3d) and a.bias is not None)


def count(first_width: int = 32, biases: bool = True, decoder: str = "merge", switches: Mapping = PLAIN) -> int:
    """Parameters of a 3D U-Net whose widths double from level to level; ``switches`` are those of MAGUNetConfig."""
    config = MAGUNetConfig(**PLAIN | switches, widths=tuple(first_width * 2**level for level in range(5)))
    network = alternative(config, decoder=decoder)
    return count_parameters(network) - (0 if biases else normalised_biases(network))


def modules_of(row: str) -> tuple[str, ...]:
    """Modules that are on in a row of Table 4."""
    return tuple(module for module in ("DA", "MFF", "LGAG") if module in row or row == "all")


def kernels_of(row: str) -> tuple[int, ...]:
    """Kernel sides of a row of Table 3: "[1,3]" -> (1, 3)."""
    return tuple(int(k) for k in row.strip("[]").split(","))


def swapped(base: int, first_width: int, biases: bool, kernels: tuple[int, ...]) -> int:
    """A count of Table 3, if one 3^3 convolution of level 1 becomes parallel ones that the next one concatenates."""
    u, more = first_width**2, len(kernels) - 1
    return base + u * (sum(k**3 for k in kernels) - 27) + (27 * u + (3 if biases else 2) * first_width) * more


@cache
def explanations() -> pd.DataFrame:
    """Every joint assumption under which the 3D U-Net prints as the paper's number, best first.

    Assumed: the first level's width (doubling to level 5), biases before batch normalisation or none, the decoder,
    the unit, digits rounded or cut. Columns "Table 4" and "Table 3": which rows then print as in the paper.
    """
    lines = []
    for first, biases in product(FIRST_WIDTHS, (True, False)):
        plain = count(first, biases)
        costs = {name: count(first, biases, switches=switches) - plain
                 for name, switches in (("DA", DA), ("MFF", MFF), ("LGAG", GATES))}
        for decoder, unit, cut in product(DECODERS, UNITS, (False, True)):
            base = count(first, biases, decoder)
            if printed(base, UNITS[unit], cut) != TABLE_4[0].params_mi:
                continue
            ours = {row.name: base + sum(costs[m] for m in modules_of(row.name)) for row in TABLE_4}
            ours |= {row.name: swapped(base, first, biases, kernels_of(row.name)) for row in TABLE_3}
            lines.append({"first width": first, "biases": biases, "decoder": decoder, "unit": unit,
                          "digits": "cut" if cut else "rounded", "parameters": base, "printed": base / UNITS[unit]}
                         | {f"Table {table[0].table}": [row.name for row in table
                                                        if printed(ours[row.name], UNITS[unit], cut) == row.params_mi]
                            for table in (TABLE_4, TABLE_3)})
    table = pd.DataFrame(lines)
    fits = table["Table 4"].str.len() + table["Table 3"].str.len()
    return table.iloc[(-fits).argsort(kind="stable")].reset_index(drop=True)


def parameter_audit() -> pd.DataFrame:
    """One row for each row of Tables 1 to 4: the paper's count in Mi, ours exactly and in Mi, the difference."""
    table = pd.DataFrame([{"table": row.table, "row": row.name, "paper Mi": row.params_mi,
                           "parameters": count_parameters(build_on_meta(row.network))} for table in TABLES for row in table])
    table["Mi"] = table["parameters"] / MI
    return table.assign(difference=table["Mi"] - table["paper Mi"])


def as_text(table: pd.DataFrame) -> str:
    """The audit as a plain table; "-" where the paper gives no count."""
    forms = {"paper Mi": "{:.2f}", "parameters": "{:,}", "Mi": "{:.3f}", "difference": "{:+.3f}"}
    text = {name: ["-" if pd.isna(value) else form.format(value) for value in table[name]] for name, form in forms.items()}
    return table.assign(**text).to_string(index=False)
