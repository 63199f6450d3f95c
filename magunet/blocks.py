"""The building blocks of MAG-UNet, each beside the equation it computes.

Symbols follow the paper: A is a feature map with C channels and N = D*H*W positions. Where the paper
is silent or contradicts itself, the docstring names the reading taken.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magunet.fast import BatchNorm, Conv3d, MaxPool, conv_bn_relu, in_float32, may_overwrite, no_autocast, through_joined


class Branch(nn.Sequential):
    """Convolution, batch normalisation, ReLU and max pooling, with ReLU last: the same, of an eighth of the values.

    x: (b, c_in, d, h, w) -> (b, c_out, d // 2, h // 2, w // 2).
    """

    def __init__(self, c_in: int, c_out: int, kernel: int):
        conv, norm, relu = conv_bn_relu(c_in, c_out, kernel)
        super().__init__(conv, norm, MaxPool(in_place=True), relu)


class MFF(nn.Module):
    """Multi-scale feature fusion, Sec. 1.2 and Fig. 2; takes the place of one max pooling.

    A shared 3^3 convolution, then one `Branch` per kernel size in parallel; the branches are concatenated. The 3^3
    convolution that brings them to ``c_out`` channels is not in the text: it is the reading under which the parameter
    counts of Table 4 come close. in_place: as `may_overwrite` allows, the maps are fused one by one, never joined.

    x: (b, c_in, d, h, w) -> (b, c_out, d // 2, h // 2, w // 2).
    """

    in_place = True

    def __init__(self, c_in: int, c_out: int, kernels: tuple[int, ...] = (1, 3, 5)):
        super().__init__()
        self.shared = conv_bn_relu(c_in, c_in)
        self.branches = nn.ModuleList(Branch(c_in, c_out, kernel) for kernel in kernels)
        self.fuse = conv_bn_relu(c_out * len(kernels), c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(x)                                              # (b, c_in, d, h, w)
        pooled = (branch(x) for branch in self.branches)                # each (b, c_out, d/2, h/2, w/2)
        if self.in_place and may_overwrite(x):
            return through_joined(self.fuse, pooled)
        return self.fuse(torch.cat(list(pooled), dim=1))                # (b, c_out, d/2, h/2, w/2)


def rows(x: Tensor) -> Tensor:
    """(b, c, d, h, w) -> (b, n, c), one row a position, in the memory order that fused attention demands."""
    return x.flatten(2).mT.contiguous()


class PAM(nn.Module):
    """Position attention, Eqs. 3-5 and Fig. 4, without ever forming the N x N matrix S.

        S_ji = exp(B_i . C_j) / sum_i exp(B_i . C_j)        (3)
        E_j  = alpha * sum_i S_ji D_i + A_j                 (4, 5; alpha is applied once)

    The softmax runs over i, so C_j is the query, B_i the key and D_i the value of scaled dot-product
    attention with scale 1. The fused kernels want keys and values of one width, hence D is cut into
    heads as wide as B and C, all of which share the same S: the function stays that of Eqs. 3-5.

    B and C have ``channels // reduction`` channels (reduction=1 as the equations are written, 8 as the
    parameter counts suggest and as in DANet, Fu et al., CVPR 2019). alpha starts at 0, so that the
    module starts as the identity. x: (b, c, d, h, w) -> the same shape.
    """

    def __init__(self, channels: int, reduction: int = 8):
        super().__init__()
        width = max(1, channels // reduction)
        if channels % width:
            raise ValueError(f"PAM: {channels} channels cannot be cut into heads of {width}; change reduction")
        self.B = Conv3d(channels, width, 1)
        self.C = Conv3d(channels, width, 1)
        self.D = Conv3d(channels, channels, 1)
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        with no_autocast(x):
            a = in_float32(x)
            key = rows(self.B(a)).unsqueeze(1)                          # (b, 1, n, width)
            query = rows(self.C(a)).unsqueeze(1)                        # (b, 1, n, width)
            value = rows(self.D(a))                                     # (b, n, c)
            heads = value.shape[-1] // key.shape[-1]
            value = value.unflatten(-1, (heads, -1)).transpose(1, 2)    # (b, heads, n, width)
            key, query = key.expand_as(value), query.expand_as(value)
            e = F.scaled_dot_product_attention(query, key, value, scale=1.0)
            e = e.transpose(1, 2).flatten(2).mT.reshape(a.shape)        # (b, c, d, h, w)
            return (self.alpha * e + a).to(x.dtype)


class CAM(nn.Module):
    """Channel attention, Eqs. 6-8 and Fig. 5; no convolution.

        x_ji = exp(A_i . A_j) / sum_i exp(A_i . A_j)        (6)
        E_j  = beta * sum_i x_ji A_i + A_j                  (7, 8; beta is applied once and starts at 0)

    x: (b, c, d, h, w) -> the same shape.
    """

    def __init__(self):
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        with no_autocast(x):
            a = in_float32(x).flatten(2)                                # (b, c, n)
            weights = torch.softmax(a @ a.mT, dim=-1)                   # (b, c, c), rows sum to 1 over i
            e = self.beta * (weights @ a) + a
            return e.view(x.shape).to(x.dtype)


class DualAttention(nn.Module):
    """DA block, Eqs. 1-2 and Fig. 3: alpha * PAM(x) + beta * CAM(x), (alpha, beta) = softmax(w1, w2).

    These alpha and beta are not the scales inside PAM and CAM, although the paper uses the same letters.
    The 1^3 convolution after the sum is not in the text; ``out_conv=False`` leaves it away.
    x: (b, c, d, h, w) -> the same shape.
    """

    def __init__(self, channels: int, reduction: int = 8, out_conv: bool = True):
        super().__init__()
        self.pam = PAM(channels, reduction)
        self.cam = CAM()
        self.w = nn.Parameter(torch.zeros(2))
        self.out = conv_bn_relu(channels, channels, 1) if out_conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        alpha, beta = torch.softmax(self.w, dim=0)                      # Eqs. 1, 2
        return self.out((alpha * self.pam(x) + beta * self.cam(x)).to(x.dtype))


class LGAG(nn.Module):
    """Large-kernel grouped attention gate on a skip connection, Eqs. 9-10 and Fig. 6.

        q = ReLU(BN(GC_g(g)) + BN(GC_x(x)))                 (9, read with the brackets of the prose)
        LGAG(g, x) = x * sigmoid(BN(C(q)))                  (10)

    GC are 3^3 convolutions in ``groups`` groups, or as many of those as divide C; C(.) is a 1^3
    convolution to one channel. ``projection`` adds a 1^3 convolution on the gated skip, an alternative
    reading of the parameter counts. in_place: as `may_overwrite` allows, x is overwritten.
    g, x: (b, c, d, h, w) -> (b, c, d, h, w).
    """

    def __init__(self, channels: int, groups: int = 16, projection: bool = False, in_place: bool = False):
        super().__init__()
        self.in_place = in_place
        groups = math.gcd(channels, groups)

        def grouped() -> nn.Sequential:
            return nn.Sequential(Conv3d(channels, channels, 3, padding=1, groups=groups), BatchNorm(channels, in_place=True))

        self.g = grouped()
        self.x = grouped()
        self.gate = nn.Sequential(Conv3d(channels, 1, 1), BatchNorm(1, in_place=True))
        self.projection = Conv3d(channels, channels, 1) if projection else nn.Identity()

    def attention(self, g: Tensor, x: Tensor) -> Tensor:
        """The gate's coefficients in (0, 1), (b, 1, d, h, w)."""
        return torch.sigmoid(self.gate(F.relu(self.g(g).add_(self.x(x)), inplace=True)))

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        attention = self.attention(g, x)
        fits = self.in_place and may_overwrite(x) and attention.dtype == x.dtype
        return self.projection(x.mul_(attention) if fits else x * attention)
