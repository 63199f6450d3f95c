"""Memory is counted before anything is computed, and used to say what fits."""

import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compendium import doctor, memory
from compendium.bench import growth
from compendium.bench.ceilings import Ceilings
from compendium.bench.contest import Contest
from compendium.cost import PeakMemory
from compendium.doctor import machine, memory_table
from magunet import losses
from magunet.base import profiles
from magunet.base.device import autocast
from magunet.blocks import BatchNorm3d
from magunet.fast import accelerate
from magunet.fast import recompute as recompute_levels
from magunet.predict import Model
from magunet.studies import build

CPU, MB = torch.device("cpu"), 10**6
PAPER = profiles.load("paper")


def test_bytes_are_counted_while_tensors_live():
    with memory.counting() as counted:
        a = torch.zeros(25 * MB)                    # 100 MB
        b = a + 1                                   # 200
        del a
        c = b[::2].clone()                          # 150: b and half of it
        b += 1
        del b, c
        torch.zeros(10 * MB)
    assert counted.peak == 200 * MB


def test_a_step_of_one_convolution_takes_what_it_must():
    """At the fullest the input (1 map), the output, its gradient and two maps between them (8 each)."""
    with memory.counting() as counted:
        conv = torch.nn.Conv3d(1, 8, 3, padding=1)
        conv(torch.zeros(1, 1, 32, 64, 64)).square().sum().backward()
    assert counted.peak == pytest.approx((1 + 4 * 8) * 4 * 32 * 64 * 64, rel=0.01)


@settings(max_examples=20)
@given(power=st.floats(0.2, 3.0), factor=st.floats(0.01, 100.0))
def test_the_exponent_of_a_power_law_is_found(power, factor):
    x = [10, 100, 250, 4000]
    assert growth.exponent(x, [factor * n**power for n in x]) == pytest.approx(power)


@pytest.mark.parametrize("size, divisor", [((32, 64, 64), 8), ((32, 96, 96), 4)])
def test_counted_memory_is_within_a_fifth_of_measured(size, divisor):
    assert (growth.memory_check(size, divisor)["counted / measured"] - 1).abs().max() < 0.2


def test_memory_of_processes_counts_all_of_them():
    held = "import numpy, time; a = numpy.ones(200_000_000, 'u1'); print('held', flush=True); time.sleep(60)"
    peaks = {}
    for children in (False, True):
        with PeakMemory(CPU, children) as peak:
            process = subprocess.Popen([sys.executable, "-c", held], stdout=subprocess.PIPE)
            process.stdout.readline()
            time.sleep(0.2)
            process.kill()
            process.communicate()
        peaks[children] = peak.mb
    assert 200 < peaks[True] - peaks[False] < 300


def test_cases_take_hardly_any_memory():
    few = replace(profiles.load("smoke"), samples_per_case=1, scan_matrix=64, scan_slices=(40, 40))
    table = growth.by_cases((1, 3), few)
    assert table.loc[3, "MB"] < 1.1 * table.loc[1, "MB"]


def test_attention_takes_memory_that_grows_with_positions_and_not_their_square():
    grids = [(3, 16, 16), (6, 32, 32), (12, 64, 64)]
    table = growth.attention_megabytes(grids)
    assert growth.exponent(table.index, table["PAM"]) == pytest.approx(1, abs=0.05)
    assert growth.exponent(table.index[1:], table["naive matrix"].iloc[1:]) == pytest.approx(2, abs=0.05)
    assert table["naive matrix"].iloc[-1] * MB > 2 * 4 * (12 * 64 * 64) ** 2


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
    plain, lean = (memory.training_bytes("MAG-UNet", 8, (32, 64, 64), torch.bfloat16, recompute) for recompute in (False, True))
    assert lean < 0.75 * plain


@pytest.mark.parametrize("gigabytes, recompute, words", [
    (64, False, ""),
    (7, True, "7.0 GB are free; maps are computed a second time"),
    (4, True, "depth 50 and size 128 would fit"),
    (0.4, True, "raise width_divisor")])
def test_a_training_that_does_not_fit_is_said_early_with_what_does(gigabytes, recompute, words, monkeypatch, capsys):
    monkeypatch.setattr(memory, "free_bytes", lambda device: gigabytes * 1e9)
    settings = replace(PAPER, precision="float32" if gigabytes == 64 else "auto")
    assert memory.choose_recompute("MAG-UNet", settings, CPU) == recompute
    said = capsys.readouterr().err
    assert words in said and bool(said) == bool(words)


@pytest.mark.parametrize("gigabytes, depth, words", [
    (64, None, ""), (1, 25, "windows of 50 slices take about 1.1 GB, and 1.0 GB are free; going on with windows of 25, which"),
    (0.3, 16, "may not fit either; close other programs")])
def test_a_prediction_that_does_not_fit_is_said_early_and_sees_shallower_windows(gigabytes, depth, words, monkeypatch, capsys):
    monkeypatch.setattr(memory, "free_bytes", lambda device: gigabytes * 1e9)
    model = Model(torch.nn.Identity(), PAPER, {"network": "MAG-UNet"}, CPU, torch.bfloat16)
    fitting = memory.with_room(model)
    said = capsys.readouterr().err
    assert fitting.window_depth == depth and words in said and bool(said) == bool(words)
    if depth:
        assert memory.prediction_bytes("MAG-UNet", 1, (depth, 256, 256), torch.bfloat16) < gigabytes * 1e9 or depth == 16


def test_windows_are_as_deep_as_the_model_says(monkeypatch):
    model, seen = Model(torch.nn.Identity(), replace(PAPER, depth=40), {}, CPU, torch.float32, window_depth=20), []
    monkeypatch.setattr(Model, "_answer", lambda self, window: seen.append(len(window)) or window)
    image = np.random.default_rng(0).random((48, 16, 16), np.float32)
    np.testing.assert_allclose(model.probability(image), image, atol=1e-6)
    model.joint_slices(image, 2.0)
    assert set(seen) == {20}


@pytest.mark.parametrize("name, divisor", [("MAG-UNet", 1), ("SwinUNETR", 8), ("UNETR", 4)])
def test_a_glance_is_far_above_what_is_counted(name, divisor):
    assert memory.training_bytes(name, divisor, (32, 64, 64), torch.float32) < 0.75 * memory.GLANCE_BYTES * 32 * 64 * 64


def test_the_doctor_knows_every_profile_and_this_machine():
    table = memory_table(CPU)
    assert {"smoke", "cpu", "gpu", "paper"} <= set(table.index)
    assert (table["recomputing, GB"] <= table["training, GB"]).all()
    assert "GB" in machine(CPU) and f"{torch.get_num_threads()} threads" in machine(CPU)


def test_the_doctor_measures_some_profiles_and_reckons_the_others(monkeypatch):
    """Floors are 2 s in the probes, 3 and 5 times as long in truth; a profile that is not measured takes after the first."""
    @contextmanager
    def measured(profile):
        yield Contest("a step", "nothing", lambda: seconds.append({"gpu": 6.0, "paper": 10.0}[profile]), lambda: None, floor=2.0)

    seconds = []
    monkeypatch.setattr(doctor.contests, "training_step", measured)
    monkeypatch.setattr(doctor, "seconds_of", lambda work: work() or seconds[-1])
    monkeypatch.setattr(doctor, "floor", lambda divisor, size, training: 100.0 if training else None)
    step = doctor.measured_step(torch.device("cuda"))
    assert [step(profiles.load(name)) for name in ("gpu", "paper", "cpu")] == [300.0, 500.0, 300.0]


def test_the_doctor_reckons_hours_from_steps(monkeypatch, tmp_path):
    """Every network but MAG-UNet does half of its operations."""
    most = Ceilings(10.0, 1.0)
    monkeypatch.setattr(doctor, "operations",
                        lambda network, divisor, size, training, precision: [(20, 0)] if network == "MAG-UNet" else [(10, 0)])
    own = {"mine": replace(profiles.load("cpu"), profile="mine", cohort=str(tmp_path), seeds=(0, 1)),
           "gone": replace(profiles.load("cpu"), profile="gone", cohort=str(tmp_path / "gone"))}
    load = profiles.load
    monkeypatch.setattr(doctor.profiles, "load", lambda name: own.get(name) or load(name))
    monkeypatch.setattr(doctor, "profile_names", lambda: ["cpu", "gpu", *own])
    (tmp_path / "imagesTr").mkdir()
    for number in range(10):
        (tmp_path / "imagesTr" / f"ct_{number}_0000.nii.gz").touch()
    table = doctor.time_table(lambda settings: 30.0 if settings.width_divisor == 4 else 300.0, most)
    assert list(table.index) == ["cpu", "gpu", "mine"]
    assert table["steps"].tolist() == [30 * 17, 60 * 49, 30 * 7] and table["trainings"].tolist() == [25, 90, 50]
    hours = [30 * 30 * (17 + 7 * 2 / 3) / 3600, 300 * 60 * (49 + 21 * 2 / 3) / 3600, 30 * 30 * (7 + 3 * 2 / 3) / 3600]
    assert table["one training, h"].tolist() == pytest.approx(hours, rel=0.05)
    whole = [(1 + 24 / 2) * hours[0], 3 * (1 + 29 / 2) * hours[1], 2 * (1 + 24 / 2) * hours[2]]
    assert table["all of them, h"].tolist() == pytest.approx(whole, rel=0.05)
    assert doctor.least_step(most)(load("gpu")) == 2.0


def test_preparing_a_scan_takes_memory_by_its_voxels():
    held = growth.scan_megabytes((64, 256))
    assert 2 * 256**3 / MB < held[256**3] < 12 * 256**3 / MB and held[64**3] < held[256**3] / 2
