"""What a network costs: parameters, operations, memory."""

import contextlib
import functools
import threading
from dataclasses import dataclass

import psutil
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from compendium.paper import INPUT_SIZE
from magunet.model import count_parameters
from magunet.studies import build_on_meta

POLL_SECONDS = 0.005


@dataclass(frozen=True)
class Cost:
    """Of one network at the paper's widths: parameters, and operations of a forward pass."""

    parameters: int
    flop: int


@functools.cache
def network_cost(name: str) -> Cost:
    """Cost of a network of ``magunet.studies`` on 1 x 1 x 50 x 256 x 256; computes nothing but shapes."""
    network = build_on_meta(name)
    return Cost(count_parameters(network), count_flop(network))


def count_flop(network: nn.Module, size: tuple[int, int, int] = INPUT_SIZE) -> int:
    """Floating-point operations of a forward pass; size (d, h, w). What is counted: see `flop_by_module`."""
    return flop_by_module(network, size)[""]


def flop_by_module(network: nn.Module, size: tuple[int, int, int] = INPUT_SIZE) -> dict[str, int]:
    """Floating-point operations of a forward pass in evaluation mode, by module as in ``named_modules``, "" for all.

    network: on the meta device, one input channel. size: (d, h, w). A multiplication with its addition counts as 2.
    Counted are convolutions (also transposed, also the kernel's part that hangs over the border) and matrix
    products, attention's among them. Not counted: biases, normalisation, activations, pooling and interpolation.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.empty(1, 1, *size, device="meta"))
    root = type(network).__name__
    counts = {name.removeprefix(root).removeprefix("."): sum(by_operation.values())
              for name, by_operation in counter.get_flop_counts().items() if name != "Global"}
    return {"": counter.get_total_flops()} | counts


class PeakMemory:
    """Context that measures the most memory held inside it: ``mb``, in 10^6 bytes.

    On a GPU what torch allocated there. On the CPU this process's resident memory, Python and libraries included, read
    every few milliseconds: the system's own peak is that of the process's whole life, so a network would be
    given the memory of the one before it. children: with that of all processes it has started; what they share
    counts in each.
    """

    def __init__(self, device: torch.device, children: bool = False):
        self.device, self.children = device, children
        self.mb = 0.0

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._done = threading.Event()
            self._thread = threading.Thread(target=self._poll, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        if self.device.type == "cuda":
            self.mb = round(torch.cuda.max_memory_allocated(self.device) / 1e6, 1)
        else:
            self._done.set()
            self._thread.join()

    def _poll(self) -> None:
        process, waiting = psutil.Process(), True
        while waiting:
            waiting = not self._done.wait(POLL_SECONDS)
            held = process.memory_info().rss
            for child in process.children(recursive=True) if self.children else ():
                with contextlib.suppress(psutil.NoSuchProcess):             # it has just ended
                    held += child.memory_info().rss
            self.mb = max(self.mb, round(held / 1e6, 1))
