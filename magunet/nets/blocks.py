"""The building blocks of MAG-UNet, each beside the equation it computes.

Symbols follow the paper: A is a feature map with C channels and N = D*H*W positions. Where the paper
is silent or contradicts itself, the docstring names the reading taken.
"""

import contextlib
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def in_float32(x: Tensor) -> Tensor:
    """Half-precision tensors as float32, others unchanged: attention logits need the digits."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def no_autocast(x: Tensor) -> torch.autocast:
    """Context in which operations on x's device keep the precision of their inputs."""
    device = x.device.type
    return torch.autocast(device if torch.amp.is_autocast_available(device) else "cpu", enabled=False)


def may_overwrite(x: Tensor) -> bool:
    """Whether a module whose input nobody else reads may write its output there: on the CPU, where no gradient asks for it."""
    return x.device.type == "cpu" and not torch.is_grad_enabled()


def merge_groups(weight: Tensor, groups: int, width: int = 8) -> tuple[Tensor, int]:
    """Neighbouring groups of a convolution joined to one of at least ``width`` input channels, if they divide so.

    From 8 on the CPU's bfloat16 convolutions are fast. weight: (c_out, c_in / groups, k, k, k), of a convolution in
    ``groups`` groups. Returns the weight, with zeros where a channel met none of another group, and the number of groups
    left: the same function.
    """
    joined = math.gcd(groups, math.ceil(width / weight.shape[1]))
    if joined == 1:
        return weight, groups
    own = torch.eye(joined, dtype=weight.dtype, device=weight.device).view(1, joined, 1, joined, 1, 1, 1, 1)
    blocks = weight.unflatten(0, (groups // joined, joined, -1)).unsqueeze(3) * own       # (g, j, o, j, i, k, k, k)
    return blocks.flatten(3, 4).flatten(0, 2), groups // joined


class Conv3d(nn.Conv3d):
    """Convolution that knows the weak spots of the CPU's bfloat16 in torch 2.13.

    Where the map is smaller than the kernel it stays in float32: there the bfloat16 weight gradient is wrong (it reads
    memory it never wrote: NaN, garbage, now and then a crash), without a word; ``tests/test_network.py`` compares them.
    Narrow groups are joined: in groups of one or two channels bfloat16 takes up to four times as long
    (``benchmarks/grouped_convolution.py``). x: (b, c_in, d, h, w) -> (b, c_out, d', h', w').
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        if min(x.shape[2:]) < max(self.kernel_size):
            with no_autocast(x):
                return super().forward(in_float32(x))
        if self.groups > 1 and torch.is_autocast_enabled("cpu"):
            weight, groups = merge_groups(self.weight, self.groups)
            return F.conv3d(x, weight, self.bias, self.stride, self.padding, self.dilation, groups)
        return super().forward(x)


class BatchNorm(nn.BatchNorm3d):
    """Batch normalisation that also trains on one value per channel.

    A 16x16x16 input shrinks to a single position at the bottleneck. One value has no variance, so for
    that case alone the running statistics are used, as in evaluation. in_place: evaluation by the input's own
    statistics overwrites x, which saves its memory where nobody else reads x, as after a convolution. x: (b, c, d, h, w).
    """

    by_input = in_place = False
    """by_input: whether evaluation, too, normalises by the input's own statistics: see `evaluate_by_input`."""

    def __init__(self, channels: int, in_place: bool = False):
        super().__init__(channels)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        single = x.shape[0] * x.shape[2:].numel() == 1
        if self.training and single:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if self.by_input and not self.training and not single:
            if self.in_place and may_overwrite(x):
                mean, scale = torch.empty_like(self.weight), torch.empty_like(self.weight)
                return torch.native_batch_norm(x, self.weight, self.bias, None, None, True, 0, self.eps, out=(x, mean, scale))[0]
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        return super().forward(x)


def evaluate_by_input(network: nn.Module) -> None:
    """Switch to evaluation with the normalisation of training, which at batch size 1 is that of the input alone.

    Running statistics average over scans; a scan that is noisier or of other contrast than most fits them badly.
    """
    network.eval()
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.by_input = True


@contextlib.contextmanager
def statistics_left_alone(module: nn.Module) -> Iterator[None]:
    """Context in which training leaves the running statistics as they are: for computing a map a second time."""
    kept = [(m, m.momentum, m.num_batches_tracked) for m in module.modules() if isinstance(m, BatchNorm)]
    for m, *_ in kept:
        m.momentum, m.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for m, momentum, count in kept:
            m.momentum, m.num_batches_tracked = momentum, count


def conv_bn_relu(c_in: int, c_out: int, kernel: int = 3) -> nn.Sequential:
    """Convolution that keeps the grid, batch normalisation, ReLU (Sec. 1.1: BN after every convolution)."""
    return nn.Sequential(Conv3d(c_in, c_out, kernel, padding=kernel // 2), BatchNorm(c_out, in_place=True), nn.ReLU(inplace=True))


def double_conv(c_in: int, c_out: int) -> nn.Sequential:
    """Two 3^3 convolutions, each with BN and ReLU: one level of a U-Net."""
    return nn.Sequential(conv_bn_relu(c_in, c_out), conv_bn_relu(c_out, c_out))


class MaxPool(nn.MaxPool3d):
    """Max pooling in the precision of x: on the CPU autocast would widen x to float32, which changes no maximum.

    in_place: as `may_overwrite` allows, x is overwritten, which saves the memory of the indices of the maxima.
    x: (b, c, d, h, w) -> (b, c, d // 2, h // 2, w // 2).
    """

    def __init__(self, in_place: bool = False):
        super().__init__(2)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        if not (self.in_place and may_overwrite(x)):
            with no_autocast(x):
                return super().forward(x)
        for dim in (2, 3, 4):
            even, odd = (x[(slice(None),) * dim + (slice(first, x.shape[dim] // 2 * 2, 2),)] for first in (0, 1))
            x = torch.maximum(even, odd, out=even if dim < 4 else torch.empty_like(even))
        return x


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
    counts of Table 4 come close.

    x: (b, c_in, d, h, w) -> (b, c_out, d // 2, h // 2, w // 2).
    """

    def __init__(self, c_in: int, c_out: int, kernels: tuple[int, ...] = (1, 3, 5)):
        super().__init__()
        self.shared = conv_bn_relu(c_in, c_in)
        self.branches = nn.ModuleList(Branch(c_in, c_out, kernel) for kernel in kernels)
        self.fuse = conv_bn_relu(c_out * len(kernels), c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(x)                                              # (b, c_in, d, h, w)
        pooled = [branch(x) for branch in self.branches]                # each (b, c_out, d/2, h/2, w/2)
        return self.fuse(torch.cat(pooled, dim=1))                      # (b, c_out, d/2, h/2, w/2)


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
