"""How time and memory grow with volume, cases and workers."""

import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from compendium.bench import contests, others
from compendium.bench.contest import PeakMemory, megabytes_of, seconds_of
from compendium.bench.passes import NETWORK, default_precision, pass_through, two_steps
from compendium.fits import OWN_BYTES, counting, prediction_bytes, training_bytes
from magunet import itk
from magunet.base import profiles
from magunet.base.profiles import Settings
from magunet.blocks import PAM
from magunet.fast import accelerate, evaluate_by_input
from magunet.prepare import prepare
from magunet.studies import build
from magunet.volume import Volume
from sijphantom.cohort import run_all
from sijphantom.phantom import make_phantom

REPEATS = 3


def exponent(x: Iterable[float], y: Iterable[float]) -> float:
    """The power p of y ~ x^p, by least squares on logarithms: 1 is linear."""
    return float(np.polyfit(np.log(list(x)), np.log(list(y)), 1)[0])


def fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of REPEATS calls: what disturbs only ever adds."""
    return min(seconds_of(work) for _ in range(REPEATS))


def volume_seconds(matrices: Iterable[int], divisor: int) -> pd.DataFrame:
    """Seconds of each kind of work on one scan with cubic voxels, by its side in voxels; one row a side.

    The network is MAG-UNet with its widths divided, in the default precision.
    """
    rows, settings = {}, profiles.load("paper")
    network = accelerate(build(NETWORK, divisor)).to(memory_format=torch.channels_last_3d)
    evaluate_by_input(network)
    for side in matrices:
        made = make_phantom(0, matrix=side, slices=(side, side))
        scan, mask = Volume(made.image, made.spacing), Volume(made.mask, made.spacing)
        moved = np.roll(made.mask, 1, 2)
        window = torch.rand(1, 1, side, side, side).contiguous(memory_format=torch.channels_last_3d)
        rows[side**3] = {
            "forward pass": fastest(partial(pass_through, network, window, default_precision())),
            "preparation": fastest(partial(prepare, scan, mask, settings)),
            "metrics": fastest(partial(contests.our_metrics, moved, made.mask, made.spacing)),
            "phantom": fastest(partial(make_phantom, 0, matrix=side, slices=(side, side)))}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("voxels")


def scan_megabytes(sides: Iterable[int]) -> pd.Series:
    """MB of a fresh process that prepares a scan with cubic voxels, by its voxels, above one that prepares next to nothing."""
    least = megabytes_of(partial(_prepare, 32))
    found = {side**3: megabytes_of(partial(_prepare, side)) - least for side in sides}
    return pd.Series(found, name="preparation").rename_axis("voxels")


def _prepare(side: int) -> None:
    """Of a scan of side^3 voxels of 1 mm, with a target in its middle."""
    scan = Volume(np.full((side,) * 3, -1000, np.int16), (1.0, 1.0, 1.0))
    mask = scan.with_array(np.zeros(scan.array.shape, np.uint8))
    mask.array[side // 2 - 8:side // 2 + 8, side // 4:-(side // 4), side // 4:-(side // 4)] = 1
    prepare(scan, mask, profiles.load("paper"))


def attention_megabytes(positions: Iterable[tuple[int, int, int]], channels: int = 64) -> pd.DataFrame:
    """MB of tensors in position attention by positions (d, h, w): ours, and with the naive matrix. Counted, not computed."""
    rows = {}
    for grid in positions:
        found = {}
        for name, attend in (("PAM", lambda pam, x: pam(x)), ("naive matrix", others.naive_position_attention)):
            with torch.inference_mode(), counting() as counted:
                attend(PAM(channels), torch.zeros(1, channels, *grid))
            found[name] = counted.peak / 1e6
        rows[int(np.prod(grid))] = found
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("positions")


def by_cases(counts: Iterable[int], settings: Settings) -> pd.DataFrame:
    """Seconds of an epoch of MAG-UNet, and MB of a fresh process that trains one, by the number of cases."""
    rows = {}
    with tempfile.TemporaryDirectory(prefix="magunet-bench-") as folder:
        for count in counts:
            contest = contests.epoch_of(settings, count, Path(folder))
            rows[count] = {"seconds": fastest(contest.ours), "MB": megabytes_of(partial(_epoch, settings, count, folder))}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("cases")


def _epoch(settings: Settings, count: int, folder: str) -> None:
    contests.epoch_of(settings, count, Path(folder)).ours()


def by_processes(workers: Iterable[int], phantoms: int, matrix: int) -> pd.DataFrame:
    """Seconds that making a number of phantoms takes, and MB of all its processes together, by processes at work."""
    rows, jobs = {}, [(seed, matrix) for seed in range(phantoms)]
    for count in workers:
        work = partial(run_all, _phantom, jobs, count, lambda items, what: iter(items), "phantoms")
        seconds = seconds_of(work)
        with PeakMemory(torch.device("cpu"), children=True) as peak:           # which takes time itself
            work()
        rows[count] = {"seconds": seconds, "MB": peak.mb}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("processes")


def _phantom(seed: int, matrix: int) -> None:
    make_phantom(seed, matrix=matrix, slices=(matrix // 2, matrix // 2))


def network_megabytes(sides: Iterable[int], divisor: int) -> pd.DataFrame:
    """MB of tensors of MAG-UNet by the voxels of a cubic window: a training step, one that computes maps twice, a prediction.

    Counted, not computed.
    """
    rows, precision = {}, default_precision()
    for side in sides:
        size = (side, side, side)
        rows[side**3] = {"training": training_bytes(NETWORK, divisor, size, precision) / 1e6,
                         "training, recomputing": training_bytes(NETWORK, divisor, size, precision, recompute=True) / 1e6,
                         "prediction": prediction_bytes(NETWORK, divisor, size, precision) / 1e6}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("voxels")


def one_prediction(size: tuple[int, int, int], divisor: int, precision: torch.dtype) -> None:
    """A window's logits by MAG-UNet, in a process that has loaded what ``magunet predict`` reads and writes files with."""
    import compendium.view.export  # noqa: F401

    itk.load()
    network = accelerate(build(NETWORK, divisor)).to(memory_format=torch.channels_last_3d)
    evaluate_by_input(network)
    pass_through(network, torch.rand(1, 1, *size).contiguous(memory_format=torch.channels_last_3d), precision)


def memory_check(size: tuple[int, int, int], divisor: int) -> pd.DataFrame:
    """MB of MAG-UNet on the CPU, counted beforehand and measured in a fresh process each.

    size: of the window (d, h, w); divisor: of the widths.
    """
    precision = default_precision()
    ways = {"training": (training_bytes(NETWORK, divisor, size, precision), partial(two_steps, size, divisor, precision)),
            "training, recomputing": (training_bytes(NETWORK, divisor, size, precision, True),
                                      partial(two_steps, size, divisor, precision, True)),
            "prediction": (prediction_bytes(NETWORK, divisor, size, precision),
                           partial(one_prediction, size, divisor, precision))}
    rows = {}
    for name, (tensors, work) in ways.items():
        counted, measured = (tensors + OWN_BYTES["cpu"]) / 1e6, megabytes_of(work)
        rows[name] = {"counted": counted, "measured": measured, "counted / measured": counted / measured}
    return pd.DataFrame.from_dict(rows, orient="index")
