"""What this machine can do at most, measured, and what a network asks of it: the floor that a time stands against."""

import time
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

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


class Operations(TorchDispatchMode):
    """Context that lists torch's operations in it as (floating-point operations, bytes) in ``counts``.

    Bytes are those of every tensor that an operation reads or writes, once each. Floating-point operations are counted of
    convolutions and matrix products, a multiplication with its addition as 2, but not of attention on the CPU, which torch
    does not count; of everything else bytes are what takes time.
    Views cost nothing. Without gradients, use ``torch.no_grad``: in inference mode torch shows operations before they are
    broken into those that count.
    """

    def __init__(self):
        super().__init__()
        self.counts: list[tuple[int, int]] = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        result = function(*arguments, **keywords)
        if function.namespace == "aten" and not function.is_view:
            count = flop_registry.get(function.overloadpacket)
            only_written = {argument.name for argument in function._schema.arguments if argument.is_out}
            read = [value for name, value in keywords.items() if name not in only_written]
            tensors = [leaf for leaf in tree_leaves((arguments, read, result)) if isinstance(leaf, torch.Tensor)]
            self.counts.append((count(*arguments, **keywords, out_val=result) if count else 0,
                                sum(tensor.numel() * tensor.element_size() for tensor in tensors)))
        return result


def copy_seconds(device: torch.device, *arrays: np.ndarray | Tensor) -> float:
    """Seconds in which the bytes of these arrays are read or written once, as fast as a large copy."""
    return sum(array.nbytes for array in arrays) / bytes_per_second(device)


@dataclass(frozen=True)
class Ceilings:
    """What a machine can do at most in a second: floating-point operations, and bytes read or written."""

    flop: float
    bytes: float


def ceilings_of(device: torch.device, precision: torch.dtype) -> Ceilings:
    """As measured on this machine."""
    return Ceilings(flop_per_second(device, precision), bytes_per_second(device))


def ceilings_given(tera_flop: float, tera_bytes: float) -> Ceilings:
    """As told, in 10^12 a second."""
    return Ceilings(1e12 * tera_flop, 1e12 * tera_bytes)


def floor_seconds(counts: list[tuple[int, int]], most: Ceilings) -> float:
    """Seconds of operations (floating-point operations, bytes), each as fast as the ceilings allow."""
    return sum(max(flop / most.flop, size / most.bytes) for flop, size in counts)
