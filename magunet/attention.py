"""The attention modules that Table 2 sets beside DA, in three dimensions and plain torch.

Each maps (b, c, d, h, w) to the same shape and is placed where DA is, on the bottleneck.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magunet.blocks import BatchNorm3d, in_float32, rows


def channel_mlp(channels: int, reduction: int) -> nn.Sequential:
    """The two-layer bottleneck that SE and CBAM share: (b, c, 1, 1, 1) -> (b, c, 1, 1, 1)."""
    hidden = max(1, channels // reduction)
    down, up = nn.Conv3d(channels, hidden, 1), nn.Conv3d(hidden, channels, 1)
    return nn.Sequential(down, nn.ReLU(inplace=True), up)


class SE(nn.Module):
    """Squeeze-and-excitation. Hu, Shen, Sun: Squeeze-and-Excitation Networks, CVPR 2018, Eqs. 2-4."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.mlp = channel_mlp(channels, reduction)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.mlp(x.mean((2, 3, 4), keepdim=True)))


class CBAM(nn.Module):
    """Convolutional block attention: channel, then spatial. Woo et al., CBAM, ECCV 2018, Eqs. 1-3."""

    def __init__(self, channels: int, reduction: int = 16, kernel: int = 7):
        super().__init__()
        self.mlp = channel_mlp(channels, reduction)
        self.spatial = nn.Conv3d(2, 1, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        mean, peak = x.mean((2, 3, 4), keepdim=True), x.amax((2, 3, 4), keepdim=True)
        x = x * torch.sigmoid(self.mlp(mean) + self.mlp(peak))
        maps = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)     # (b, 2, d, h, w)
        return x * torch.sigmoid(self.spatial(maps))


class NonLocal(nn.Module):
    """Embedded-Gaussian non-local block. Wang et al., Non-local Neural Networks, CVPR 2018, Eqs. 1-6.

    theta, phi and g halve the channels; the BN of the output starts at 0, so the block starts as the
    identity (their Sec. 4.1). Computed as dot-product attention, without the N x N matrix.
    """

    def __init__(self, channels: int):
        super().__init__()
        inner = max(1, channels // 2)
        self.theta = nn.Conv3d(channels, inner, 1)
        self.phi = nn.Conv3d(channels, inner, 1)
        self.g = nn.Conv3d(channels, inner, 1)
        self.out = nn.Sequential(nn.Conv3d(inner, channels, 1), BatchNorm3d(channels))
        nn.init.zeros_(self.out[1].weight)

    @in_float32
    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (rows(conv(x)).unsqueeze(1) for conv in (self.theta, self.phi, self.g))
        y = F.scaled_dot_product_attention(query, key, value, scale=1.0)        # (b, 1, n, inner)
        y = y.squeeze(1).mT.reshape(x.shape[0], -1, *x.shape[2:])               # (b, inner, d, h, w)
        return self.out(y) + x


class ECA(nn.Module):
    """Efficient channel attention. Wang et al., ECA-Net, CVPR 2020, Eqs. 9, 12 (gamma = 2, b = 1)."""

    def __init__(self, channels: int):
        super().__init__()
        kernel = int(abs((math.log2(channels) + 1) / 2))
        kernel += 1 - kernel % 2                                        # nearest odd number upwards
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3, 4)).unsqueeze(1)                         # (b, 1, c)
        return x * torch.sigmoid(self.conv(means)).mT[..., None, None]  # (b, c, 1, 1, 1)
