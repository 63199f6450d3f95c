"""SegNet in three dimensions: an encoder that remembers where its maxima were, a decoder that puts them back.

Badrinarayanan, Kendall, Cipolla: SegNet, IEEE TPAMI 39, 2017, 2481. The 13 convolutions of VGG-16, mirrored.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from magunet.blocks import conv_bn_relu
from magunet.peers.adapt import AnyGrid, scaled

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the five stages of VGG-16 (Sec. 3.1)."""
CONVOLUTIONS = (2, 2, 3, 3, 3)
"""Convolutions of each of them."""


def stage(channels: list[int]) -> nn.Sequential:
    """3^3 convolutions with BN and ReLU through these channels."""
    return nn.Sequential(*(conv_bn_relu(a, b) for a, b in pairwise(channels)))


class SegNet(nn.Module):
    """The decoder upsamples by the indices of the encoder's max pooling and by nothing else.

    x: (b, 1, d, h, w), sides of 32 or more -> logits (b, 1, d, h, w).
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS):
        super().__init__()
        stages = [[i, *[o] * n] for i, o, n in zip((1, *widths), widths, CONVOLUTIONS)]
        self.encoder = nn.ModuleList(stage(channels) for channels in stages)
        mirror = [stage(channels[::-1]) for channels in stages[1:]]
        self.decoder = nn.ModuleList([*mirror[::-1], stage([widths[0]] * CONVOLUTIONS[0])])
        self.head = nn.Conv3d(widths[0], 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        maxima = []
        for encode in self.encoder:
            x = encode(x)                                               # (b, w_i, d / 2^i, h / 2^i, w / 2^i)
            size = x.shape[2:]
            x, indices = F.max_pool3d(x, 2, return_indices=True)
            maxima.append((indices, size))
        for decode in self.decoder:
            indices, size = maxima.pop()
            x = decode(F.max_unpool3d(x, indices, 2, output_size=size))
        return self.head(x)                                             # (b, 1, d, h, w)


def segnet(width_divisor: float) -> nn.Module:
    """SegNet, 64 to 512 channels. 84.2 Mi parameters against the paper's 76.80, whose reading is not told."""
    return AnyGrid(SegNet(scaled(width_divisor, *WIDTHS)), 32, 32, 32)
