"""MAG-UNet: a five-level 3D U-Net with MFF, attention at the bottleneck and LGAG, each a switch.

The reading that reproduces the paper's parameter counts is the default; ``MAGUNetConfig`` names every
alternative. Three switches off give the paper's 3D U-Net (22.45 Mi parameters, Mi = 2^20).
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from magunet.attention import CBAM, ECA, SE, NonLocal
from magunet.base.errors import InputError
from magunet.blocks import LGAG, MFF, DualAttention
from magunet.fast import (
    BatchNorm,
    Conv3d,
    MaxPool,
    conv_bn_relu,
    double_conv,
    may_overwrite,
    no_autocast,
    statistics_left_alone,
    through_joined,
)

ATTENTIONS = ("none", "da", "se", "cbam", "non_local", "eca")
DECODERS = ("merge", "add", "trilinear", "classic")
SMALLEST_SIDE = 16


@dataclass(frozen=True, kw_only=True)
class MAGUNetConfig:
    """Every switch of the network.

    in_channels, out_channels: CT in, one logit map out.
    widths: channels of the five levels (Sec. 1.1).
    mff_kernels: kernel sizes of MFF's branches (Table 3), or None for plain max pooling.
    attention: the module on the bottleneck (Table 2): one of ATTENTIONS.
    lgag: gates on the four skip connections (Table 4).
    da_reduction, da_out_conv, lgag_groups, lgag_projection: see PAM, DualAttention, LGAG.
    decoder: "merge" = 3^3 transposed convolution, concatenation, one convolution (the paper's count);
        "add" = the same, summed, two convolutions; "trilinear" = interpolation, concatenation, two
        convolutions; "classic" = 2^3 transposed convolution, concatenation, two convolutions.
    """

    in_channels: int = 1
    out_channels: int = 1
    widths: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512)
    mff_kernels: tuple[int, ...] | None = (1, 3, 5)
    attention: str = "da"
    lgag: bool = True
    da_reduction: int = 8
    da_out_conv: bool = True
    lgag_groups: int = 16
    lgag_projection: bool = False
    decoder: str = "merge"

    def __post_init__(self):
        if len(self.widths) != 5 or min(self.widths) < 1:
            raise InputError(f"widths must be five positive channel counts, not {self.widths}")
        if self.mff_kernels is not None and (not self.mff_kernels or any(k % 2 == 0 for k in self.mff_kernels)):
            raise InputError(f"mff_kernels must be odd sizes such as (1, 3, 5), or None; not {self.mff_kernels}")
        if self.attention not in ATTENTIONS:
            raise InputError(f"attention must be one of {', '.join(ATTENTIONS)}; not {self.attention!r}")
        if self.decoder not in DECODERS:
            raise InputError(f"decoder must be one of {', '.join(DECODERS)}; not {self.decoder!r}")


def bottleneck_attention(config: MAGUNetConfig) -> nn.Module:
    """The module that ``config.attention`` names, for the widest level."""
    channels = config.widths[-1]
    match config.attention:
        case "da":
            return DualAttention(channels, config.da_reduction, config.da_out_conv)
        case "se":
            return SE(channels)
        case "cbam":
            return CBAM(channels)
        case "non_local":
            return NonLocal(channels)
        case "eca":
            return ECA(channels)
        case _:
            return nn.Identity()


class DecoderStep(nn.Module):
    """Upsample, meet the (gated) skip, convolve: one level of the decoding path.

    x: (b, c_deep, d', h', w'), skip: (b, c, d, h, w) -> (b, c, d, h, w). Floor pooling of an odd size
    leaves the upsampled map one voxel short (50-25-12-6-3); it is replicate-padded to the skip's grid.
    in_place: as `may_overwrite` allows, what is to be concatenated is convolved map by map and never joined.
    """

    in_place = True

    def __init__(self, c_deep: int, c: int, config: MAGUNetConfig):
        super().__init__()
        self.sums = config.decoder == "add"
        match config.decoder:
            case "merge":
                up = nn.ConvTranspose3d(c_deep, c, 3, stride=2, padding=1, output_padding=1)
                self.up = nn.Sequential(up, BatchNorm(c, in_place=True), nn.ReLU(inplace=True))
                self.merge = conv_bn_relu(2 * c, c)
            case "add":
                self.up = nn.ConvTranspose3d(c_deep, c, 3, stride=2, padding=1, output_padding=1)
                self.merge = double_conv(c, c)
            case "trilinear":
                self.up = nn.Upsample(scale_factor=2, mode="trilinear")
                self.merge = double_conv(c_deep + c, c)
            case "classic":
                self.up = nn.ConvTranspose3d(c_deep, c, 2, stride=2)
                self.merge = double_conv(2 * c, c)
        self.gate = LGAG(c, config.lgag_groups, config.lgag_projection, in_place=True) if config.lgag else None

    def grown(self, x: Tensor, skip: Tensor) -> Tensor:
        """x upsampled to the skip's grid."""
        g = self.up(x)
        missing = [s - n for s, n in zip(skip.shape[2:], g.shape[2:])]
        if any(missing):
            d, h, w = missing
            with no_autocast(g):                                # on the CPU autocast would widen g
                g = F.pad(g, (0, w, 0, h, 0, d), mode="replicate")
        return g

    def pair(self, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """The (gated) skip, and x upsampled."""
        g = self.grown(x, skip)
        return skip if self.gate is None else self.gate(g, skip), g

    def joined(self, skip: Tensor, g: Tensor) -> Tensor:
        """Both maps summed or concatenated."""
        return skip + g if self.sums else torch.cat([skip, g], dim=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        if self.in_place and not self.sums and may_overwrite(skip):
            return through_joined(self.merge, self.pair(x, skip))
        return self.merge(self.joined(*self.pair(x, skip)))             # nested, so that no map lives longer than it must


class MAGUNet(nn.Module):
    """The paper's network (Fig. 1) and, by its switches, every row of Tables 2 to 4.

    x: (b, in_channels, d, h, w) with d, h, w >= 16 -> logits (b, out_channels, d, h, w).
    Raises InputError for a smaller input. 50x256x256 reaches the bottleneck as 3x16x16.
    """

    def __init__(self, config: MAGUNetConfig = MAGUNetConfig()):
        super().__init__()
        self.config = config
        w = config.widths
        if config.lgag and config.decoder == "trilinear":
            raise InputError("lgag needs a decoder whose upsampled map has the skip's channels; "
                             "use decoder='merge', 'add' or 'classic'")
        downs = [MaxPool() for _ in w[1:]]
        inputs = [config.in_channels, *w[:-1]]
        if config.mff_kernels is not None:
            downs[0] = MFF(w[0], w[1], config.mff_kernels)
            inputs[1] = w[1]
        self.encoder = nn.ModuleList(double_conv(i, o) for i, o in zip(inputs, w))
        self.down = nn.ModuleList(downs)
        self.attention = bottleneck_attention(config)
        self.decoder = nn.ModuleList(DecoderStep(w[i + 1], w[i], config) for i in (3, 2, 1, 0))
        self.head = Conv3d(w[0], config.out_channels, 1)

    recompute = False
    """Whether training keeps of each level only what goes in, and computes it again for the gradient: the same
    weights for less memory and more time."""

    def _level(self, part: nn.Module, *inputs: Tensor) -> Tensor:
        if not (self.recompute and self.training):
            return part(*inputs)
        return checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False,
                          context_fn=lambda: (nullcontext(), statistics_left_alone(part)))

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < SMALLEST_SIDE:
            size = " x ".join(map(str, x.shape[2:]))
            raise InputError(f"MAG-UNet halves its input four times and needs at least {SMALLEST_SIDE} voxels "
                             f"a side; got {size}. Pad or resample the volume.")
        skips = []
        x = self._level(self.encoder[0], x)                 # (b, w0, d, h, w)
        for down, encode in zip(self.down, self.encoder[1:]):
            skips.append(x)
            x = self._level(encode, self._level(down, x))   # (b, w_i, d / 2^i, h / 2^i, w / 2^i)
        x = self._level(self.attention, x)                  # (b, w4, d / 16, h / 16, w / 16)
        for step in self.decoder:
            x = self._level(step, x, skips.pop())
        return self.head(x)                                 # (b, out, d, h, w)


def count_parameters(network: nn.Module) -> int:
    """Number of parameters; the paper counts them in Mi = 2^20."""
    return sum(p.numel() for p in network.parameters())
