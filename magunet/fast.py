"""The layers that the networks are made of: torch's own, minding what the CPU does badly and what memory a map takes."""

import contextlib
import math
from collections.abc import Iterable, Iterator

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
        return self.convolved(x, self.weight, self.bias)

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x convolved with this kernel, (c_out, c_in / groups, k, k, k), in place of the module's own."""
        groups = self.groups
        if x.device.type == "cpu":
            if min(x.shape[2:]) < max(self.kernel_size):
                with no_autocast(x):
                    return F.conv3d(in_float32(x), weight, bias, self.stride, self.padding, self.dilation, groups)
            if groups > 1 and torch.is_autocast_enabled("cpu"):
                weight, groups = merge_groups(weight, groups)
        return F.conv3d(x, weight, bias, self.stride, self.padding, self.dilation, groups)

    def of_joined(self, maps: Iterable[Tensor]) -> Tensor:
        """``self(torch.cat(maps, dim=1))`` but for rounding, without the joined map; of one group.

        Each map is convolved with its part of the kernel, and the sum grows in place, for which no gradient may ask.
        maps: (b, c_i, d, h, w), one at a time, the c_i adding up to c_in -> (b, c_out, d', h', w').
        """
        answer, used = None, 0
        for x in maps:
            weight = self.weight[:, used:used + x.shape[1]]
            used += x.shape[1]
            if answer is None:
                answer = self.convolved(x, weight, self.bias)
            else:
                answer += self.convolved(x, weight, None)
        return answer


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


def through_joined(stage: nn.Sequential, maps: Iterable[Tensor]) -> Tensor:
    """``stage(torch.cat(maps, dim=1))`` by `Conv3d.of_joined`, for a stage that starts with a convolution."""
    first, *others = stage
    x = first.of_joined(maps) if isinstance(first, Conv3d) else through_joined(first, maps)
    for layer in others:
        x = layer(x)
    return x


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
