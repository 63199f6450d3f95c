"""Row name -> network: every row of the paper's tables, and the networks a user would take instead."""

from dataclasses import asdict
from importlib.metadata import version

import torch
from torch import nn

from magunet.base.errors import InputError
from magunet.model import MAGUNet, MAGUNetConfig
from magunet.peers import deeplab, monai, segnet, transunet, unetr
from magunet.peers.adapt import scaled

BASELINE = dict(mff_kernels=None, attention="none", lgag=False)
"""The switches of the 3D U-Net."""
VARIANTS = {
    "3D U-Net": BASELINE,
    "MAG-UNet": dict(mff_kernels=(1, 3, 5), attention="da", lgag=True),
    **{row: BASELINE | dict(attention=attention) for row, attention in (
        ("+SE", "se"), ("+CBAM", "cbam"), ("+Non-local", "non_local"), ("+ECA", "eca"), ("+DA", "da"))},
    **{f"[{','.join(map(str, kernels))}]": BASELINE | dict(mff_kernels=kernels)
       for kernels in ((1,), (3,), (5,), (1, 3), (3, 3), (3, 3, 3), (3, 5, 7))},
    "+MFF": BASELINE | dict(mff_kernels=(1, 3, 5)),
    "+LGAG": BASELINE | dict(lgag=True),
    "+DA+MFF": BASELINE | dict(attention="da", mff_kernels=(1, 3, 5)),
    "+DA+LGAG": BASELINE | dict(attention="da", lgag=True),
    "+MFF+LGAG": BASELINE | dict(mff_kernels=(1, 3, 5), lgag=True),
    **{f"+DA {change}": BASELINE | dict(attention=attention) for change, attention in (
        ("placebo", "da_placebo"), ("no decay", "da_no_decay"), ("open scales", "da_open"),
        ("scaled energies", "da_scaled"))},
    "+DA one level up": BASELINE | dict(attention="da", attention_level=3),
    "Wide 3D U-Net": BASELINE | dict(widths=(33, 66, 132, 264, 528)),
}
"""Switches of MAGUNetConfig for each row that is a MAG-UNet. After the paper's rows come five that change one
thing about +DA, and a 3D U-Net as large as MAG-UNet: 25,031,986 parameters beside 25,156,241."""
ALIASES = {"[1,3,5]": "+MFF"}
"""A second name of a row: Table 3's of a row of Table 4."""
PEERS = {
    "3D V-Net": monai.v_net, "ResUNet": monai.res_unet, "Attention UNet": monai.attention_unet,
    "SegNet": segnet.segnet, "UNETR": unetr.unetr, "DeepLabv3+": deeplab.deeplab,
    "nnU-Net": monai.nn_unet, "MedNeXt": monai.mednext, "SegResNet": monai.seg_resnet,
    "SwinUNETR": monai.swin_unetr, "TransUNet": transunet.transunet,
}
"""The others, as functions of the width divisor: six of Table 1, four of MONAI, and TransUNet (Sec. 2.2)."""
NETWORKS = (*VARIANTS, *PEERS)
"""Every network, once."""
NARROWEST = MAGUNetConfig().widths[0]
"""Largest width divisor: one channel is left on the first level."""
WIDEST = 1 / 8
"""Smallest width divisor: eight times the paper's widths."""


def checked(name: str, width_divisor: float) -> str:
    """The network's name without alias. Raises InputError for an unknown one, or a divisor out of range."""
    row = ALIASES.get(name, name)
    if row not in NETWORKS:
        raise InputError(f"unknown network {name!r}; known: {', '.join([*NETWORKS, *ALIASES])}")
    if not WIDEST <= width_divisor <= NARROWEST:
        raise InputError(f"width_divisor must be from {WIDEST:g} to {NARROWEST}; got {width_divisor}")
    return row


def variant(name: str, width_divisor: float = 1) -> MAGUNetConfig:
    """The configuration of a row that is a MAG-UNet, with all channel widths divided by ``width_divisor``.

    The first level's is rounded down, and each level has twice the channels of the one above, as in the
    paper: 32 / 3 gives 10, 20, 40, 80, 160. A divisor below 1 widens. Widths that a row states are rounded
    down level by level, else 33 / 4 would make the 3D U-Net again. Raises InputError as `checked` does.
    """
    switches, (first,) = VARIANTS[checked(name, width_divisor)], scaled(width_divisor, NARROWEST)
    stated = scaled(width_divisor, *switches.get("widths", ()))
    widths = stated or (first, 2 * first, 4 * first, 8 * first, 16 * first)
    return MAGUNetConfig(**switches | {"widths": widths})


def build(name: str, width_divisor: float = 1) -> nn.Module:
    """The row's network in plain torch, by torch's random state: (b, 1, d, h, w) -> logits of that shape."""
    row = checked(name, width_divisor)
    return PEERS[row](width_divisor) if row in PEERS else MAGUNet(variant(row, width_divisor))


def build_on_meta(name: str, width_divisor: float = 1) -> nn.Module:
    """The network without memory for its weights: for counting and for tracing shapes."""
    with torch.device("meta"):
        return build(name, width_divisor)


def configuration(name: str, width_divisor: float) -> dict:
    """What is chosen about a network, for JSON: switches of a MAG-UNet; name, width and MONAI of a peer."""
    row = checked(name, width_divisor)
    if row in VARIANTS:
        return asdict(variant(row, width_divisor))
    return {"network": row, "width_divisor": width_divisor, "monai": version("monai")}
