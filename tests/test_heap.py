"""Memory that the C library keeps while a network predicts; the library's own account and the system's are the witnesses."""

import ctypes
import platform
import resource

import numpy as np
import psutil
import pytest
import torch

from magunet.learn import heap
from magunet.learn.heap import memory_kept
from magunet.learn.predict import predict_windows

BLOCK = 2**26
"""Bytes, more than glibc keeps by itself."""
LIBRARY = ctypes.CDLL(None)

pytestmark = pytest.mark.skipif(not hasattr(LIBRARY, "mallinfo2"), reason="the C library is not glibc 2.33 or later")


class Account(ctypes.Structure):
    """What mallinfo2(3) returns: ten numbers, of which the fifth counts."""

    _fields_ = [("before", ctypes.c_size_t * 4), ("hblkhd", ctypes.c_size_t), ("after", ctypes.c_size_t * 5)]


def mapped():
    """Bytes in blocks that go back to the system as soon as they are freed."""
    LIBRARY.mallinfo2.restype = Account
    return LIBRARY.mallinfo2().hblkhd


def goes_back_at_once():
    """Whether memory larger than any hole in the heap would."""
    before, memory = mapped(), torch.empty(2**32, dtype=torch.uint8)
    return mapped() - before >= memory.nbytes


def resident():
    return psutil.Process().memory_info().rss


def fill(count):
    return [torch.ones(BLOCK, dtype=torch.uint8) for _ in range(count)]


@pytest.fixture(autouse=True)
def _no_page_in_a_hole_of_the_heap():
    LIBRARY.malloc_trim(0)


def test_freed_memory_is_kept_and_given_back_at_the_end():
    before = resident()
    assert goes_back_at_once()
    with memory_kept():
        assert not goes_back_at_once()
        fill(6)
        assert resident() > before + 5.5 * BLOCK
    assert goes_back_at_once() and resident() < before + BLOCK / 2


def test_a_failure_within_gives_back_too():
    before = resident()
    with pytest.raises(RuntimeError), memory_kept():
        fill(6)
        raise RuntimeError("out of memory")
    assert goes_back_at_once() and resident() < before + BLOCK / 2


def test_windows_find_the_blocks_of_the_windows_before():
    found, before = [], resident()

    def network(window):
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            fill(1)
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
        return window

    predict_windows(np.zeros((100, 2, 2), np.float32), 10, network)
    blocks = sum(found) * resource.getpagesize() / BLOCK
    assert len(found) == 19 and blocks < 19                                     # of 76; new ones where small things lie
    assert goes_back_at_once() and resident() < before + BLOCK / 2


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: pytest.fail("must not be asked"))
    with memory_kept():
        pass
