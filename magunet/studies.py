"""Row name -> network: every row of the paper's tables, and the networks a user would take instead."""

from dataclasses import asdict
from importlib.metadata import version

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from magunet.base.errors import InputError, require
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
OWN = "own"
"""First word of a network of one's own: MAG-UNet with switches, as in ``own mff_kernels=1,5 lgag=False``."""
OWN_SWITCHES = ("widths", "mff_kernels", "attention", "attention_level", "lgag")
"""Of MAGUNetConfig, that such a name may state."""
NARROWEST = MAGUNetConfig().widths[0]
"""Largest width divisor: one channel is left on the first level."""
WIDEST = 1 / 8
"""Smallest width divisor: eight times the paper's widths."""


def own_name(config: MAGUNetConfig) -> str:
    """The row that has this configuration, else OWN and the switches that differ from MAG-UNet's."""
    if row := next((row for row in VARIANTS if variant(row) == config), ""):
        return row
    changes = dict(asdict(config).items() - asdict(MAGUNetConfig()).items())
    values = {name: ",".join(map(str, value)) if isinstance(value, tuple) else value
              for name, value in sorted(changes.items())}
    return " ".join([OWN, *(f"{name}={value}" for name, value in values.items())])


def own_switches(name: str) -> dict:
    """The switches that the name of a network of one's own states. Raises InputError for what makes none."""
    switches = {}
    for word in name.split()[1:]:
        switch, _, value = word.partition("=")
        require(switch in OWN_SWITCHES and switch not in switches,
                f"network {name!r}: {switch!r} is no switch, or is given twice; there are "
                + ", ".join(OWN_SWITCHES))
        many = switch in ("widths", "mff_kernels") and value != "None"
        switches[switch] = value.split(",") if many else None if value == "None" else value
    try:
        config = TypeAdapter(MAGUNetConfig).validate_python(switches)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(f"network {name!r}: {'.'.join(map(str, first['loc']))} {reason}") from None
    return {switch: getattr(config, switch) for switch in switches}


def checked(network: str | MAGUNetConfig, width_divisor: float = 1) -> str:
    """The network's name without alias. Raises InputError for an unknown one, or a divisor out of range."""
    row = own_name(network) if isinstance(network, MAGUNetConfig) else ALIASES.get(network, network)
    if row.split(" ")[0] == OWN:
        row = own_name(MAGUNetConfig(**own_switches(row)))
    elif row not in NETWORKS:
        raise InputError(f"unknown network {row!r}; known: {', '.join([*NETWORKS, *ALIASES])}, and "
                         f"'{OWN} mff_kernels=1,5 lgag=False', which is MAG-UNet with these switches")
    if not WIDEST <= width_divisor <= NARROWEST:
        raise InputError(f"width_divisor must be from {WIDEST:g} to {NARROWEST}; got {width_divisor}")
    return row


def variant(network: str | MAGUNetConfig, width_divisor: float = 1) -> MAGUNetConfig:
    """The configuration of a network that is a MAG-UNet, all channel widths divided by ``width_divisor``.

    The first level's is rounded down, and each level has twice the channels of the one above, as in the
    paper: 32 / 3 gives 10, 20, 40, 80, 160. A divisor below 1 widens. Widths that a row states are rounded
    down level by level, else 33 / 4 would make the 3D U-Net again. Raises InputError as `checked` does.
    """
    row, (first,) = checked(network, width_divisor), scaled(width_divisor, NARROWEST)
    switches = VARIANTS[row] if row in VARIANTS else own_switches(row)
    stated = scaled(width_divisor, *switches.get("widths", ()))
    widths = stated or (first, 2 * first, 4 * first, 8 * first, 16 * first)
    return MAGUNetConfig(**switches | {"widths": widths})


def build(network: str | MAGUNetConfig, width_divisor: float = 1) -> nn.Module:
    """The network in plain torch, by torch's random state: (b, 1, d, h, w) -> logits of that shape."""
    row = checked(network, width_divisor)
    return PEERS[row](width_divisor) if row in PEERS else MAGUNet(variant(row, width_divisor))


def build_on_meta(network: str | MAGUNetConfig, width_divisor: float = 1) -> nn.Module:
    """The network without memory for its weights: for counting and for tracing shapes."""
    with torch.device("meta"):
        return build(network, width_divisor)


def configuration(network: str | MAGUNetConfig, width_divisor: float) -> dict:
    """What is chosen about a network, for JSON: switches of a MAG-UNet; name, width and MONAI of a peer."""
    row = checked(network, width_divisor)
    if row in PEERS:
        return {"network": row, "width_divisor": width_divisor, "monai": version("monai")}
    return asdict(variant(row, width_divisor))
