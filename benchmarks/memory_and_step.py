"""What magunet.fast is for: seconds a training step and peak memory of a prediction, with and without it.

    python benchmarks/memory_and_step.py [NETWORK ...] [--divisor 4] [--size 48 96 96]

One line a network and way, each in a fresh process; bfloat16 where the processor has it. Memory is the peak
of the process above what it had before the pass.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))       # the project's root

import torch
from torch import Tensor, nn

from benchmarks.speed.contest import alone, peak_megabytes, seconds_of
from benchmarks.speed.work import Size, default_precision, pass_through, step
from magunet.base.errors import InputError
from magunet.fast import accelerate, evaluate_by_input
from magunet.studies import build, checked

REPEATS = 5
"""Training steps that are timed, after one to warm up; the fastest counts."""


def network_and_image(name: str, divisor: int, size: Size, fast: bool) -> tuple[nn.Module, Tensor]:
    """The network, with `magunet.fast` or in plain torch, and a random window (1, 1, d, h, w)."""
    torch.manual_seed(0)
    network = build(name, divisor)
    network = accelerate(network).to(memory_format=torch.channels_last_3d) if fast else network
    return network, torch.rand(1, 1, *size).contiguous(memory_format=torch.channels_last_3d)


def step_seconds(name: str, divisor: int, size: Size, fast: bool) -> float:
    """Seconds of the fastest training step."""
    network, image = network_and_image(name, divisor, size, fast)
    optimizer = torch.optim.Adam(network.train().parameters())
    return min([seconds_of(lambda: step(network, optimizer, image, default_precision()))
                for _ in range(REPEATS + 1)][1:])


def prediction_megabytes(name: str, divisor: int, size: Size, fast: bool) -> float:
    """Peak memory of a pass, above what the process had before."""
    network, image = network_and_image(name, divisor, size, fast)
    evaluate_by_input(network)
    before = peak_megabytes()
    pass_through(network, image, default_precision())
    return peak_megabytes() - before


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", nargs="*", help="default: MAG-UNet and 3D U-Net")
    parser.add_argument("--divisor", type=int, default=4, help="of the widths")
    parser.add_argument("--size", type=int, nargs=3, default=(48, 96, 96), help="voxels of the window, d h w")
    arguments = parser.parse_args()
    for name in [checked(name, arguments.divisor) for name in arguments.network] or ["MAG-UNet", "3D U-Net"]:
        for fast in (True, False):
            options = name, arguments.divisor, tuple(arguments.size), fast
            print(f"{name:15s} {'fast' if fast else 'plain'}: {alone(step_seconds, *options):.3f} s a step, "
                  f"{alone(prediction_megabytes, *options):.0f} MB a prediction", flush=True)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"memory_and_step: {error}")
