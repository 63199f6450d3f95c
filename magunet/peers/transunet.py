"""TransUNet in three dimensions: a U-Net with a vision transformer over the cells of its 1/16 map.

Chen et al.: TransUNet, arXiv:2102.04306; skips at every level as in their 3D TransUNet, arXiv:2310.07781.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magunet.blocks import conv_bn_relu, double_conv, rows
from magunet.peers.adapt import AnyGrid, scaled, sine_positions, without_idle_parameters


class TransUNet(nn.Module):
    """Encoder of the baseline in place of ResNet-50; ViT-B, 12 layers of 12 heads; their cascaded upsampler.

    hidden must be divisible by 12. x: (b, 1, d, h, w), sides divisible by 16 -> logits (b, 1, d, h, w).
    """

    def __init__(self, widths: tuple[int, ...], hidden: int):
        from monai.networks.blocks.transformerblock import TransformerBlock
        super().__init__()
        self.encoder = nn.ModuleList(double_conv(i, o) for i, o in zip((1, *widths), widths[:-1]))
        self.embed = nn.Conv3d(widths[-2], hidden, 1)
        self.blocks = without_idle_parameters(nn.Sequential(*(
            TransformerBlock(hidden, 4 * hidden, num_heads=12, dropout_rate=0.0, qkv_bias=True)
            for _ in range(12))))
        self.norm = nn.LayerNorm(hidden)
        self.back = conv_bn_relu(hidden, widths[-1])
        self.decoder = nn.ModuleList(double_conv(widths[i + 1] + widths[i], widths[i]) for i in (3, 2, 1, 0))
        self.head = nn.Conv3d(widths[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for encode in self.encoder:
            skips.append(encode(x))                                     # (b, w_i, d / 2^i, h / 2^i, w / 2^i)
            x = F.max_pool3d(skips[-1], 2)
        x = self.embed(x)                                               # (b, hidden, d / 16, h / 16, w / 16)
        tokens = self.norm(self.blocks(rows(x) + sine_positions(x)))    # (b, n, hidden)
        x = self.back(tokens.mT.reshape(x.shape))                       # (b, w_4, d / 16, h / 16, w / 16)
        for decode in self.decoder:
            x = F.interpolate(x, scale_factor=2, mode="trilinear")
            x = decode(torch.cat([skips.pop(), x], dim=1))
        return self.head(x)                                             # (b, 1, d, h, w)


def transunet(width_divisor: float) -> nn.Module:
    """TransUNet, 32 to 512 channels, 768 in the transformer. The paper names it and gives no count."""
    hidden, = scaled(width_divisor, 768, multiple=12)                   # one share for each head
    return AnyGrid(TransUNet(scaled(width_divisor, 32, 64, 128, 256, 512), hidden), 16, 16, 16)
