"""What contests and notebook 12 measure of ours: functions that a fresh process can import."""

import numpy as np
import torch
from torch import Tensor, nn

from magunet import fast, losses
from magunet.base import profiles
from magunet.base.device import autocast, choose_device, choose_precision
from magunet.blocks import PAM
from magunet.metrics import overlap
from magunet.prepare import prepare
from magunet.studies import build
from magunet.surfaces import surface_scores
from magunet.volume import Volume

NETWORK = "MAG-UNet"
"""The network that is measured."""
Size = tuple[int, int, int]


def default_precision() -> torch.dtype:
    """What magunet takes on this device."""
    return choose_precision("auto", choose_device())


def fast_network(divisor: int) -> nn.Module:
    """The network as magunet runs it, its widths divided."""
    return fast.accelerate(build(NETWORK, divisor)).to(choose_device(), memory_format=torch.channels_last_3d)


def pass_through(network: nn.Module, image: Tensor, precision: torch.dtype) -> Tensor:
    """Logits of a window, without gradients."""
    with torch.inference_mode(), autocast(image.device, precision):
        return network(image)


def step(network: nn.Module, optimizer: torch.optim.Optimizer, image: Tensor, precision: torch.dtype) -> None:
    """One training step towards the window's brightest voxels."""
    with autocast(image.device, precision):
        logits = network(image)
    loss = losses.dice_ce_loss(logits.float(), (image > 0.9).to(torch.uint8))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def two_steps(size: Size, divisor: int, precision: torch.dtype, recompute: bool = False) -> None:
    """Two training steps from nothing, after which Adam has its moments."""
    network = fast_network(divisor).train()
    if recompute:
        fast.recompute(network)
    optimizer = torch.optim.Adam(network.parameters())
    image = torch.rand(1, 1, *size, device=choose_device())
    for _ in range(2):
        step(network, optimizer, image, precision)


def one_pass(size: Size, divisor: int, precision: torch.dtype) -> None:
    """A window's logits, in a process that has loaded what ``magunet predict`` needs for files."""
    import SimpleITK  # noqa: F401

    import compendium.view.export  # noqa: F401

    network = fast_network(divisor)
    fast.evaluate_by_input(network)
    image = torch.rand(1, 1, *size, device=choose_device())
    pass_through(network, image.contiguous(memory_format=torch.channels_last_3d), precision)


def prepare_cube(side: int) -> None:
    """Prepare a scan of side^3 voxels of 1 mm, with a target in its middle."""
    scan = Volume(np.full((side,) * 3, -1000, np.int16), (1.0, 1.0, 1.0))
    mask = scan.with_array(np.zeros(scan.array.shape, np.uint8))
    mask.array[side // 2 - 8:side // 2 + 8, side // 4:-(side // 4), side // 4:-(side // 4)] = 1
    prepare(scan, mask, profiles.load("paper"))


def metrics(prediction: np.ndarray, truth: np.ndarray,
            spacing: tuple[float, float, float]) -> tuple[float, float, float, float]:
    """Dice, HD95 and ASSD in mm, NSD, of two masks (d, h, w)."""
    scores = surface_scores(prediction, truth, spacing)
    return overlap(prediction, truth).dice, scores.hd95, scores.assd, scores.nsd


def naive_position_attention(pam: PAM, x: Tensor) -> Tensor:
    """Eqs. 3 to 5 with the N x N matrix in memory. x: (1, c, d, h, w) -> the same shape."""
    b, c, d = (layer(x).flatten(2)[0] for layer in (pam.B, pam.C, pam.D))          # (c', n), (c', n), (c, n)
    s = torch.softmax(c.mT @ b, dim=1)                                              # rows sum to 1 over i
    return (pam.alpha * (d @ s.mT)).view(x.shape) + x


def attend(naive: bool, positions: Size, channels: int = 64) -> None:
    """Position attention over a map of this size."""
    with torch.inference_mode():
        pam, x = PAM(channels), torch.rand(1, channels, *positions)
        (naive_position_attention if naive else PAM.forward)(pam, x)
