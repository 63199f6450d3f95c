"""Where in a network operations and memory go at the paper's input, counted without computing anything."""

from functools import cache

import pandas as pd
import torch
from torch import nn

from compendium.cost import flop_by_module
from compendium.paper import INPUT_SIZE
from magunet.blocks import LGAG
from magunet.model import MAGUNetConfig, count_parameters
from magunet.studies import build_on_meta


def paper_input() -> torch.Tensor:
    """One scan of the paper's size, (1, 1, 50, 256, 256), without memory."""
    return torch.zeros(1, 1, *INPUT_SIZE, device="meta")


@cache
def flops(network: str) -> dict[str, int]:
    """Floating-point operations of one forward pass by module, "" for all; counted as `flop_by_module` says."""
    return flop_by_module(build_on_meta(network))


@cache
def trace(network: str = "MAG-UNet") -> tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]:
    """Shapes (c, d, h, w) into and out of every level of a network, in order."""
    net, seen = build_on_meta(network), []
    parts = {f"encoder {i}": m for i, m in enumerate(net.encoder, 1)} | {f"down {i}": m for i, m in enumerate(net.down, 1)}
    parts |= {f"up {4 - i}": step.up for i, step in enumerate(net.decoder)}
    parts |= {f"decoder {4 - i}": step.merge for i, step in enumerate(net.decoder)}
    for name, module in parts.items():
        module.register_forward_hook(
            lambda _, inputs, output, name=name: seen.append((name, tuple(inputs[0].shape[1:]), tuple(output.shape[1:]))))
    net(paper_input())
    return tuple(seen)


def padded_levels() -> list[int]:
    """Levels at which the decoder's upsampled map is smaller than the skip it meets, so that MAG-UNet pads it."""
    shapes = {name: (before, after) for name, before, after in trace()}
    return [n for n in (4, 3, 2, 1) if shapes[f"up {n}"][1][1:] != shapes[f"decoder {n}"][0][1:]]


@cache
def training_bytes(network: str) -> tuple[int, int]:
    """Bytes that a training step in float32 at batch size 1 cannot do without: (for the gradient, for the weights).

    The first are the maps that the backward pass needs, the second weights, gradients and Adam's two moments.
    Work space of the convolutions comes on top.
    """
    net = build_on_meta(network).train()
    own = {p.untyped_storage()._cdata for p in net.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage                      # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(paper_input())
    return sum(s.nbytes() for key, s in kept.items() if key not in own), 4 * 4 * count_parameters(net)


def plain_gate(channels: int, kernel: int = 1) -> nn.Module:
    """The convolutions of an additive attention gate (Oktay et al. 2018): g and x to half the channels, then to one."""
    half = channels // 2
    return nn.ModuleList([nn.Conv3d(channels, half, kernel), nn.Conv3d(channels, half, kernel), nn.Conv3d(half, 1, 1)])


def gate_costs() -> pd.DataFrame:
    """Weights of four gates on the skips, and multiply-adds at the paper's input: LGAG beside other gates.

    A convolution that keeps the grid uses each weight once a voxel.
    """
    kinds = {"1^3, half the channels (Attention U-Net)": plain_gate, "3^3, half the channels": lambda c: plain_gate(c, 3),
             "3^3 in 16 groups (LGAG)": LGAG, "3^3 in one group": lambda c: LGAG(c, groups=1)}
    voxels = [shape[1] * shape[2] * shape[3] for name, _, shape in trace() if name.startswith("encoder")]
    rows = {}
    for kind, make in kinds.items():
        with torch.device("meta"):
            gates = [make(c) for c in MAGUNetConfig().widths[:4]]
        weights = [sum(m.weight.numel() for m in gate.modules() if isinstance(m, nn.Conv3d)) for gate in gates]
        rows[kind] = {"weights": sum(weights), "GFLOP": 2 * sum(w * v for w, v in zip(weights, voxels)) / 1e9}
    return pd.DataFrame(rows).T.astype({"weights": int})
