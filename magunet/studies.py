"""Row name -> network: every row of the paper's tables, and the networks a user would take instead."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from types import ModuleType

import torch
from torch import nn

from magunet import attention, blocks
from magunet import fast as layers
from magunet import model as magunet
from magunet.base.errors import InputError
from magunet.model import MAGUNet, MAGUNetConfig
from magunet.peers import adapt, deeplab, segnet, transunet, unetr
from magunet.peers import monai_peers as peers
from magunet.peers.adapt import scaled

PLAIN = dict(mff_kernels=None, attention="none", lgag=False)
MFF = dict(mff_kernels=(1, 3, 5))
DA = dict(attention="da")
GATES = dict(lgag=True)

VARIANTS: dict[str, dict] = {
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

FIRST_WIDTH = NARROWEST = MAGUNetConfig().widths[0]
"""Channels of the first level; divided by as much, one is left."""
WIDEST = 1 / 8
"""Smallest divisor: eight times the paper's widths."""

Code = ModuleType | type | Callable


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A network that is no MAG-UNet.

    build: width divisor -> network.
    code: the modules, classes and functions that it is made of beside ``build`` and `SHARED`.
    monai: whether it has parts of MONAI.
    """

    build: Callable[[float], nn.Module]
    code: tuple[Code, ...] = ()
    monai: bool = True


LAYERS = (layers.Conv3d, layers.merge_groups, layers.BatchNorm, layers.may_overwrite, layers.no_autocast, layers.in_float32)
TRUNK = (magunet, layers.conv_bn_relu, layers.double_conv, layers.MaxPool, layers.statistics_left_alone,
         layers.through_joined, *LAYERS)
SHARED = (adapt, *LAYERS)
"""Code that all networks are made of; all MAG-UNets; all peers."""

ATTENTION_CODE: dict[str, tuple[Code, ...]] = {
    "none": (),
    "da": (blocks.DualAttention, blocks.PAM, blocks.CAM, blocks.rows),
    "se": (attention.SE, attention.channel_mlp),
    "cbam": (attention.CBAM, attention.channel_mlp),
    "non_local": (attention.NonLocal, blocks.rows),
    "eca": (attention.ECA,),
}
"""Code that a switch of MAGUNetConfig adds."""

PEERS = {
    "3D V-Net": Peer(build=peers.v_net, code=(peers.VNet,)),
    "ResUNet": Peer(build=peers.res_unet, code=(peers.dyn_unet,)),
    "Attention UNet": Peer(build=peers.attention_unet),
    "SegNet": Peer(build=segnet.segnet, code=(segnet, layers.conv_bn_relu), monai=False),
    "UNETR": Peer(build=unetr.unetr, code=(unetr, blocks.rows)),
    "DeepLabv3+": Peer(build=deeplab.deeplab, code=(deeplab,)),
    "nnU-Net": Peer(build=peers.nn_unet, code=(peers.dyn_unet,)),
    "MedNeXt": Peer(build=peers.mednext),
    "SegResNet": Peer(build=peers.seg_resnet),
    "SwinUNETR": Peer(build=peers.swin_unetr),
    "TransUNet": Peer(build=transunet.transunet, code=(transunet, blocks.rows, layers.conv_bn_relu, layers.double_conv)),
}
"""The other networks of Table 1; then nnU-Net, MedNeXt, SegResNet, Swin UNETR; and TransUNet, which Sec. 2.2 names."""

NETWORKS = (*VARIANTS, *PEERS)
"""Every network, once."""


def checked(name: str, width_divisor: float) -> str:
    """The network's name without its alias.

    Raises InputError for an unknown name (and lists the known ones) or a divisor that leaves no channel.
    """
    known = ALIASES.get(name, name)
    if known not in NETWORKS:
        raise InputError(f"unknown network {name!r}; known: {', '.join([*NETWORKS, *ALIASES])}")
    if not WIDEST <= width_divisor <= NARROWEST:
        raise InputError(f"width_divisor must be from {WIDEST:g} to {NARROWEST}; got {width_divisor}")
    return known


def variant(name: str, width_divisor: float = 1) -> MAGUNetConfig:
    """The configuration of a row that is a MAG-UNet, with all channel widths divided by ``width_divisor``.

    The first level's is rounded down, and each level has twice the channels of the one above, as in the paper: 32 / 3
    gives 10, 20, 40, 80, 160. A divisor below 1 widens.
    """
    switches, (first,) = VARIANTS[checked(name, width_divisor)], scaled(width_divisor, FIRST_WIDTH)
    return MAGUNetConfig(**switches, widths=(first, 2 * first, 4 * first, 8 * first, 16 * first))


def build(name: str, width_divisor: float = 1) -> nn.Module:
    """The network of a row, initialised from torch's current random state: (b, 1, d, h, w) -> logits (b, 1, d, h, w).

    Raises InputError as `checked` does.
    """
    known = checked(name, width_divisor)
    return PEERS[known].build(width_divisor) if known in PEERS else MAGUNet(variant(known, width_divisor))


def build_on_meta(name: str, width_divisor: float = 1) -> nn.Module:
    """The network without memory for its weights: for counting and for tracing shapes."""
    with torch.device("meta"):
        return build(name, width_divisor)


def configuration(name: str, width_divisor: float) -> dict:
    """What is chosen about a network, as JSON: every switch of a MAG-UNet; a peer's name, width and MONAI release.

    Raises InputError as `checked` does.
    """
    known = checked(name, width_divisor)
    if known in VARIANTS:
        return asdict(variant(known, width_divisor))
    used = {"monai": version("monai")} if PEERS[known].monai else {}
    return {"network": known, "width_divisor": width_divisor} | used


def code_of(name: str) -> tuple[Code, ...]:
    """The code that a network is made of, and no other module's: what its runs have to be repeated for."""
    known = ALIASES.get(name, name)
    if known in VARIANTS:
        config = variant(known)
        fusion = (blocks.MFF, blocks.Branch) if config.mff_kernels else ()
        gates = (blocks.LGAG,) if config.lgag else ()
        return *TRUNK, *fusion, *ATTENTION_CODE[config.attention], *gates
    return *SHARED, *PEERS[known].code, PEERS[known].build
