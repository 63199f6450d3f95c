"""MAG-UNet: a five-level 3D U-Net with MFF, attention at the bottleneck and LGAG, each a switch.

No reading of the paper that notebook 11 counts has more of its parameter counts right than this one.
Three switches off give the paper's 3D U-Net (22.45 Mi parameters, Mi = 2^20).
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magunet.attention import CBAM, ECA, SE, NonLocal
from magunet.blocks import LGAG, MFF, BatchNorm3d, DualAttention, conv_bn_relu, double_conv, no_autocast

ATTENTIONS = {"none": nn.Identity, "da": DualAttention, "se": SE, "cbam": CBAM, "non_local": NonLocal,
              "eca": ECA, "da_placebo": lambda channels: conv_bn_relu(channels, channels, 1),
              "da_no_decay": partial(DualAttention, undecayed=True),
              "da_open": partial(DualAttention, start=1.0), "da_scaled": partial(DualAttention, scaled=True)}
"""The modules of Table 2, each made from the number of channels; then DA's output convolution alone, and DA
with one thing changed: no weight decay, scales inside PAM and CAM that start at 1, scaled energies."""
SMALLEST_SIDE = 16
"""Of an input, in voxels: it is halved four times."""


@dataclass(frozen=True, kw_only=True)
class MAGUNetConfig:
    """Every switch of the network. Raises ValueError for one that makes no network.

    in_channels, out_channels: CT in, one logit map out.
    widths: channels of the five levels (Sec. 1.1).
    mff_kernels: kernel sizes of MFF's branches (Table 3), or None for plain max pooling.
    attention: one of ATTENTIONS.
    attention_level: index into widths of the encoder's map that attention changes: 4, the bottleneck, in the
        paper. Above it the skip connection takes the changed map, too.
    lgag: gates on the four skip connections (Table 4).
    """

    in_channels: int = 1
    out_channels: int = 1
    widths: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512)
    mff_kernels: tuple[int, ...] | None = (1, 3, 5)
    attention: str = "da"
    attention_level: int = 4
    lgag: bool = True

    def __post_init__(self):
        if len(self.widths) != 5 or min(self.widths) < 1:
            raise ValueError(f"widths must be five positive channel counts, not {self.widths}")
        kernels = self.mff_kernels
        if kernels is not None and (not kernels or any(k < 1 or k % 2 == 0 for k in kernels)):
            raise ValueError(f"mff_kernels must be odd sizes such as (1, 3, 5), or None; not {kernels}")
        if self.attention not in ATTENTIONS:
            raise ValueError(f"attention must be one of {', '.join(ATTENTIONS)}; not {self.attention!r}")
        if self.attention_level not in range(5):
            raise ValueError(f"attention_level must be from 0 to 4, not {self.attention_level}")


class DecoderStep(nn.Module):
    """Upsample, meet the (gated) skip, convolve: one level of the decoding path.

    A 3^3 transposed convolution, concatenation and one convolution are the reading of the paper's counts.
    x: (b, c_deep, d', h', w'), skip: (b, c, d, h, w) -> (b, c, d, h, w).
    """

    def __init__(self, c_deep: int, c: int, lgag: bool):
        super().__init__()
        up = nn.ConvTranspose3d(c_deep, c, 3, stride=2, padding=1, output_padding=1)
        self.up = nn.Sequential(up, BatchNorm3d(c), nn.ReLU(inplace=True))
        self.merge = conv_bn_relu(2 * c, c)
        self.gate = LGAG(c) if lgag else None

    def pair(self, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """The (gated) skip and x upsampled, its end repeated where pooling met an odd size (25-12-24)."""
        g = self.up(x)                                      # (b, c, 2 d', 2 h', 2 w')
        d, h, w = (s - n for s, n in zip(skip.shape[2:], g.shape[2:]))
        if d or h or w:
            with no_autocast(g):                            # autocast would widen it to float32
                g = F.pad(g, (0, w, 0, h, 0, d), mode="replicate")
        return skip if self.gate is None else self.gate(g, skip), g     # each (b, c, d, h, w)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.merge(torch.cat(self.pair(x, skip), dim=1))         # (b, c, d, h, w)


class MAGUNet(nn.Module):
    """The paper's network (Fig. 1) and, by its switches, every row of Tables 2 to 4.

    x: (b, in_channels, d, h, w) with d, h, w >= 16 -> logits (b, out_channels, d, h, w). Raises ValueError
    for a smaller input. 50x256x256 reaches the bottleneck as 3x16x16.
    """

    def __init__(self, config: MAGUNetConfig = MAGUNetConfig()):
        super().__init__()
        self.config = config
        w = config.widths
        downs, inputs = [nn.MaxPool3d(2) for _ in w[1:]], [config.in_channels, *w[:-1]]
        if config.mff_kernels is not None:                  # MFF in place of the first pooling; it widens
            downs[0], inputs[1] = MFF(w[0], w[1], config.mff_kernels), w[1]
        self.encoder = nn.ModuleList(double_conv(i, o) for i, o in zip(inputs, w))
        self.down = nn.ModuleList(downs)
        self.attention = ATTENTIONS[config.attention](w[config.attention_level])
        self.decoder = nn.ModuleList(DecoderStep(w[i + 1], w[i], config.lgag) for i in (3, 2, 1, 0))
        self.head = nn.Conv3d(w[0], config.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < SMALLEST_SIDE:
            size = " x ".join(map(str, x.shape[2:]))
            raise ValueError(f"MAG-UNet halves its input four times and needs at least {SMALLEST_SIDE} "
                             f"voxels a side; got {size}. Pad or resample the volume.")
        skips = []
        for level, encode in enumerate(self.encoder):
            if level:
                skips.append(x)
                x = self.down[level - 1](x)
            x = encode(x)                                   # (b, w_i, d / 2^i, h / 2^i, w / 2^i)
            if level == self.config.attention_level:
                x = self.attention(x)
        for step in self.decoder:
            x = step(x, skips.pop())                        # (b, w_i, d / 2^i, h / 2^i, w / 2^i)
        return self.head(x)                                 # (b, out, d, h, w)


def branches(network: MAGUNet) -> dict[str, nn.Module]:
    """The branches of its MFF by kernel, those of one size with numbers from the second on."""
    kernels = network.config.mff_kernels or ()
    numbers = [kernels[:i].count(kernel) + 1 for i, kernel in enumerate(kernels)]
    names = [f"kernel {kernel}" + f", no. {n}" * (n > 1) for kernel, n in zip(kernels, numbers)]
    return dict(zip(names, network.down[0].branches)) if kernels else {}


def gates(network: MAGUNet) -> dict[str, LGAG]:
    """Its gates by level, from the fourth, the deepest, to the first, which is the input's."""
    steps = zip((4, 3, 2, 1), network.decoder)
    return {f"gate of level {level}": step.gate for level, step in steps if step.gate is not None}


def scales(network: nn.Module) -> dict[str, float]:
    """What scales DA, MFF and LGAG, of weights of several channels the root mean square; else nothing."""
    values = {}
    if isinstance(network, MAGUNet):
        for da in (module for module in network.modules() if isinstance(module, DualAttention)):
            values = {"PAM alpha": da.pam.alpha, "CAM beta": da.cam.beta}
            values |= dict(zip(("DA weight of PAM", "DA weight of CAM"), torch.softmax(da.w, dim=0)))
            values |= {f"PAM {name}": getattr(da.pam, name).weight for name in "BCD"}
        values |= {name: branch[1].weight for name, branch in branches(network).items()}
        values |= {name: gate.gate[1].weight for name, gate in gates(network).items()}
    return {name: (value if value.numel() == 1 else value.square().mean().sqrt()).item()
            for name, value in values.items()}


def count_parameters(network: nn.Module) -> int:
    """Number of parameters; the paper counts them in Mi = 2^20."""
    return sum(p.numel() for p in network.parameters())
