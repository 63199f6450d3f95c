"""What this machine can do at most, measured: the floor that a time stands against."""

import time
from functools import cache

import torch

SIDE = {"cpu": 2048, "cuda": 8192}
"""Of the square matrices whose product is timed."""
COPIED = {"cpu": 2**28, "cuda": 2**31}
"""Bytes that are copied, far more than any cache holds."""
REPEATS = 5


def fastest(work, device: torch.device) -> float:
    """Seconds of the fastest of some repeats, after one to warm up."""
    seconds = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


@cache
def flop_per_second(device: torch.device, precision: torch.dtype) -> float:
    """Of a large matrix product in this precision, a multiplication with its addition counted as 2."""
    side = SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(precision) for _ in range(2))
    return 2 * side**3 / fastest(lambda: a @ b, device)


@cache
def bytes_per_second(device: torch.device) -> float:
    """Of a copy in memory, read and written bytes both counted."""
    source = torch.zeros(COPIED[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED[device.type] / fastest(lambda: target.copy_(source), device)
