"""What networks from elsewhere need to be used like MAG-UNet: any input size, and positions for any grid."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magunet.blocks import BatchNorm3d


def without_idle_parameters(network: nn.Module) -> nn.Module:
    """Drop the normalisation before cross-attention, which MONAI's transformer blocks hold and here never use."""
    from monai.networks.blocks.transformerblock import TransformerBlock

    for module in network.modules():
        if isinstance(module, TransformerBlock):
            module.norm_cross_attn = nn.Identity()
    return network


class AnyGrid(nn.Module):
    """A network that needs sides divisible by ``multiple``, on any grid, with our batch normalisation in place of torch's.

    The input is continued by its outermost voxels on both sides of every axis, and the logits are cut back. Where
    every side came down to one multiple, the last one gets two: the deepest map then has two voxels, for one alone
    cannot be normalised by its own mean. x: (b, 1, d, h, w) -> (b, 1, d, h, w).
    """

    def __init__(self, network: nn.Module, multiple: tuple[int, int, int]):
        super().__init__()
        self.network = network
        for module in network.modules():
            if type(module) is nn.BatchNorm3d:
                module.__class__ = BatchNorm3d
        self.multiple = multiple

    def grid(self, sides: tuple[int, int, int]) -> tuple[int, int, int]:
        """The sides that the network gets for an input of these sides."""
        d, h, w = (math.ceil(n / m) * m for n, m in zip(sides, self.multiple))
        return d, h, 2 * w if (d, h, w) == self.multiple else w

    def forward(self, x: Tensor) -> Tensor:
        sides = x.shape[2:]
        missing = [n - s for n, s in zip(self.grid(sides), sides)]
        before = [n // 2 for n in missing]
        if any(missing):
            pad = [side for n, b in zip(missing[::-1], before[::-1]) for side in (b, n - b)]
            x = F.pad(x, pad, mode="replicate")                         # F.pad counts axes from the last
        return self.network(x)[(..., *(slice(b, b + s) for b, s in zip(before, sides)))]


def sine_positions(grid: tuple[int, int, int], channels: int, device: torch.device) -> Tensor:
    """Fixed position encoding of every cell of a grid: (1, d * h * w, channels), float32.

    A sixth of the channels each holds sine and cosine of z, y and x, at wavelengths from 2 pi to 20000 pi cells
    (Vaswani et al., Attention Is All You Need, NeurIPS 2017, Sec. 3.5). It holds for any grid, whereas learned
    positions belong to the one they were trained on. channels must be divisible by 6.
    """
    waves = 1e4 ** -torch.linspace(0, 1, channels // 6, device=device)
    cells = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float32, device=device) for n in grid))
    angles = (cells[:, :, None] * waves).flatten(1)                     # (n, channels / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[None]


def scaled(width_divisor: float, *widths: int, multiple: int = 1) -> tuple[int, ...]:
    """Channel widths divided by ``width_divisor``, rounded down to multiples of ``multiple``, but never to none."""
    return tuple(max(1, math.floor(round(width / width_divisor / multiple, 6))) * multiple for width in widths)
