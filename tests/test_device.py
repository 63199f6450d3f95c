"""Processes that train side by side take different GPUs, and say how far they are."""

import contextlib
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import pytest
import torch
from conftest import refused

from magunet.base import device, progress

HOLD = "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(); input()"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Two GPUs as torch would show them, and locks in a folder of the test's own; the GPUs that were set."""
    current = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name, fake in {"is_available": lambda: True, "device_count": lambda: 2, "set_device": current.append,
                       "get_device_properties": lambda i: SimpleNamespace(uuid=f"gpu-{i}")}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(device, "_locks", [])
    device.choose_device.cache_clear()
    with torch.backends.cudnn.flags():                      # puts them back afterwards
        yield current
    for lock in device._locks:
        lock.release()
    device.choose_device.cache_clear()


def held_by_another(number):
    """Another process that has taken a GPU; closing its input ends it."""
    other = subprocess.Popen([sys.executable, "-uc", HOLD, f"{tempfile.tempdir}/magunet-gpu-{number}.lock"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "\n"
    return other


def test_a_free_gpu_is_kept_that_of_another_process_left_alone_and_with_all_taken_the_first_shared(machine):
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    assert [device.choose_device(), device.choose_device()] == [first, first] and machine == [first]
    for others, left in (([0], second), ([0, 1], first), ([], first)):
        device.choose_device.cache_clear()
        for lock in device._locks:
            lock.release()
        with contextlib.ExitStack() as stack:
            for number in others:
                stack.enter_context(held_by_another(number))
            assert device.choose_device() == left, others


def test_without_a_gpu_it_is_the_cpu(machine, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.choose_device() == torch.device("cpu")


def test_a_gpu_computes_in_16_bits_where_they_are_right_and_never_in_tf32(machine, monkeypatch, capsys):
    """Versions and generations around the limits: 9.8 to 9.14 are wrong, 8.0 and 7.0 have the types."""
    half, brain, whole, gpu = torch.float16, torch.bfloat16, torch.float32, torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    for version, major, kind in ((90701, 9, brain), (90800, 9, whole), (91002, 8, whole), (91401, 9, whole),
                                 (91500, 9, brain), (92000, 8, brain), (92000, 7, half), (91002, 7, whole),
                                 (92000, 6, whole), (None, 8, brain)):
        device.choose_device.cache_clear()
        monkeypatch.setattr(torch.backends.cudnn, "version", lambda version=version: version)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, major=major: (major, 0))
        monkeypatch.setattr(torch.cuda, "get_device_properties",
                            lambda i, major=major: SimpleNamespace(uuid=f"gpu-{i}", major=major))
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = True, False
        device.choose_device()
        wrong, said = version and 90800 <= version < 91500, capsys.readouterr().err
        assert (f"cuDNN {version}, so that all is float32" in said) == bool(wrong) == bool(said), version
        assert [device.choose_precision(name, gpu) for name in ("auto", "float32")] == [kind, whole], version
        if kind == brain:
            assert device.choose_precision("bfloat16", gpu) == brain
        else:
            refused(lambda: device.choose_precision("bfloat16", gpu), "cannot compute in it; use auto")
        assert torch.backends.cudnn.benchmark and not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32


def test_progress_is_a_line_an_item_on_stderr_or_a_bar_where_somebody_watches(capsys, monkeypatch):
    """Inner loops are silent."""
    assert not progress.in_notebook()
    monkeypatch.setattr(progress, "watched", lambda: False)
    assert list(progress.track("ab", "letters")) == ["a", "b"]
    assert capsys.readouterr() == ("", "letters 1/2\nletters 2/2\n")
    assert list(progress.track([1, 2], "windows", lines=False)) == [1, 2]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(progress, "watched", lambda: True)
    assert list(progress.track([1, 2], "windows")) == [1, 2]
    out, error = capsys.readouterr()
    assert out == "" and "windows" in error and "windows 1/2\n" not in error
