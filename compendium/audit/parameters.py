"""The paper's parameter counts beside those of the networks here, as they are built and as they could have been."""

from dataclasses import replace
from functools import partial

import pandas as pd
import torch

from compendium.paper import MI, TABLE_1, TABLE_4, TABLES
from magunet.model import MAGUNet, count_parameters
from magunet.studies import build, build_on_meta, variant

READINGS = {
    "as built here": {},
    "PAM's B, C as wide as D": dict(da_reduction=1),
    "no convolution after DA's sum": dict(da_out_conv=False),
    "LGAG in 8 groups": dict(lgag_groups=8),
    "LGAG in 8 groups, 1^3 convolution behind it": dict(lgag_groups=8, lgag_projection=True),
    "decoder: summed skip, two convolutions": dict(decoder="add"),
    "decoder: 2^3 transposed convolution, two convolutions": dict(decoder="classic"),
    "decoder: trilinear, two convolutions": dict(decoder="trilinear"),
}
"""What the text leaves open, as switches of MAGUNetConfig: each line changes one thing of the first."""


def parameter_audit() -> pd.DataFrame:
    """One row for each row of Tables 1 to 4: the paper's count in Mi, ours exactly and in Mi, the difference."""
    rows = []
    for row in (row for table in TABLES for row in table):
        ours = count_parameters(build_on_meta(row.network))
        difference = ours / MI - row.params_mi if row.params_mi else None
        rows.append({"table": row.table, "row": row.name, "paper Mi": row.params_mi, "parameters": ours,
                     "Mi": ours / MI, "difference": difference})
    return pd.DataFrame(rows)


def reading_audit() -> pd.DataFrame:
    """Parameters in Mi of every row of Table 4 (columns) by each of `READINGS` and, in the first line, the paper.

    NaN for gates without a decoder that fits them. "exact": how many rows print as the paper's.
    """
    lines = {"paper": {row.name: row.params_mi for row in TABLE_4}}
    for reading, switches in READINGS.items():
        configs = {row.name: replace(variant(row.network), **switches) for row in TABLE_4}
        with torch.device("meta"):
            lines[reading] = {name: count_parameters(MAGUNet(config)) / MI for name, config in configs.items()
                              if not (config.lgag and config.decoder == "trilinear")}
    table = pd.DataFrame(lines).T[list(lines["paper"])]
    table["exact"] = ((table - table.loc["paper"]).abs() <= 0.005).sum(axis=1)
    return table


def stock_networks() -> pd.DataFrame:
    """Parameters in Mi of networks as MONAI has them, and of ours at other widths, beside the rows of Table 1 they could be."""
    from monai.networks.nets import UNETR, AttentionUnet, VNet

    said, deep = {row.name: row.params_mi for row in TABLE_1}, (64, 128, 256, 512, 1024)
    made = {
        "3D V-Net": {"MONAI's VNet": lambda: VNet(spatial_dims=3, in_channels=1, out_channels=1)},
        "ResUNet": {f"ours, {wider:g} times as wide": partial(build, "ResUNet", 1 / wider) for wider in (1.5, 2)},
        "Attention UNet": {"MONAI's AttentionUnet, 64 to 1024": lambda: AttentionUnet(3, 1, 1, deep, (2,) * 4)}
        | {f"ours, {wider:g} times as wide": partial(build, "Attention UNet", 1 / wider) for wider in (1.5, 2)},
        "UNETR": {"MONAI's UNETR for 48 x 256 x 256": lambda: UNETR(1, 1, (48, 256, 256))},
    }
    rows = []
    for row, networks in made.items():
        for name, network in networks.items():
            with torch.device("meta"):
                rows.append({"row": row, "paper Mi": said[row], "network": name, "Mi": count_parameters(network()) / MI})
    return pd.DataFrame(rows).assign(difference=lambda table: table["Mi"] - table["paper Mi"])


def as_text(table: pd.DataFrame) -> str:
    """The audit as a plain table; "-" where the paper gives no count."""
    shown = table.copy().astype(object)
    for name, form in (("paper Mi", "{:.2f}"), ("parameters", "{:,}"), ("Mi", "{:.3f}"), ("difference", "{:+.3f}")):
        shown[name] = [("-" if pd.isna(v) else form.format(v)) for v in table[name]]
    return shown.to_string(index=False)
