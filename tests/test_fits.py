"""Operations, parameters and memory against counts by hand, and what fits."""

import mmap
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from compendium import fits
from compendium.fits import count_flop, network_cost
from magunet.base import profiles
from magunet.base.device import peak_memory_mb, reset_peak_memory
from magunet.blocks import CAM, PAM
from magunet.predict import Model

CPU, MB, PAPER = torch.device("cpu"), 10**6, profiles.load("paper")


# Operations -------------------------------------------------------------------------------------------
def test_a_small_network_and_attention_by_hand():
    """2 x (kernel voxels x channels in x channels out) a voxel out, or in for transposed convolutions. PAM
    cuts its 16 channels into 4 heads of 4; CAM multiplies 16 x n by n x 16 and back."""
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2),
                                nn.Conv3d(4, 6, 1, groups=2), nn.ConvTranspose3d(6, 2, 2, stride=2),
                                nn.Upsample(scale_factor=2))
        pam, cam = (nn.Sequential(nn.Conv3d(1, 16, 1), module) for module in (PAM(16, 4), CAM()))
    full, half, n = 8 * 10 * 12, 4 * 5 * 6, 3 * 4 * 5
    assert count_flop(network, (8, 10, 12)) == 2 * (27 * 1 * 4 * full + 1 * 2 * 6 * half + 8 * 6 * 2 * half)
    projections, heads = (16 * 4 + 16 * 4 + 16 * 16) * n, 2 * 4 * 4 * n * n
    assert count_flop(pam, (3, 4, 5)) == 2 * (16 * n + projections + heads)
    assert count_flop(cam, (3, 4, 5)) == 2 * (16 * n + 2 * 16 * 16 * n)


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
    # all that MAG-UNet adds at full resolution, of which MFF's three branches are 2.55 TFLOP
    (_, mff), (parameters, full) = map(network_cost, ("+MFF", "MAG-UNet"))
    assert (mff - flop) / 1e12 == pytest.approx(2.55, abs=0.01)
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


def test_a_training_that_does_not_fit_is_said_early_and_computes_maps_again_in_less(monkeypatch, capsys):
    window = replace(PAPER, depth=32, size=64, width_divisor=8)
    usual, lean = (fits.process_bytes(way, "3D U-Net", window, CPU) for way in ("training", "recomputing"))
    monkeypatch.setattr(fits, "what_fits", lambda *_: "it would with size 32")
    assert lean - fits.OWN_BYTES["cpu"] < 0.75 * (usual - fits.OWN_BYTES["cpu"])
    for free, recompute, words in (
            (usual + 1, False, ""),
            (usual - 1, True, f"{usual / 1e9:.1f} GB are free; maps are computed a second time"),
            (lean - 1, True, "which may not fit; it would with size 32")):
        monkeypatch.setattr(fits, "free_bytes", lambda device, free=free: free)
        assert fits.choose_recompute("3D U-Net", window, CPU) == recompute, free
        said = capsys.readouterr().err
        assert words in said and bool(said) == bool(words), free


def test_a_training_out_of_memory_computes_maps_again_then_says_which_settings_fit(monkeypatch, capsys):
    """As if memory were a byte a voxel and channel; what failed took all, so that a fifth less is tried."""
    calls, box = [], replace(PAPER, voxel_mm=1.0, depth=None, size=None)

    def fit(*_, recompute, **__):
        calls.append(recompute)
        if len(calls) < needed:
            raise MemoryError("training 3D U-Net does not fit")
        return "folder"

    monkeypatch.setattr(fits.runs, "fit", fit)
    monkeypatch.setattr(fits, "choose_recompute", lambda *_: False)
    monkeypatch.setitem(fits.OWN_BYTES, "cpu", 0)
    monkeypatch.setattr(fits, "process_bytes", lambda way, name, s, _: np.prod(s.shape) / s.width_divisor)
    needed = 2
    assert fits.fit_with_room("3D U-Net", box, 0, None) == "folder" and calls == [False, True]
    assert "going on with maps that are computed a second time" in capsys.readouterr().err
    whole, needed = np.prod(box.shape), 99
    for settings, free, words in (
            (box, 2 * whole, "fit; it would with width_divisor 2 or voxel_mm 1.5"),
            (box, whole / 8, "fit; it would with width_divisor 16 or voxel_mm 3"),
            (PAPER, 1e9, "fit; it would with width_divisor 2 or size 192"),
            (replace(box, width_divisor=32, voxel_mm=6.0), 1, "fit; no setting would")):
        monkeypatch.setattr(fits, "free_bytes", lambda device, free=free: free)
        with pytest.raises(MemoryError, match=f"{words}$"):
            fits.fit_with_room("3D U-Net", settings, 0, None)


def test_a_prediction_that_does_not_fit_is_said_early_and_sees_shallower_windows(monkeypatch, capsys):
    box = replace(PAPER, voxel_mm=1.5, depth=None, size=None)               # of 80 x 80 x 117 voxels
    for settings, gigabytes, depth, words in (
            (PAPER, 64, None, ""), (box, 64, None, ""),
            (box, 0.25, 40, "windows of 80 slices; going on with windows of 40"),
            (PAPER, 0.9, 25, "0.9 GB are free, too little for windows of 50 slices; going on with windows of "
             "25"),
            (PAPER, 0.3, 16, "may not fit either; close other programs")):
        monkeypatch.setattr(fits, "free_bytes", lambda device, gigabytes=gigabytes: gigabytes * 1e9)
        model = Model(torch.nn.Identity(), settings, {"network": "3D U-Net"}, CPU, torch.bfloat16)
        fitting, said = fits.with_room(model), capsys.readouterr().err
        assert fitting.window_depth == depth and words in said and bool(said) == bool(words), gigabytes
        if depth:
            size = fits.tensor_bytes("prediction", "3D U-Net", settings.width_divisor,
                                     (depth, *settings.shape[1:]), torch.bfloat16)
            assert size < gigabytes * 1e9 or depth == 16


@pytest.mark.parametrize("name, divisor", [("MAG-UNet", 1), *(
    pytest.param(*case, marks=pytest.mark.slow)
    for case in (("SwinUNETR", 8), ("SwinUNETR", 4), ("UNETR", 4)))])
def test_ample_memory_is_far_above_what_is_counted(name, divisor):
    for way, ample in fits.AMPLE_BYTES.items():
        size = fits.tensor_bytes(way, name, divisor, (32, 64, 64), torch.float32)
        assert size < 0.75 * ample * 32 * 64**2
