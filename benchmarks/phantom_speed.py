"""How long phantoms take on one core.

    python benchmarks/phantom_speed.py [--repeats 3]

Prints the median and the fastest of the repeats, other seeds each time, after one small phantom to warm up.
"""

import argparse
import os
import resource
import statistics
import sys
import time

os.environ |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}

import torch

from sijphantom.phantom import make_phantom

SIZES = {"50 x 256 x 256": (256, 50), "150 x 512 x 512": (512, 150)}
"""Name -> matrix and slices."""


def seconds(matrix: int, slices: int, seed: int) -> float:
    """Wall-clock seconds of one phantom."""
    began = time.perf_counter()
    make_phantom(seed, matrix=matrix, slices=(slices, slices))
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    seconds(64, 40, 0)
    for name, (matrix, slices) in SIZES.items():
        times = [seconds(matrix, slices, seed) for seed in range(repeats)]
        print(f"{name}: median {statistics.median(times):.2f} s, fastest {min(times):.2f} s of {repeats}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    print(f"peak memory {peak:.1f} GiB, one thread")


if __name__ == "__main__":
    main()
