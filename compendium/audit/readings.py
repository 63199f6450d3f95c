"""Other readings of the text than the one that is trained: MAG-UNets with other parts, made to be counted."""

import pandas as pd
import torch
from torch import nn

from compendium.paper import MI, TABLE_4
from magunet.blocks import LGAG, PAM, double_conv
from magunet.model import MAGUNet, MAGUNetConfig, count_parameters
from magunet.studies import variant

DECODERS = ("merge", "add", "trilinear", "classic")
"""merge, the one trained: 3^3 transposed convolution, concatenation, one convolution. add: the same with a
sum and two convolutions. trilinear, classic: interpolation or 2^3 transposed; joined, two convolutions."""
READINGS = {
    "as built here": {},
    "PAM's B, C as wide as D": dict(reduction=1),
    "no convolution after DA's sum": dict(after_sum=False),
    "LGAG in 8 groups": dict(groups=8),
    "LGAG in 8 groups, 1^3 convolution behind it": dict(groups=8, projection=True),
    "decoder: summed skip, two convolutions": dict(decoder="add"),
    "decoder: 2^3 transposed convolution, two convolutions": dict(decoder="classic"),
    "decoder: trilinear, two convolutions": dict(decoder="trilinear"),
}
"""What the text leaves open, as arguments of `alternative`: each line changes one thing of the first."""


def decoder_parts(decoder: str, c_deep: int, c: int) -> tuple[nn.Module, nn.Module]:
    """What upsamples c_deep channels, and what follows the meeting with a skip of c channels."""
    match decoder:
        case "add":
            return nn.ConvTranspose3d(c_deep, c, 3, stride=2, padding=1, output_padding=1), double_conv(c, c)
        case "trilinear":
            return nn.Upsample(scale_factor=2, mode="trilinear"), double_conv(c_deep + c, c)
        case "classic":
            return nn.ConvTranspose3d(c_deep, c, 2, stride=2), double_conv(2 * c, c)
    raise ValueError(f"no decoder {decoder!r}; there are {', '.join(DECODERS)}")


def alternative(config: MAGUNetConfig, *, decoder: str = "merge", reduction: int = 8, after_sum: bool = True,
                groups: int = 16, projection: bool = False) -> MAGUNet:
    """A network on the meta device, with parameters but no values.

    decoder: one of `DECODERS`. reduction: of the channels of PAM's B and C. after_sum: the convolution after
    DA's sum. groups: of LGAG's convolutions. projection: a 1^3 convolution behind LGAG.
    """
    with torch.device("meta"):
        network = MAGUNet(config)
        for step, c, c_deep in zip(network.decoder, config.widths[-2::-1], config.widths[:0:-1]):
            if decoder != "merge":
                step.up, step.merge = decoder_parts(decoder, c_deep, c)
            if config.lgag:
                step.gate = LGAG(c, groups)
                step.gate.projection = nn.Conv3d(c, c, 1) if projection else nn.Identity()
        if config.attention == "da":
            network.attention.pam = PAM(config.widths[-1], reduction)
            if not after_sum:
                network.attention.out = nn.Identity()
    return network


def reading_audit() -> pd.DataFrame:
    """Parameters in Mi of the rows of Table 4 (columns) by each of `READINGS`; the paper's in the first line.

    NaN for gates without a decoder that fits them. "exact": how many rows print as the paper's.
    """
    lines = {"paper": {row.name: row.params_mi for row in TABLE_4}}
    configs = {row.name: variant(row.network) for row in TABLE_4}
    for reading, changes in READINGS.items():
        fits = {name: config for name, config in configs.items()
                if not (config.lgag and changes.get("decoder") == "trilinear")}
        lines[reading] = {name: count_parameters(alternative(c, **changes)) / MI for name, c in fits.items()}
    table = pd.DataFrame(lines).T[list(configs)]
    table["exact"] = ((table - table.loc["paper"]).abs() <= 0.005).sum(axis=1)
    return table
