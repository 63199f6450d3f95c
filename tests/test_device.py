"""Processes that train side by side take different GPUs."""

import subprocess
import sys
import tempfile

import pytest
import torch

from magunet.base import device

current = []
HOLD = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from magunet.base.device import take
print(take(sys.argv[2]), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Two GPUs as torch would show them, and locks in a folder of the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties",
                        lambda i: type("Properties", (), {"uuid": f"gpu-{i}"}))
    monkeypatch.setattr(torch.cuda, "set_device", lambda chosen: current.append(chosen))
    monkeypatch.setattr(device, "_locks", [])
    current.clear()
    device.choose_device.cache_clear()
    yield tmp_path
    for lock in device._locks:
        lock.release()
    device.choose_device.cache_clear()


def held_by_another(folder, name):
    """A process that has taken a GPU and waits."""
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), name], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE,
                             text=True)
    assert other.stdout.readline().strip() == "True"
    return other


def test_a_free_gpu_is_taken_and_kept(machine):
    assert device.choose_device() == torch.device("cuda", 0)
    assert device.choose_device() == torch.device("cuda", 0)
    assert current == [torch.device("cuda", 0)]


def test_a_gpu_of_another_process_is_left_to_it_until_it_ends(machine):
    with held_by_another(machine, "gpu-0"):
        assert device.choose_device() == torch.device("cuda", 1)
    assert device.take("gpu-0")


def test_with_all_taken_the_first_is_shared(machine):
    with held_by_another(machine, "gpu-0"), held_by_another(machine, "gpu-1"):
        assert device.choose_device() == torch.device("cuda", 0)


def test_without_a_gpu_it_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device.choose_device.cache_clear()
    assert device.choose_device() == torch.device("cpu")
    device.choose_device.cache_clear()
