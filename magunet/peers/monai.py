"""The networks that MONAI has, each with its normalisation, activation and dropout spelt out.

Every function takes the divisor of the channel widths, and its network any grid: (b, 1, d, h, w) -> logits of
that shape. None has dropout; widths are the baseline's 32 to 512 where nothing else is said. The paper's
counts fit no stock network, and those of Attention U-Net (118.51 Mi) and ResUNet (55.92) no usual width.
"""

import math

import torch
from torch import Tensor, nn

from magunet.peers.adapt import AnyGrid, scaled

RELU = ("relu", {"inplace": True})
"""As MONAI takes it."""
INSTANCE = ("instance", {"affine": True})
"""As MONAI takes it."""


class VNet(nn.Module):
    """V-Net of MONAI's stages, whose own class has one width. Milletari, Navab, Ahmadi, 3DV 2016, Fig. 2.

    5^3 convolutions, PReLU, residual stages; BN as in MONAI, whose last layer is not taken: before the 1^3
    convolution it makes one normalised channel, and a single weight then learns the scale of all logits.
    x: (b, 1, d, h, w), sides divisible by 16.
    """

    def __init__(self, width: int = 16):
        from monai.networks.nets.vnet import DownTransition, InputTransition, UpTransition
        super().__init__()
        w = [width * 2**i for i in range(5)]
        ups = (w[4], w[4], 2), (w[4], w[3], 2), (w[3], w[2], 1), (w[2], w[1], 1)    # in, out, convolutions
        self.start = InputTransition(3, 1, w[0], "prelu", bias=False)
        self.down = nn.ModuleList(DownTransition(3, c, convolutions, "prelu", dropout_prob=None, bias=False)
                                  for c, convolutions in zip(w, (1, 2, 3, 2)))
        self.up = nn.ModuleList(UpTransition(3, *up, "prelu", dropout_prob=(None, 0.0)) for up in ups)
        self.end = nn.Conv3d(w[1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.start(x)]
        for down in self.down:
            maps.append(down(maps[-1]))                                 # (b, w_i, d / 2^i, h / 2^i, w / 2^i)
        x = maps.pop()
        for up in self.up:
            x = up(x, maps.pop())
        return self.end(x)                                              # (b, 1, d, h, w)


def v_net(width_divisor: float) -> nn.Module:
    """3D V-Net, 16 to 256 channels, half the baseline's: 43.5 Mi parameters (paper 54.14)."""
    return AnyGrid(VNet(*scaled(width_divisor, 16)), 16, 16, 16)


def dyn_unet(filters: tuple[int, ...], strides: list, residual: bool, norm: tuple, act: tuple) -> nn.Module:
    """MONAI's DynUNet with 3^3 convolutions and no deep supervision.

    It lists its stages under two names; one list goes, for safetensors stores no weight under two names.
    """
    from monai.networks.nets.dynunet import DynUNet
    network = DynUNet(
        spatial_dims=3, in_channels=1, out_channels=1, kernel_size=[3] * len(filters), strides=[1, *strides],
        upsample_kernel_size=strides, filters=filters, dropout=None, norm_name=norm, act_name=act,
        deep_supervision=False, res_block=residual, trans_bias=False)
    del network.input_block, network.downsamples, network.bottleneck, network.upsamples
    return network


def res_unet(width_divisor: float) -> nn.Module:
    """ResUNet: a U-Net of residual blocks with BN and ReLU. Zhang, Liu, Wang, IEEE GRSL 15, 2018, 749.

    The paper writes ResUNet, too, but cites ResUNet-a (Diakogiannis et al., ISPRS J. Photogramm. Remote Sens.
    162, 2020, 94). Its parallel atrous convolutions and pyramid scene parsing pooling are not in this one.
    """
    widths = scaled(width_divisor, 32, 64, 128, 256, 512)
    return AnyGrid(dyn_unet(widths, [2] * 4, True, ("batch", {"affine": True}), RELU), 16, 16, 16)


def nn_unet(width_divisor: float) -> nn.Module:
    """nnU-Net's plain U-Net, at most 320 channels, instance norm, leaky ReLU; no deep supervision.

    Its rules for 50 x 128 x 128 voxels of even spacing: an axis is halved while 4 voxels or more remain, so z
    three times. Isensee et al., Nature Methods 18, 2021, 203.
    """
    widths = scaled(width_divisor, 32, 64, 128, 256, 320, 320)
    act = ("leakyrelu", {"inplace": True, "negative_slope": 0.01})
    return AnyGrid(dyn_unet(widths, [2, 2, 2, (1, 2, 2), (1, 2, 2)], False, INSTANCE, act), 8, 32, 32)


def attention_unet(width_divisor: float) -> nn.Module:
    """Attention U-Net with BN and ReLU throughout. Oktay et al., MIDL 2018.

    MONAI's convolutions after skips, which take instance norm and PReLU by default, are replaced.
    """
    from monai.networks.blocks.convolutions import Convolution
    from monai.networks.nets.attentionunet import AttentionLayer, AttentionUnet
    widths = scaled(width_divisor, 32, 64, 128, 256, 512, multiple=2)   # the gates halve them
    network = AttentionUnet(spatial_dims=3, in_channels=1, out_channels=1, channels=widths, strides=(2,) * 4,
                            kernel_size=3, up_kernel_size=3, dropout=0.0)
    for layer in network.modules():
        if isinstance(layer, AttentionLayer):
            both, one = layer.merge.conv.in_channels, layer.merge.conv.out_channels
            layer.merge = Convolution(3, both, one, kernel_size=3, act=RELU, norm="batch")
    return AnyGrid(network, 16, 16, 16)


def mednext(width_divisor: float) -> nn.Module:
    """MedNeXt-B with 3^3 kernels, group norm of single channels, GELU. Roy et al., MICCAI 2023, Table 1."""
    from monai.networks.nets.mednext import MedNeXt
    filters, = scaled(width_divisor, 32)
    network = MedNeXt(
        spatial_dims=3, init_filters=filters, in_channels=1, out_channels=1, kernel_size=3,
        encoder_expansion_ratio=(2, 3, 4, 4), bottleneck_expansion_ratio=4, norm_type="group",
        decoder_expansion_ratio=(4, 4, 3, 2), deep_supervision=False, use_residual_connection=True,
        blocks_down=(2,) * 4, blocks_bottleneck=2, blocks_up=(2,) * 4, global_resp_norm=False)
    return AnyGrid(network, 16, 16, 16)


def seg_resnet(width_divisor: float) -> nn.Module:
    """SegResNet without autoencoder, groups of at most eight channels, ReLU. Myronenko, BrainLes 2018."""
    from monai.networks.nets.segresnet import SegResNet
    filters, = scaled(width_divisor, 32)
    network = SegResNet(
        spatial_dims=3, init_filters=filters, in_channels=1, out_channels=1, dropout_prob=None, act=RELU,
        norm=("group", {"num_groups": math.gcd(8, filters)}), use_conv_final=True, blocks_down=(1, 2, 2, 4),
        blocks_up=(1, 1, 1), upsample_mode="nontrainable")
    return AnyGrid(network, 8, 8, 8)


def swin_unetr(width_divisor: float) -> nn.Module:
    """Swin UNETR with 48 features, never fewer than MONAI's 12. Hatamizadeh et al., BrainLes 2021.

    Positions are relative within windows of 7^3, so any grid will do. Where a map is narrower than a window,
    MONAI reads them off a table for whole windows, so train and predict at one size.
    """
    from monai.networks.nets.swin_unetr import SwinUNETR
    features, = scaled(width_divisor, 48, multiple=12)
    with torch.device("cpu"):           # MONAI reads a tensor's value as it builds; the meta device has none
        network = SwinUNETR(
            in_channels=1, out_channels=1, feature_size=features, patch_size=2, depths=(2, 2, 2, 2),
            num_heads=(3, 6, 12, 24), window_size=7, qkv_bias=True, mlp_ratio=4.0, norm_name=INSTANCE,
            drop_rate=0.0, attn_drop_rate=0.0, dropout_path_rate=0.0, normalize=True, patch_norm=False,
            norm_layer=nn.LayerNorm, spatial_dims=3, downsample="mergingv2", use_v2=False)
    return AnyGrid(network.to(torch.get_default_device()), 32, 32, 32)
