"""Quicker and leaner layers with the same weights and the same function: `accelerate` swaps them in.

They avoid two weak spots of the CPU's bfloat16 in torch 2.13 and, where no gradient is asked for, write over
maps that nobody else reads. In float32 outputs, gradients and predictions are the plain network's to the bit;
under autocast they differ by as much as bfloat16 rounds (``tests/test_fast.py``).
"""

import contextlib
import math
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from magunet import blocks, model
from magunet.blocks import no_autocast


def may_overwrite(x: Tensor) -> bool:
    """Whether a map that nobody else reads may be written over: on the CPU, where no gradient asks for it."""
    return x.device.type == "cpu" and not torch.is_grad_enabled()


def is_small(x: Tensor, conv: nn.Conv3d | nn.ConvTranspose3d) -> bool:
    """Whether a map on the CPU is smaller than a convolution's kernel along any axis."""
    return x.device.type == "cpu" and min(x.shape[2:]) < max(conv.kernel_size)


def merge_groups(weight: Tensor, groups: int, width: int = 8) -> tuple[Tensor, int]:
    """Neighbouring groups of a convolution joined to ``width`` input channels or more, if they divide so.

    weight: (c_out, c_in / groups, k, k, k). Returns a weight for the same function, with zeros where channels
    were in different groups, and its number of groups. From 8 channels on bfloat16 is fast on the CPU.
    """
    count = math.gcd(groups, math.ceil(width / weight.shape[1]))
    if count == 1:
        return weight, groups
    own = torch.eye(count, dtype=weight.dtype, device=weight.device).view(1, count, 1, count, 1, 1, 1, 1)
    parts = weight.unflatten(0, (groups // count, count, -1)).unsqueeze(3) * own  # (g, j, o, j, i, k, k, k)
    return parts.flatten(3, 4).flatten(0, 2), groups // count


class Conv3d(nn.Conv3d):
    """Convolution that stays in float32 where the map is smaller than the kernel, and joins narrow groups.

    On such maps the CPU's bfloat16 weight gradient is wrong without a word: it reads memory it never wrote.
    In narrow groups bfloat16 takes up to four times as long (``benchmarks/grouped_convolution.py``).
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.convolved(x, self.weight, self.bias)

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x convolved with this kernel, (c_out, c_in / groups, k, k, k), in place of the module's own."""
        geometry, groups = (self.stride, self.padding, self.dilation), self.groups
        if is_small(x, self):
            with no_autocast(x):
                return F.conv3d(x.to(weight.dtype), weight, bias, *geometry, groups)
        if x.device.type == "cpu" and groups > 1 and torch.is_autocast_enabled("cpu"):
            weight, groups = merge_groups(weight, groups)
        return F.conv3d(x, weight, bias, *geometry, groups)


class ConvTranspose3d(nn.ConvTranspose3d):
    """Transposed convolution that stays in float32 where `Conv3d` does, unless it has one group."""

    def forward(self, x: Tensor) -> Tensor:
        if self.groups == 1 or not is_small(x, self):
            return super().forward(x)
        with no_autocast(x):
            return super().forward(x.to(self.weight.dtype))


class BatchNorm3d(blocks.BatchNorm3d):
    """Evaluation by the input's own statistics writes over x, if ``in_place``: nobody else reads it."""

    in_place = False

    def forward(self, x: Tensor) -> Tensor:
        single = x.shape[0] * x.shape[2:].numel() == 1
        if self.training or single or not (self.in_place and self.by_input and may_overwrite(x)):
            return super().forward(x)
        out = x, torch.empty_like(self.weight), torch.empty_like(self.weight)
        return torch.native_batch_norm(x, self.weight, self.bias, None, None, True, 0, self.eps, out=out)[0]


class MaxPool3d(nn.MaxPool3d):
    """Max pooling in the precision of x, which autocast would widen to float32 on the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        with no_autocast(x):
            return super().forward(x)


def halve_in_place(x: Tensor) -> Tensor:
    """Max pooling of 2^3 that writes over x, which saves the memory of the indices of the maxima."""
    for dim in (2, 3, 4):
        even, odd = (x[(slice(None),) * dim + (slice(i, x.shape[dim] // 2 * 2, 2),)] for i in (0, 1))
        x = torch.maximum(even, odd, out=even if dim < 4 else torch.empty_like(even))
    return x


def through_joined(stage: nn.Sequential, maps: Iterable[Tensor]) -> Tensor:
    """``stage(torch.cat(maps, dim=1))``, in predictions in bfloat16 without the joined map.

    There each map in turn meets its part of the first kernel, and rounding outweighs the order of the sum.
    """
    if torch.is_grad_enabled() or not torch.is_autocast_enabled("cpu"):
        x = torch.cat(list(maps), dim=1)
        del maps                                            # so that x alone takes memory
        return stage(x)
    conv, x, first = stage[0], None, 0
    for part in maps:
        weight = conv.weight[:, first:first + part.shape[1]]
        x = x.add_(conv.convolved(part, weight, None)) if first else conv.convolved(part, weight, conv.bias)
        first += part.shape[1]
    return stage[1:](x)


class MFF(blocks.MFF):
    """Each branch with ReLU after pooling: the same, of an eighth of the values."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(x)                                  # (b, c_in, d, h, w)
        return through_joined(self.fuse, (self.scale(x, *branch) for branch in self.branches))

    def scale(self, x: Tensor, conv: nn.Module, norm: nn.Module, relu: nn.Module, pool: nn.Module) -> Tensor:
        """The map of one branch, (b, c_out, d/2, h/2, w/2)."""
        y = norm(conv(x))
        return relu(halve_in_place(y) if may_overwrite(y) else pool(y))


class LGAG(blocks.LGAG):
    """The sum and, where no gradient is asked for, the gated skip write over what they are made from."""

    def attention(self, g: Tensor, x: Tensor) -> Tensor:
        return torch.sigmoid(self.gate(F.relu(self.g(g).add_(self.x(x)), inplace=True)))

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        gate = self.attention(g, x)
        return x.mul_(gate) if may_overwrite(x) and gate.dtype == x.dtype else x * gate


class DecoderStep(model.DecoderStep):
    """The maps meet without being joined where `through_joined` can."""

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return through_joined(self.merge, self.pair(x, skip))


SWAPS = {nn.Conv3d: Conv3d, nn.ConvTranspose3d: ConvTranspose3d, nn.MaxPool3d: MaxPool3d,
         nn.BatchNorm3d: BatchNorm3d, blocks.BatchNorm3d: BatchNorm3d,
         blocks.MFF: MFF, blocks.LGAG: LGAG, model.DecoderStep: DecoderStep}
"""Plain class -> the one that takes its place."""


def accelerate(network: nn.Module) -> nn.Module:
    """The network itself with these layers for plain ones; only norms right after convolutions overwrite."""
    for module in network.modules():
        module.__class__ = SWAPS.get(type(module), type(module))
        for conv, norm in pairwise(module if isinstance(module, nn.Sequential) else ()):
            norm.in_place = isinstance(conv, nn.Conv3d | nn.ConvTranspose3d)
    return network


def evaluate_by_input(network: nn.Module) -> None:
    """Switch to evaluation with the normalisation of training: at batch size 1 that of the input alone.

    Running statistics average over scans; a scan that is noisier or of other contrast fits them badly.
    """
    for module in network.eval().modules():
        if isinstance(module, blocks.BatchNorm3d):
            module.by_input = True


@contextlib.contextmanager
def statistics_left_alone(module: nn.Module) -> Iterator[None]:
    """Context in which training leaves the running statistics as they are."""
    with contextlib.ExitStack() as stack:
        for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm3d)):
            stack.callback(setattr, norm, "momentum", norm.momentum)
            stack.callback(setattr, norm, "num_batches_tracked", norm.num_batches_tracked)
            norm.momentum, norm.num_batches_tracked = 0.0, None
        yield


def recompute(network: nn.Module) -> None:
    """Let training of a MAG-UNet, and of no other, keep what enters a level and compute the rest again."""
    if isinstance(network, model.MAGUNet):
        for level in (*network.encoder, *network.down, network.attention, *network.decoder):
            contexts = partial(lambda level: (contextlib.nullcontext(), statistics_left_alone(level)), level)
            level.forward = partial(checkpoint, level.forward, use_reentrant=False, preserve_rng_state=False,
                                    context_fn=contexts)
