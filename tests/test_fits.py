"""Operations, parameters and memory against counts by hand, and what fits."""

import mmap
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from compendium import fits
from compendium.fits import count_flop, network_cost
from magunet import losses
from magunet.base import profiles
from magunet.base.device import autocast, peak_memory_mb, reset_peak_memory
from magunet.blocks import CAM, PAM, BatchNorm3d
from magunet.fast import accelerate
from magunet.fast import recompute as recompute_levels
from magunet.predict import Model
from magunet.studies import build

CPU, MB = torch.device("cpu"), 10**6
PAPER = profiles.load("paper")


# Operations -------------------------------------------------------------------------------------------

def on_meta(make):
    with torch.device("meta"):
        return make()


def test_a_small_network_by_hand():
    """2 x (kernel voxels x channels in x channels out) a voxel out, or in for transposed convolutions."""
    network = on_meta(lambda: nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(4, 6, 1, groups=2),
        nn.ConvTranspose3d(6, 2, 2, stride=2), nn.Upsample(scale_factor=2)))
    full, half = 8 * 10 * 12, 4 * 5 * 6
    assert count_flop(network, (8, 10, 12)) == 2 * (27 * 1 * 4 * full + 1 * 2 * 6 * half + 8 * 6 * 2 * half)


def test_attention_by_hand():
    """PAM cuts its 16 channels into 4 heads of 4; CAM multiplies 16 x n by n x 16 and back."""
    n = 3 * 4 * 5
    first, projections, heads, channels = 16 * n, (16 * 4 + 16 * 4
                                                   + 16 * 16) * n, 2 * 4 * 4 * n * n, 2 * 16 * 16 * n
    pam = on_meta(lambda: nn.Sequential(nn.Conv3d(1, 16, 1), PAM(16, 4)))
    assert count_flop(pam, (3, 4, 5)) == 2 * (first + projections + heads)
    cam = on_meta(lambda: nn.Sequential(nn.Conv3d(1, 16, 1), CAM()))
    assert count_flop(cam, (3, 4, 5)) == 2 * (first + channels)


def test_the_3d_unet_by_hand():
    """Level by level: two convolutions down; one transposed, from the coarser grid, and one on both up."""
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
    assert network_cost("3D U-Net") == (parameters, flop) and parameters == 23_538_177
    assert flop / 1e12 == pytest.approx(1.195, abs=0.001)


def test_what_mff_costs_at_full_resolution():
    """All that MAG-UNet adds, of which MFF's three branches are 2.55 TFLOP."""
    (_, plain), (_, mff), (parameters, full) = map(network_cost, ("3D U-Net", "+MFF", "MAG-UNet"))
    assert (mff - plain) / 1e12 == pytest.approx(2.55, abs=0.01)
    assert full / 1e12 == pytest.approx(3.79, abs=0.01) and parameters == 25_156_241


# Memory -----------------------------------------------------------------------------------------------

def test_peak_memory_is_that_since_the_last_reset():
    peaks = []
    for size in (0, 320_000_000, 0):
        reset_peak_memory(CPU)
        if size:
            with mmap.mmap(-1, size) as block:              # new memory, whatever is free
                np.frombuffer(block, np.uint8)[:] = 1
        peaks.append(peak_memory_mb(CPU))
    assert peaks[1] - peaks[0] == pytest.approx(320, abs=40) and peaks[2] < peaks[1] - 200


def test_bytes_are_counted_while_tensors_live():
    def work():
        a = torch.zeros(25 * MB)                    # 100 MB
        b = a + 1                                   # 200
        del a
        c = b[::2].clone()                          # 150: b and half of it
        b += 1
        del b, c
        torch.zeros(10 * MB)

    assert fits.peak_bytes(work) == 200 * MB


def test_a_step_of_one_convolution_takes_what_it_must():
    """At the fullest the input (1 map), the output, its gradient and two maps between them (8 each)."""
    def work():
        conv = torch.nn.Conv3d(1, 8, 3, padding=1)
        conv(torch.zeros(1, 1, 32, 64, 64)).square().sum().backward()

    assert fits.peak_bytes(work) == pytest.approx((1 + 4 * 8) * 4 * 32 * 64 * 64, rel=0.01)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_computing_maps_again_changes_neither_gradients_nor_statistics(precision):
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = accelerate(build("MAG-UNet", width_divisor=8)).train()
        if recompute:
            recompute_levels(network)
        x = torch.rand(1, 1, 25, 32, 48)
        with autocast(CPU, precision):
            logits = network(x)
        losses.dice_ce_loss(logits.float(), x > 0.9).backward()
        found.append([p.grad for p in network.parameters()] + list(network.buffers()))
        assert all(m.momentum == 0.1 for m in network.modules() if isinstance(m, BatchNorm3d))
    assert all(torch.equal(a, b) for a, b in zip(*found))


def test_recomputing_takes_less_memory():
    usual, lean = (fits.tensor_bytes(way, "MAG-UNet", replace(PAPER, depth=32, size=64, width_divisor=8),
                                     torch.bfloat16) for way in ("training", "recomputing"))
    assert lean < 0.75 * usual


@pytest.mark.parametrize("gigabytes, recompute, words", [
    (64, False, ""),
    (7, True, "7.0 GB are free; maps are computed a second time"),
    (0.4, True, "may not fit either; lower depth or size, or raise width_divisor")])
def test_a_training_that_does_not_fit_is_said_early(gigabytes, recompute, words, monkeypatch, capsys):
    monkeypatch.setattr(fits, "free_bytes", lambda device: gigabytes * 1e9)
    settings = replace(PAPER, precision="float32" if gigabytes == 64 else "auto")
    assert fits.choose_recompute("MAG-UNet", settings, CPU) == recompute
    said = capsys.readouterr().err
    assert words in said and bool(said) == bool(words)


@pytest.mark.parametrize("gigabytes, depth, words", [
    (64, None, ""),
    (1, 25,
     "1.0 GB are free, too little for windows of 50 slices; going on with windows of 25, from which"),
    (0.3, 16, "may not fit either; close other programs")])
def test_a_prediction_that_does_not_fit_is_said_early_and_sees_shallower_windows(gigabytes, depth, words,
                                                                                 monkeypatch, capsys):
    monkeypatch.setattr(fits, "free_bytes", lambda device: gigabytes * 1e9)
    model = Model(torch.nn.Identity(), PAPER, {"network": "MAG-UNet"}, CPU, torch.bfloat16)
    fitting = fits.with_room(model)
    said = capsys.readouterr().err
    assert fitting.window_depth == depth and words in said and bool(said) == bool(words)
    if depth:
        size = fits.tensor_bytes("prediction", "MAG-UNet", replace(PAPER, depth=depth), torch.bfloat16)
        assert size < gigabytes * 1e9 or depth == 16


def test_windows_are_as_deep_as_the_model_says(monkeypatch):
    model, depths = Model(torch.nn.Identity(), replace(PAPER, depth=40), {}, CPU, torch.float32,
                          window_depth=20), []
    monkeypatch.setattr("magunet.predict.probability", lambda _, window, *rest: depths.append(len(window))
                        or window)
    image = np.random.default_rng(0).random((48, 16, 16), np.float32)
    np.testing.assert_allclose(model.probability(image), image, atol=1e-6)
    assert set(depths) == {20}


@pytest.mark.parametrize("name, divisor", [("MAG-UNet", 1), ("SwinUNETR", 8), ("UNETR", 4)])
def test_ample_memory_is_far_above_what_is_counted(name, divisor):
    settings = replace(PAPER, depth=32, size=64, width_divisor=divisor)
    assert fits.tensor_bytes("training", name, settings, torch.float32) < 0.75 * fits.AMPLE_BYTES * 32 * 64**2
