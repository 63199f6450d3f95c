"""Quicker and leaner layers with the same weights and the same function: `accelerate` swaps them into any network.

The networks are written in plain torch; whoever doubts a result computes it without `accelerate`. The layers here avoid
two weak spots of the CPU's bfloat16 in torch 2.13 and what autocast widens there for nothing, normalise a single
position in training and, where no gradient is asked for, write over maps that nobody else reads. Weights, their
names and initial values stay. In float32 outputs, gradients and predictions are those of the plain network to the bit;
under autocast they differ by what bfloat16 rounds (``tests/test_fast.py``).
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


def may_split(x: Tensor) -> bool:
    """Whether `through_joined` may do without the joined map: where bfloat16 rounds more than splitting a sum does."""
    return may_overwrite(x) and torch.is_autocast_enabled("cpu")


def is_smaller(x: Tensor, conv: nn.Conv3d | nn.ConvTranspose3d) -> bool:
    """Whether a map on the CPU is smaller than the kernel of a convolution along any axis."""
    return x.device.type == "cpu" and min(x.shape[2:]) < max(conv.kernel_size)


def merge_groups(weight: Tensor, groups: int, width: int = 8) -> tuple[Tensor, int]:
    """Neighbouring groups of a convolution joined to one of at least ``width`` input channels, if they divide so.

    From 8 on the CPU's bfloat16 convolutions are fast. weight: (c_out, c_in / groups, k, k, k), of a convolution in
    ``groups`` groups. Returns the weight, with zeros where a channel met none of another group, and the number of
    groups left: the same function.
    """
    joined = math.gcd(groups, math.ceil(width / weight.shape[1]))
    if joined == 1:
        return weight, groups
    own = torch.eye(joined, dtype=weight.dtype, device=weight.device).view(1, joined, 1, joined, 1, 1, 1, 1)
    parts = weight.unflatten(0, (groups // joined, joined, -1)).unsqueeze(3) * own        # (g, j, o, j, i, k, k, k)
    return parts.flatten(3, 4).flatten(0, 2), groups // joined


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
        geometry, groups = (self.stride, self.padding, self.dilation), self.groups
        if is_smaller(x, self):
            with no_autocast(x):
                return F.conv3d(x.to(weight.dtype), weight, bias, *geometry, groups)
        if x.device.type == "cpu" and groups > 1 and torch.is_autocast_enabled("cpu"):
            weight, groups = merge_groups(weight, groups)
        return F.conv3d(x, weight, bias, *geometry, groups)


class ConvTranspose3d(nn.ConvTranspose3d):
    """Transposed convolution in groups that stays in float32 where `Conv3d` does; in one group bfloat16 is right."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.groups > 1 and is_smaller(x, self):
            with no_autocast(x):
                return super().forward(x.to(self.weight.dtype), output_size)
        return super().forward(x, output_size)


class BatchNorm3d(blocks.BatchNorm3d):
    """in_place: evaluation by the input's own statistics writes over x, as after a convolution, where nobody else reads x."""

    in_place = False

    def forward(self, x: Tensor) -> Tensor:
        several = x.shape[0] * x.shape[2:].numel() > 1
        if several and self.in_place and self.by_input and not self.training and may_overwrite(x):
            out = x, torch.empty_like(self.weight), torch.empty_like(self.weight)
            return torch.native_batch_norm(x, self.weight, self.bias, None, None, True, 0, self.eps, out=out)[0]
        return super().forward(x)


class MaxPool3d(nn.MaxPool3d):
    """Max pooling in the precision of x: on the CPU autocast would widen x to float32, which changes no maximum."""

    def forward(self, x: Tensor) -> Tensor:
        with no_autocast(x):
            return super().forward(x)


def halve_in_place(x: Tensor) -> Tensor:
    """Max pooling of 2^3 that writes over x, which saves the memory of the indices of the maxima."""
    for dim in (2, 3, 4):
        even, odd = (x[(slice(None),) * dim + (slice(first, x.shape[dim] // 2 * 2, 2),)] for first in (0, 1))
        x = torch.maximum(even, odd, out=even if dim < 4 else torch.empty_like(even))
    return x


def through_joined(stage: nn.Sequential, maps: Iterable[Tensor]) -> Tensor:
    """``stage(torch.cat(maps, dim=1))`` but for rounding, without the joined map, for a stage that starts with a Conv3d.

    Each map, one at a time, is convolved with its part of the kernel, and the sum grows in place.
    """
    conv, *others = stage
    x, channels = None, 0
    for part in maps:
        weight = conv.weight[:, channels:channels + part.shape[1]]
        channels += part.shape[1]
        x = conv.convolved(part, weight, conv.bias) if x is None else x.add_(conv.convolved(part, weight, None))
    for layer in others:
        x = layer(x)
    return x


class MFF(blocks.MFF):
    """Each branch with ReLU after pooling: the same, of an eighth of the values."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(x)                                              # (b, c_in, d, h, w)
        scales = (self.scale(branch, x) for branch in self.branches)    # one at a time: each (b, c_out, d/2, h/2, w/2)
        return through_joined(self.fuse, scales) if may_split(x) else self.fuse(torch.cat(list(scales), dim=1))

    def scale(self, branch: nn.Sequential, x: Tensor) -> Tensor:
        """The map of one branch."""
        conv, norm, relu, pool = branch
        y = norm(conv(x))
        return relu(halve_in_place(y) if may_overwrite(y) else pool(y))


class LGAG(blocks.LGAG):
    """The sum and, where no gradient is asked for, the gated skip written over their inputs."""

    def attention(self, g: Tensor, x: Tensor) -> Tensor:
        return torch.sigmoid(self.gate(F.relu(self.g(g).add_(self.x(x)), inplace=True)))

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        attention = self.attention(g, x)
        return x.mul_(attention) if may_overwrite(x) and attention.dtype == x.dtype else x * attention


class DecoderStep(model.DecoderStep):
    """Padding only where it is needed and in the map's precision; under autocast the two maps are never joined."""

    def pair(self, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """The (gated) skip and x upsampled, each (b, c, d, h, w)."""
        g = self.up(x)
        d, h, w = (s - n for s, n in zip(skip.shape[2:], g.shape[2:]))
        if d or h or w:
            with no_autocast(g):
                g = F.pad(g, (0, w, 0, h, 0, d), mode="replicate")
        return skip if self.gate is None else self.gate(g, skip), g

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        if may_split(skip):
            return through_joined(self.merge, self.pair(x, skip))
        return self.merge(torch.cat(self.pair(x, skip), dim=1))        # nested, so that no map lives longer than it must


SWAPS = {nn.Conv3d: Conv3d, nn.ConvTranspose3d: ConvTranspose3d, blocks.BatchNorm3d: BatchNorm3d, nn.MaxPool3d: MaxPool3d,
         blocks.MFF: MFF, blocks.LGAG: LGAG, model.DecoderStep: DecoderStep}
"""A plain class and the one that takes its place."""


def accelerate(network: nn.Module) -> nn.Module:
    """The network itself, of any kind, with the layers of this file in place of torch's."""
    for module in network.modules():
        module.__class__ = SWAPS.get(type(module), type(module))
    for chain in network.modules():
        if isinstance(chain, nn.Sequential):
            for before, norm in pairwise(chain):
                if isinstance(norm, BatchNorm3d):
                    norm.in_place = isinstance(before, nn.Conv3d | nn.ConvTranspose3d)
    return network


def evaluate_by_input(network: nn.Module) -> None:
    """Switch to evaluation with the normalisation of training, which at batch size 1 is that of the input alone.

    Running statistics average over scans; a scan that is noisier or of other contrast than most fits them badly.
    """
    network.eval()
    for module in network.modules():
        if isinstance(module, blocks.BatchNorm3d):
            module.by_input = True


@contextlib.contextmanager
def statistics_left_alone(module: nn.Module) -> Iterator[None]:
    """Context in which training leaves the running statistics as they are: for computing a map a second time."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm3d)]
    before = [(m.momentum, m.num_batches_tracked) for m in norms]
    for m in norms:
        m.momentum, m.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for m, (momentum, count) in zip(norms, before):
            m.momentum, m.num_batches_tracked = momentum, count


def recompute(network: nn.Module) -> None:
    """Let training of a MAG-UNet keep of each level only what goes in, and compute the rest again for the gradient.

    The same weights for less memory and more time. Other networks are left as they are.
    """
    def again(level: nn.Module, forward, *inputs: Tensor) -> Tensor:
        if not level.training:
            return forward(*inputs)
        return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False,
                          context_fn=lambda: (contextlib.nullcontext(), statistics_left_alone(level)))

    if isinstance(network, model.MAGUNet):
        for level in (*network.encoder, *network.down, network.attention, *network.decoder):
            level.forward = partial(again, level, level.forward)
