"""The building blocks of MAG-UNet in plain torch, each beside the equation it computes.

A is a feature map with C channels and N = D*H*W positions, x: (b, c, d, h, w), whose shape attention keeps.
Where the paper is silent or contradicts itself, the docstring names the reading taken.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm3d(nn.BatchNorm3d):
    """Batch normalisation, of a single position (which has no variance) by the running statistics.

    by_input: whether evaluation, too, takes the statistics of the input (`magunet.fast.evaluate_by_input`).
    """

    by_input = False

    def forward(self, x: Tensor) -> Tensor:
        own = (self.training or self.by_input) and x.shape[0] * x.shape[2:].numel() > 1
        if self.training and own:
            return super().forward(x)
        statistics = (None, None) if own else (self.running_mean, self.running_var)
        return F.batch_norm(x, *statistics, self.weight, self.bias, training=own, eps=self.eps)


def conv_bn_relu(c_in: int, c_out: int, kernel: int = 3) -> nn.Sequential:
    """Convolution that keeps the grid, batch normalisation, ReLU (Sec. 1.1: BN after every convolution)."""
    conv = nn.Conv3d(c_in, c_out, kernel, padding=kernel // 2)
    return nn.Sequential(conv, BatchNorm3d(c_out), nn.ReLU(inplace=True))


def double_conv(c_in: int, c_out: int) -> nn.Sequential:
    """Two convolutions, each with BN and ReLU: one level of a U-Net."""
    return nn.Sequential(conv_bn_relu(c_in, c_out), conv_bn_relu(c_out, c_out))


def no_autocast(x: Tensor) -> torch.autocast:
    """Context in which operations on x's device keep the precision of their inputs."""
    device = x.device.type
    return torch.autocast(device if torch.amp.is_autocast_available(device) else "cpu", enabled=False)


def in_float32(forward: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
    """Decorator of a `forward` that computes in float32, also under autocast: attention needs the digits."""
    def full_precision(self: nn.Module, x: Tensor) -> Tensor:
        with no_autocast(x):
            return forward(self, x.float() if x.dtype.itemsize < 4 else x).to(x.dtype)
    return full_precision


class MFF(nn.Module):
    """Multi-scale feature fusion, Sec. 1.2 and Fig. 2; takes the place of one max pooling.

    The 3^3 convolution that fuses the branches is not in the text: with it the counts of Table 4 come close.
    x: (b, c_in, d, h, w) -> (b, c_out, d // 2, h // 2, w // 2).
    """

    def __init__(self, c_in: int, c_out: int, kernels: tuple[int, ...] = (1, 3, 5)):
        super().__init__()
        self.shared = conv_bn_relu(c_in, c_in)
        self.branches = nn.ModuleList(
            nn.Sequential(*conv_bn_relu(c_in, c_out, kernel), nn.MaxPool3d(2)) for kernel in kernels)
        self.fuse = conv_bn_relu(c_out * len(kernels), c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(x)                                              # (b, c_in, d, h, w)
        scales = [branch(x) for branch in self.branches]                # each (b, c_out, d/2, h/2, w/2)
        return self.fuse(torch.cat(scales, dim=1))                      # (b, c_out, d/2, h/2, w/2)


def rows(x: Tensor) -> Tensor:
    """(b, c, d, h, w) -> (b, n, c), a row for each position, in the memory order of fused attention."""
    return x.flatten(2).mT.contiguous()


class PAM(nn.Module):
    """Position attention, Eqs. 3-5 and Fig. 4, without ever forming the N x N matrix S.

        S_ji = exp(B_i . C_j) / sum_i exp(B_i . C_j)        (3)
        E_j  = alpha * sum_i S_ji D_i + A_j                 (4, 5; alpha is applied once)

    The softmax runs over i, so C_j is the query, B_i the key and D_i the value of dot-product attention with
    scale 1. The fused kernels want keys and values of one width, hence D is cut into heads as wide as B and
    C, ``channels // reduction`` or a divisor of both, which all share S. reduction=1 as the equations are
    written, 8 as the counts suggest and as in DANet (Fu et al., CVPR 2019). alpha starts at ``start``, 0 for
    the identity. scaled: energies are divided by the square root of the length of B_i, the rule of
    dot-product attention (Vaswani et al., NeurIPS 2017, Sec. 3.2.1), which the paper does not take.
    """

    def __init__(self, channels: int, reduction: int = 8, start: float = 0.0, scaled: bool = False):
        super().__init__()
        width = math.gcd(channels, max(1, channels // reduction))
        self.B = nn.Conv3d(channels, width, 1)
        self.C = nn.Conv3d(channels, width, 1)
        self.D = nn.Conv3d(channels, channels, 1)
        self.alpha = nn.Parameter(torch.full((1,), float(start)))
        self.scale = width**-0.5 if scaled else 1.0

    @in_float32
    def forward(self, x: Tensor) -> Tensor:
        key, query, value = rows(self.B(x)), rows(self.C(x)), rows(self.D(x))           # (b, n, width or c)
        value = value.unflatten(-1, (-1, key.shape[-1])).transpose(1, 2)                # (b, heads, n, width)
        key, query = (y.unsqueeze(1).expand_as(value) for y in (key, query))            # (b, heads, n, width)
        e = F.scaled_dot_product_attention(query, key, value, scale=self.scale).transpose(1, 2)
        return self.alpha * e.flatten(2).mT.reshape(x.shape) + x                        # (b, c, d, h, w)


class CAM(nn.Module):
    """Channel attention, Eqs. 6-8 and Fig. 5; no convolution.

        x_ji = exp(A_i . A_j) / sum_i exp(A_i . A_j)        (6)
        E_j  = beta * sum_i x_ji A_i + A_j                  (7, 8; beta is applied once)

    beta starts at ``start``. scaled: energies are divided by sqrt(N), N the length of A_i, as in `PAM`.
    """

    def __init__(self, start: float = 0.0, scaled: bool = False):
        super().__init__()
        self.beta, self.scaled = nn.Parameter(torch.full((1,), float(start))), scaled

    @in_float32
    def forward(self, x: Tensor) -> Tensor:
        a = x.flatten(2)                                                # (b, c, n)
        scale = a.shape[-1]**-0.5 if self.scaled else 1.0
        weights = torch.softmax(a @ a.mT * scale, dim=-1)               # (b, c, c), rows sum to 1 over i
        return (self.beta * (weights @ a) + a).view(x.shape)


class DualAttention(nn.Module):
    """DA block, Eqs. 1-2 and Fig. 3: alpha * PAM(x) + beta * CAM(x), (alpha, beta) = softmax(w1, w2).

    These alpha and beta are not the scales inside PAM and CAM, although the paper uses the same letters. The
    1^3 convolution after the sum is not in the text, but in the counts. start, scaled: as in `PAM` and `CAM`.
    undecayed: training puts no weight decay on the parameters of this module.
    """

    def __init__(self, channels: int, reduction: int = 8, start: float = 0.0, scaled: bool = False,
                 undecayed: bool = False):
        super().__init__()
        self.undecayed = undecayed
        self.pam, self.cam = PAM(channels, reduction, start, scaled), CAM(start, scaled)
        self.w = nn.Parameter(torch.zeros(2))
        self.out = conv_bn_relu(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        alpha, beta = torch.softmax(self.w, dim=0)                      # Eqs. 1, 2
        return self.out(alpha * self.pam(x) + beta * self.cam(x))


class LGAG(nn.Module):
    """Large-kernel grouped attention gate on a skip connection, Eqs. 9-10 and Fig. 6.

        q = ReLU(BN(GC_g(g)) + BN(GC_x(x)))                 (9, read with the brackets of the prose)
        LGAG(g, x) = x * sigmoid(BN(C(q)))                  (10)

    GC are 3^3 convolutions in ``groups`` groups, or as many of those as divide C; C(.) is 1^3, to 1 channel.
    """

    def __init__(self, channels: int, groups: int = 16):
        super().__init__()
        groups = math.gcd(channels, groups)
        self.g, self.x = (nn.Sequential(nn.Conv3d(channels, channels, 3, padding=1, groups=groups),
                                        BatchNorm3d(channels)) for _ in range(2))
        self.gate = nn.Sequential(nn.Conv3d(channels, 1, 1), BatchNorm3d(1))

    def attention(self, g: Tensor, x: Tensor) -> Tensor:
        """The gate's coefficients in (0, 1), (b, 1, d, h, w)."""
        return torch.sigmoid(self.gate(F.relu(self.g(g) + self.x(x))))

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        return x * self.attention(g, x)
