"""What networks from elsewhere need to be used like MAG-UNet: any width, any grid, and positions for it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magunet.blocks import BatchNorm3d


class AnyGrid(nn.Module):
    """A network that needs sides divisible by ``multiple``, on any grid, with our batch normalisation.

    The input is continued by its outermost voxels on both sides of every axis, and the logits are cut back.
    Where every side came down to one multiple, the last one gets two: one voxel alone on the deepest map
    cannot be normalised by its own mean. x: (b, 1, d, h, w) -> (b, 1, d, h, w).
    """

    def __init__(self, network: nn.Module, *multiple: int):
        super().__init__()
        self.network, self.multiple = network, multiple
        for module in network.modules():
            module.__class__ = BatchNorm3d if type(module) is nn.BatchNorm3d else type(module)

    def forward(self, x: Tensor) -> Tensor:
        sides, missing = x.shape[2:], [-n % m for n, m in zip(x.shape[2:], self.multiple)]
        if all(s + n == m for s, n, m in zip(sides, missing, self.multiple)):
            missing[-1] += self.multiple[-1]
        if any(missing):
            pad = [part for n in missing[::-1] for part in (n // 2, n - n // 2)]    # F.pad's axes: last first
            x = F.pad(x, pad, mode="replicate")
        return self.network(x)[(..., *(slice(n // 2, n // 2 + s) for n, s in zip(missing, sides)))]


def sine_positions(x: Tensor) -> Tensor:
    """Fixed position encoding of every cell of a map (b, c, d, h, w): (1, n, c), float32; 6 must divide c.

    A sixth of the channels each holds sine and cosine of z, y and x, at wavelengths from 2 pi to 20000 pi
    cells (Vaswani et al., NeurIPS 2017, Sec. 3.5): for any grid, whereas learned positions hold for one.
    """
    waves = 1e4 ** -torch.linspace(0, 1, x.shape[1] // 6, device=x.device)
    axes = (torch.arange(n, dtype=torch.float32, device=x.device) for n in x.shape[2:])
    cells = torch.cartesian_prod(*axes)                                 # (n, 3)
    angles = (cells[:, :, None] * waves).flatten(1)                     # (n, c / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[None]


def without_idle_parameters(network: nn.Module) -> nn.Module:
    """The network without the norm before cross-attention, which MONAI's blocks hold and here never use."""
    for module in network.modules():
        if hasattr(module, "norm_cross_attn"):
            module.norm_cross_attn = nn.Identity()
    return network


def scaled(width_divisor: float, *widths: int, multiple: int = 1) -> tuple[int, ...]:
    """Widths divided by ``width_divisor``, rounded down to multiples of ``multiple``, but never to none."""
    shares = (round(width / width_divisor / multiple, 6) for width in widths)
    return tuple(max(1, math.floor(share)) * multiple for share in shares)
