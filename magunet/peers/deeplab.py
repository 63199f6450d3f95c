"""DeepLabv3+ in three dimensions: atrous spatial pyramid pooling on a ResNet, and a short decoder.

Chen, Zhu, Papandreou, Schroff, Adam: Encoder-Decoder with Atrous Separable Convolution, ECCV 2018.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magunet.blocks import BatchNorm3d
from magunet.peers.adapt import AnyGrid, scaled


def point(c_in: int, c_out: int) -> nn.Sequential:
    """1^3 convolution, BN, ReLU."""
    return nn.Sequential(nn.Conv3d(c_in, c_out, 1, bias=False), BatchNorm3d(c_out), nn.ReLU(inplace=True))


def separable(c_in: int, c_out: int) -> nn.Sequential:
    """A 3^3 convolution of each channel alone, a 1^3 across channels (their Fig. 3); BN, ReLU."""
    depthwise = nn.Conv3d(c_in, c_in, 3, padding=1, groups=c_in, bias=False)
    convolutions = nn.Sequential(depthwise, nn.Conv3d(c_in, c_out, 1, bias=False))
    return nn.Sequential(convolutions, BatchNorm3d(c_out), nn.ReLU(inplace=True))


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1^3 convolution, one atrous convolution a share, and the map's mean.

    A rate is that share of the map's side, axis by axis, and at least 1: 3, 6, 9 on the 16 x 16 map of the
    paper's slices; 6, 12, 19 on the 33 x 33 map of the reference, whose own rates are 6, 12, 18. A fixed rate
    reaches past a smaller map, and all but the middle of its kernel meets only padding.
    """

    def __init__(self, c_in: int, c_out: int, shares: tuple[float, ...] = (3 / 16, 6 / 16, 9 / 16)):
        super().__init__()
        self.shares = shares
        self.branches = nn.ModuleList([point(c_in, c_out), *(separable(c_in, c_out) for _ in shares)])
        self.mean = point(c_in, c_out)
        self.project = point((len(shares) + 2) * c_out, c_out)

    def forward(self, x: Tensor) -> Tensor:
        for share, ((depthwise, _), *_) in zip(self.shares, self.branches[1:]):
            depthwise.dilation = depthwise.padding = tuple(max(1, round(n * share)) for n in x.shape[2:])
        mean = self.mean(x.mean((2, 3, 4), keepdim=True)).expand(-1, -1, *x.shape[2:])
        return self.project(torch.cat([*(branch(x) for branch in self.branches), mean], dim=1))


def resnet_50(width: int) -> nn.Module:
    """MONAI's ResNet-50 at output stride 16: its last stage has rate 2 in place of stride 2.

    So it computes on the 1/16 grid what it would have computed on the 1/32 grid, and the values between.
    width: channels within the blocks of its first stage; what leaves the last is 32 times as wide.
    """
    from monai.networks.nets.resnet import ResNet
    widths = [width, 2 * width, 4 * width, 8 * width]
    network = ResNet("bottleneck", [3, 4, 6, 3], widths, spatial_dims=3, n_input_channels=1, conv1_t_size=7,
                     conv1_t_stride=2, shortcut_type="B", feed_forward=False, bias_downsample=False,
                     act=("relu", {"inplace": True}), norm="batch")
    first, *others = network.layer4
    first.conv2.stride = first.downsample[0].stride = (1, 1, 1)
    for block in others:
        block.conv2.dilation = block.conv2.padding = (2, 2, 2)
    return network


class DeepLabV3Plus(nn.Module):
    """Encoder with ASPP at 1/16 of the grid, decoder at 1/4, trilinear interpolation from there.

    x: (b, 1, d, h, w), sides divisible by 16 -> logits (b, 1, d, h, w).
    """

    def __init__(self, width_divisor: float = 1):
        super().__init__()
        width, c, c_low = scaled(width_divisor, 64, 256, 48)
        self.encoder = resnet_50(width)
        self.aspp = ASPP(32 * width, c)
        self.low = point(4 * width, c_low)
        self.decoder = nn.Sequential(separable(c + c_low, c), separable(c, c), nn.Conv3d(c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        net, size = self.encoder, x.shape[2:]
        x = net.maxpool(net.act(net.bn1(net.conv1(x))))                 # (b, 64, d / 4, h / 4, w / 4)
        low = net.layer1(x)                                             # (b, 256, d / 4, h / 4, w / 4)
        x = net.layer4(net.layer3(net.layer2(low)))                     # (b, 2048, d / 16, h / 16, w / 16)
        x = F.interpolate(self.aspp(x), low.shape[2:], mode="trilinear")
        x = self.decoder(torch.cat([x, self.low(low)], dim=1))          # (b, 1, d / 4, h / 4, w / 4)
        return F.interpolate(x, size, mode="trilinear")                 # (b, 1, d, h, w)


def deeplab(width_divisor: float) -> nn.Module:
    """DeepLabv3+ on ResNet-50, separable."""
    return AnyGrid(DeepLabV3Plus(width_divisor), 16, 16, 16)
