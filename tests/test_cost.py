"""Parameters, operations and memory against counts by hand."""

import mmap

import numpy as np
import pytest
import torch
from torch import nn

from compendium.cost import PeakMemory, count_flop, network_cost
from magunet.blocks import CAM, PAM


def on_meta(make):
    with torch.device("meta"):
        return make()


def test_a_small_network_by_hand():
    """2 x (kernel voxels x channels in x channels out) for every voxel out, or in where the convolution is transposed."""
    network = on_meta(lambda: nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(4, 6, 1, groups=2),
        nn.ConvTranspose3d(6, 2, 2, stride=2), nn.Upsample(scale_factor=2)))
    full, half = 8 * 10 * 12, 4 * 5 * 6
    assert count_flop(network, (8, 10, 12)) == 2 * (27 * 1 * 4 * full + 1 * 2 * 6 * half + 8 * 6 * 2 * half)


def test_attention_by_hand():
    """PAM cuts its 16 channels into 4 heads of 4; CAM multiplies 16 x n by n x 16 and back."""
    n = 3 * 4 * 5
    first, projections, heads, channels = 16 * n, (16 * 4 + 16 * 4 + 16 * 16) * n, 2 * 4 * 4 * n * n, 2 * 16 * 16 * n
    pam = on_meta(lambda: nn.Sequential(nn.Conv3d(1, 16, 1), PAM(16, 4)))
    assert count_flop(pam, (3, 4, 5)) == 2 * (first + projections + heads)
    cam = on_meta(lambda: nn.Sequential(nn.Conv3d(1, 16, 1), CAM()))
    assert count_flop(cam, (3, 4, 5)) == 2 * (first + channels)


def test_the_3d_unet_by_hand():
    """Level by level: two convolutions down; one transposed, from the coarser grid, and one on both maps up."""
    widths, grid = (32, 64, 128, 256, 512), np.array((50, 256, 256))
    voxels = [int(np.prod(grid // 2**level)) for level in range(5)]
    flop, parameters, channels = 0, 0, 1
    for level, width in enumerate(widths):
        flop += 2 * 27 * (channels * width + width * width) * voxels[level]
        parameters += 27 * (channels * width + width * width) + 2 * 3 * width            # and bias, two of BN
        channels = width
    for level in (3, 2, 1, 0):
        deep, width = widths[level + 1], widths[level]
        flop += 2 * 27 * deep * width * voxels[level + 1] + 2 * 27 * 2 * width * width * voxels[level]
        parameters += 27 * deep * width + 27 * 2 * width * width + 2 * 3 * width
    flop, parameters = flop + 2 * 32 * voxels[0], parameters + 33
    cost = network_cost("3D U-Net")
    assert cost.flop == flop and cost.parameters == parameters == 23_538_177
    assert flop / 1e12 == pytest.approx(1.195, abs=0.001)


def test_what_mff_costs_at_full_resolution():
    """All that MAG-UNet adds, of which MFF's three branches are 2.55 TFLOP."""
    plain, mff, full = (network_cost(name) for name in ("3D U-Net", "+MFF", "MAG-UNet"))
    assert (mff.flop - plain.flop) / 1e12 == pytest.approx(2.55, abs=0.01)
    assert full.flop / 1e12 == pytest.approx(3.79, abs=0.01) and full.parameters == 25_156_241


def test_peak_memory_holds_what_is_held_and_not_what_was_held_before():
    with PeakMemory(torch.device("cpu")) as before:
        pass
    with PeakMemory(torch.device("cpu")) as during, mmap.mmap(-1, 320_000_000) as block:     # new memory, whatever is free
        np.frombuffer(block, np.uint8)[:] = 1
    assert during.mb - before.mb == pytest.approx(320, abs=40)
    with PeakMemory(torch.device("cpu")) as after:
        pass
    assert after.mb < during.mb - 200
