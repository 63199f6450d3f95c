"""Grouped 3^3 convolutions on the CPU: time of forward and backward in bfloat16, as a multiple of float32's.

    python benchmarks/grouped_convolution.py

One thread, channels last, the maps that LGAG sees at several widths and inputs; the two precisions take turns in one
process, medians of 5. Above 1, float32 is faster: why `magunet.nets.blocks.Conv3d` computes in float32 there.
"""

import math
import statistics
import time

import pandas as pd
import torch
from torch import nn

MAPS = ((4, 32, 64, 64), (8, 48, 96, 96), (16, 24, 48, 48), (32, 16, 64, 64), (64, 16, 64, 64), (256, 6, 32, 32))
"""Channels and size (d, h, w)."""


def seconds(layer: nn.Conv3d, x: torch.Tensor) -> float:
    """Of one forward and backward pass."""
    start = time.perf_counter()
    y = layer(x)
    y.backward(torch.ones_like(y))
    return time.perf_counter() - start


def main() -> None:
    """Print one line a map."""
    torch.set_num_threads(1)
    rows = []
    for channels, *size in MAPS:
        groups = math.gcd(channels, 16)
        layers, inputs, times = {}, {}, {torch.bfloat16: [], torch.float32: []}
        for precision in times:
            layers[precision] = nn.Conv3d(channels, channels, 3, padding=1, groups=groups).to(
                precision, memory_format=torch.channels_last_3d)
            inputs[precision] = torch.randn(1, channels, *size, dtype=precision).contiguous(
                memory_format=torch.channels_last_3d).requires_grad_()
            seconds(layers[precision], inputs[precision])
        for _ in range(5):
            for precision, found in times.items():
                found.append(seconds(layers[precision], inputs[precision]))
        half, full = (statistics.median(times[p]) for p in (torch.bfloat16, torch.float32))
        rows.append({"channels": channels, "groups": groups, "size": " x ".join(map(str, size)),
                     "float32, ms": 1000 * full, "bfloat16 / float32": half / full})
    print(pd.DataFrame(rows).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
