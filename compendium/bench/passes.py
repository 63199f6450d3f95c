"""Forward passes and training steps of MAG-UNet, as magunet runs it and plain, and the floor they stand against."""

import copy
from functools import cache

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from compendium.bench.ceilings import Operations, ceilings_of, floor_seconds
from magunet import losses
from magunet.base.device import autocast, choose_device, choose_precision
from magunet.fast import accelerate, evaluate_by_input
from magunet.fast import recompute as recompute_levels
from magunet.studies import build, build_on_meta

NETWORK = "MAG-UNet"


def default_precision() -> torch.dtype:
    return choose_precision("auto", choose_device())


def both_networks(divisor: int) -> tuple[nn.Module, nn.Module]:
    """The network as magunet runs it, and as `magunet.studies.build` builds it."""
    plain = build(NETWORK, divisor).to(choose_device())
    return accelerate(copy.deepcopy(plain)).to(memory_format=torch.channels_last_3d), plain


@cache
def operations(network: str, divisor: int, size: tuple[int, int, int], training: bool,
               precision: torch.dtype) -> list[tuple[int, int]]:
    """(Floating-point operations, bytes) of each operation of a forward pass or a training step on a window (d, h, w)."""
    net = accelerate(build_on_meta(network, divisor))
    with FakeTensorMode(allow_non_fake_inputs=True), Operations() as counted:
        net.to_empty(device="cpu")
        image = torch.zeros(1, 1, *size).contiguous(memory_format=torch.channels_last_3d)
        if training:
            mask = torch.zeros(1, 1, *size, dtype=torch.uint8)
            step(net.train(), torch.optim.Adam(net.parameters()), image, mask, precision)
        else:
            evaluate_by_input(net)
            with torch.no_grad(), autocast(image.device, precision):
                net(image)
    return counted.counts


def floor(divisor: int, size: tuple[int, int, int], training: bool) -> float:
    """Seconds that MAG-UNet's operations take where this machine's ceilings are reached."""
    precision = default_precision()
    return floor_seconds(operations(NETWORK, divisor, size, training, precision), ceilings_of(choose_device(), precision))


def pass_through(network: nn.Module, image: Tensor, precision: torch.dtype) -> Tensor:
    """Logits of a window, without gradients."""
    with torch.inference_mode(), autocast(image.device, precision):
        return network(image)


def step(network: nn.Module, optimizer: torch.optim.Optimizer, image: Tensor, mask: Tensor, precision: torch.dtype) -> None:
    """One training step."""
    with autocast(image.device, precision):
        logits = network(image)
    loss = losses.dice_ce_loss(logits.float(), mask)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def two_steps(size: tuple[int, int, int], divisor: int, precision: torch.dtype, recompute: bool = False) -> None:
    """Two training steps from nothing, after which Adam has its moments."""
    device = choose_device()
    network = accelerate(build(NETWORK, divisor)).to(device, memory_format=torch.channels_last_3d).train()
    if recompute:
        recompute_levels(network)
    optimizer = torch.optim.Adam(network.parameters())
    image = torch.rand(1, 1, *size, device=device)
    for _ in range(2):
        step(network, optimizer, image, (image > 0.9).to(torch.uint8), precision)
