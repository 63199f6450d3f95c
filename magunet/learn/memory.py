"""What would fit where memory does not suffice for training."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from magunet.data.prepare import Prepared
from magunet.errors import is_out_of_memory
from magunet.learn import train
from magunet.profiles import SMALLEST_SIDE, Settings


def smaller_windows(settings: Settings) -> Iterator[Settings]:
    """The settings with size and depth halved in turns, down to the smallest that are allowed."""
    while max(settings.size, settings.depth) > SMALLEST_SIDE:
        for name in ("size", "depth"):
            halved = replace(settings, **{name: max(SMALLEST_SIDE, getattr(settings, name) // 2)})
            if halved != settings:
                settings = halved
                yield settings


def what_fits(network: str, settings: Settings, device: torch.device, precision: torch.dtype) -> str:
    """One line: the largest windows, halved in turns, with which a training step fits; found by trying. Seeds torch."""
    tried = f"training {network} on windows of {settings.depth} x {settings.size} x {settings.size} voxels does not fit"
    for smaller in smaller_windows(replace(settings, samples_per_case=1)):
        shape = smaller.depth, smaller.size, smaller.size
        case = Prepared(np.zeros(shape, np.float32), np.zeros(shape, np.uint8), (1.0, 1.0, 1.0))
        try:
            train.train_epoch(train.new_state(network, smaller, 0, 1, device), {"trial": case}, smaller, device, precision)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return f"{tried}; depth {smaller.depth} and size {smaller.size} would"
    return f"{tried}, nor do smaller ones; raise width_divisor"
