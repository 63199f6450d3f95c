"""A training step of every network on this device: seconds, memory, and what bfloat16 changes of its answer.

    python benchmarks/network_steps.py [NETWORK ...] [--profile gpu]

On a GPU with cuDNN's search for the fastest algorithm (`torch.backends.cudnn.benchmark`) off and on; magunet
turns it on, and this shows whether it pays. Run it before a grid is started there: it also shows which
networks do not run at all.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))       # the project's root

import torch

from benchmarks.speed.contest import seconds_of
from benchmarks.speed.work import pass_through, step
from magunet.base import profiles
from magunet.base.device import choose_device, choose_precision
from magunet.base.errors import InputError
from magunet.base.profiles import Settings
from magunet.fast import accelerate, evaluate_by_input
from magunet.studies import NETWORKS, build, checked

REPEATS = 5
"""Steps that are timed, after a first one; the fastest counts."""


def step_report(name: str, settings: Settings, device: torch.device) -> str:
    """Milliseconds of the first and the fastest step, peak memory, and the relative error of logits in
    bfloat16."""
    precision = choose_precision(settings.precision, device)
    torch.manual_seed(0)
    network = accelerate(build(name, settings.width_divisor)).to(device, memory_format=torch.channels_last_3d)
    optimizer = torch.optim.Adam(network.train().parameters(), lr=settings.learning_rate)
    image = torch.rand(1, 1, *settings.shape, device=device)
    image, parts = image.contiguous(memory_format=torch.channels_last_3d), []
    for search in (False, True) if device.type == "cuda" else (False,):
        torch.backends.cudnn.benchmark = search
        first, *others = [1000 * seconds_of(lambda: step(network, optimizer, image, precision))
                          for _ in range(REPEATS + 1)]
        parts.append(f"{'search, ' if search else ''}first {first:.0f} ms, fastest {min(others):.1f} ms")
    if device.type == "cuda":
        parts.append(f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB")
        torch.cuda.reset_peak_memory_stats(device)
    evaluate_by_input(network)
    exact, rounded = (pass_through(network, image, kind).float() for kind in (torch.float32, precision))
    error = float((rounded - exact).norm() / exact.norm())
    return "; ".join([*parts, f"error of {str(precision).removeprefix('torch.')} {error:.3f}"])


def main() -> None:
    """One line a network; one that fails says why, and the others go on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", nargs="*", help="default: all")
    parser.add_argument("--profile", default="gpu")
    arguments = parser.parse_args()
    settings, device = profiles.load(arguments.profile), choose_device()
    names = [checked(name, settings.width_divisor) for name in arguments.network] or list(NETWORKS)
    print(f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, {device}")
    for name in names:
        try:
            print(f"{name:15s} {step_report(name, settings, device)}", flush=True)
        except RuntimeError as error:
            print(f"{name:15s} failed: {' '.join(str(error).split())[:200]}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"network_steps: {error}")
