"""Grouped 3^3 convolutions on the CPU: time of forward and backward in bfloat16, as a multiple of float32's.

    python benchmarks/grouped_convolution.py

One thread, channels last, the maps that LGAG sees at several widths and inputs; three ways take turns in one
process, medians of 5: float32, bfloat16, and bfloat16 with narrow groups joined, as `magunet.fast.Conv3d`
does.
"""

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import pandas as pd
import torch
from torch import nn

from magunet.fast import merge_groups

MAPS = ((4, 32, 64, 64), (8, 48, 96, 96), (16, 24, 48, 48), (32, 16, 64, 64), (64, 16, 64, 64),
        (256, 6, 32, 32))
"""Channels and size (d, h, w)."""


def seconds(way: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> float:
    """Of one forward and backward pass."""
    start = time.perf_counter()
    y = way(x)
    y.backward(torch.ones_like(y))
    return time.perf_counter() - start


def main() -> None:
    """Print one line a map."""
    torch.set_num_threads(1)
    rows = []
    for channels, *size in MAPS:
        groups = math.gcd(channels, 16)
        layer = nn.Conv3d(channels, channels, 3, padding=1,
                          groups=groups).to(memory_format=torch.channels_last_3d)
        half = copy.deepcopy(layer).to(torch.bfloat16)
        ways = {"float32": layer, "bfloat16": half, "joined": partial(joined, half)}
        image = torch.randn(1, channels, *size).contiguous(memory_format=torch.channels_last_3d)
        inputs = {name: image.to(torch.float32 if name == "float32" else torch.bfloat16,
                                 copy=True).requires_grad_()
                  for name in ways}
        times = {name: [] for name in ways}
        for number in range(6):
            for name, way in ways.items():
                duration = seconds(way, inputs[name])
                times[name] += [duration] * (number > 0)
        medians = {name: statistics.median(values) for name, values in times.items()}
        rows.append({"channels": channels, "groups": groups, "size": " x ".join(map(str, size)),
                     "float32, ms": 1000 * medians["float32"],
                     "bfloat16 / float32": medians["bfloat16"] / medians["float32"],
                     "joined / float32": medians["joined"] / medians["float32"]})
    print(pd.DataFrame(rows).round(2).to_string(index=False))


def joined(layer: nn.Conv3d, x: torch.Tensor) -> torch.Tensor:
    """The convolution with its narrow groups joined."""
    weight, groups = merge_groups(layer.weight, layer.groups)
    return torch.nn.functional.conv3d(x, weight, layer.bias, padding=1, groups=groups)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
