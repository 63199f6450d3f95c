"""Row name -> network: what each row of the paper's tables is built from.

A row that is not here yet is not built yet; ``magunet audit`` says so.
"""

import torch

from magunet.errors import InputError
from magunet.nets.magunet import MAGUNet, MAGUNetConfig

PLAIN = dict(mff_kernels=None, attention="none", lgag=False)
MFF = dict(mff_kernels=(1, 3, 5))
DA = dict(attention="da")
GATES = dict(lgag=True)

NETWORKS: dict[str, dict] = {
    "3D U-Net": PLAIN,
    "MAG-UNet": PLAIN | MFF | DA | GATES,
    "+SE": PLAIN | dict(attention="se"),
    "+CBAM": PLAIN | dict(attention="cbam"),
    "+Non-local": PLAIN | dict(attention="non_local"),
    "+ECA": PLAIN | dict(attention="eca"),
    "+DA": PLAIN | DA,
    "[1]": PLAIN | dict(mff_kernels=(1,)),
    "[3]": PLAIN | dict(mff_kernels=(3,)),
    "[5]": PLAIN | dict(mff_kernels=(5,)),
    "[1,3]": PLAIN | dict(mff_kernels=(1, 3)),
    "[3,3]": PLAIN | dict(mff_kernels=(3, 3)),
    "[3,3,3]": PLAIN | dict(mff_kernels=(3, 3, 3)),
    "[3,5,7]": PLAIN | dict(mff_kernels=(3, 5, 7)),
    "+MFF": PLAIN | MFF,
    "+LGAG": PLAIN | GATES,
    "+DA+MFF": PLAIN | DA | MFF,
    "+DA+LGAG": PLAIN | DA | GATES,
    "+MFF+LGAG": PLAIN | MFF | GATES,
}
"""Switches of MAGUNetConfig for each row name. "[1,3,5]" of Table 3 is "+MFF" of Table 4."""

ALIASES = {"[1,3,5]": "+MFF"}


def network_config(name: str, width_divisor: int = 1) -> MAGUNetConfig:
    """The configuration of a row, with all channel widths divided by ``width_divisor``.

    Raises InputError for an unknown name (and lists the known ones) or a divisor that leaves no channel.
    """
    name = ALIASES.get(name, name)
    if name not in NETWORKS:
        raise InputError(f"unknown network {name!r}; known: {', '.join([*NETWORKS, *ALIASES])}")
    if width_divisor < 1 or 32 % width_divisor:
        raise InputError(f"width_divisor must divide 32 (1, 2, 4, 8, 16 or 32); got {width_divisor}")
    widths = tuple(w // width_divisor for w in MAGUNetConfig().widths)
    return MAGUNetConfig(**NETWORKS[name], widths=widths)


def build(name: str, width_divisor: int = 1) -> MAGUNet:
    """The network of a row, initialised from torch's current random state."""
    return MAGUNet(network_config(name, width_divisor))


def build_on_meta(name: str) -> MAGUNet:
    """The full-width network without memory for its weights: for counting and for tracing shapes."""
    with torch.device("meta"):
        return build(name)
