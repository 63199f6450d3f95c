"""How time and memory grow: counted, measured, and the exponents that say so."""

import mmap
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compendium.bench import growth
from compendium.bench.contest import PeakMemory
from magunet.base import profiles

CPU, MB = torch.device("cpu"), 10**6


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


def test_preparing_a_scan_takes_memory_by_its_voxels():
    held = growth.scan_megabytes((64, 256))
    assert 2 * 256**3 / MB < held[256**3] < 12 * 256**3 / MB and held[64**3] < held[256**3] / 2


def test_peak_memory_holds_what_is_held_and_not_what_was_held_before():
    with PeakMemory(torch.device("cpu")) as before:
        pass
    with PeakMemory(torch.device("cpu")) as during, mmap.mmap(-1, 320_000_000) as block:     # new memory, whatever is free
        np.frombuffer(block, np.uint8)[:] = 1
    assert during.mb - before.mb == pytest.approx(320, abs=40)
    with PeakMemory(torch.device("cpu")) as after:
        pass
    assert after.mb < during.mb - 200
