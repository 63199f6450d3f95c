"""What the machine has, which profiles fit into its memory, and how long they take."""

import time

import numpy as np
import pandas as pd
import psutil
import torch

from compendium.fits import count_flop, free_bytes, process_bytes
from compendium.grid import REFERENCE, trainings
from magunet import train
from magunet.base import profiles, project, provenance
from magunet.base.device import choose_precision
from magunet.base.profiles import Settings
from magunet.cohort import split_by_patient
from magunet.prepare import Prepared
from magunet.studies import build_on_meta


def machine(device: torch.device) -> str:
    """Device, memory and arithmetic in a line."""
    precision = str(choose_precision("auto", device)).removeprefix("torch.")
    total = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else psutil.virtual_memory().total
    return (f"{provenance.device_name(device)}, {total / 1e9:.1f} GB, of which {free_bytes(device) / 1e9:.1f}"
            f" free; {precision}; torch {torch.__version__} on {torch.get_num_threads()} thread(s)")


def step_seconds(settings: Settings, device: torch.device) -> float:
    """Seconds of a training step of MAG-UNet here: the faster of two, after one to warm up. Seeds torch."""
    precision = choose_precision(settings.precision, device)
    shape, seconds = settings.shape, []
    case = Prepared(np.zeros(shape, np.float32), np.ones(shape, np.uint8), (1.0, 1.0, 1.0))
    state = train.new_state(REFERENCE, settings, 0, 10, device)
    for _ in range(3):
        start = time.monotonic()
        train.train_step(state, case, settings, device, precision)
        float(state.losses[-1])                             # waits for a GPU
        seconds.append(time.monotonic() - start)
    return min(seconds[1:])


def step_flop(settings: Settings) -> int:
    """Operations of a forward pass of MAG-UNet on a window."""
    network = build_on_meta(REFERENCE, settings.width_divisor)
    return count_flop(network, settings.shape)


def profile_table(device: torch.device, timed: Settings | None = None) -> pd.DataFrame:
    """What MAG-UNet takes in each profile: GB, counted from shapes; which way of training fits; hours.

    timed: the settings whose step is measured; other profiles' steps take as much longer as they have more
    operations. None, or too few scans in a cohort of one's own, leaves the hours out.
    """
    free, rows = free_bytes(device), {}
    flop_seconds = step_seconds(timed, device) / step_flop(timed) if timed else None
    for path in sorted((project.root() / project.MARKER).glob("*.yaml")):
        settings = profiles.load(path.stem)
        sizes = {way: process_bytes(way, REFERENCE, settings, device)
                 for way in ("training", "recomputing", "prediction")}
        way = "yes" if sizes["training"] < free else "recomputing" if sizes["recomputing"] < free else "no"
        row = {"window": "x".join(map(str, settings.shape)), "widths / ": settings.width_divisor, "fits": way,
               **{f"{way}, GB": size / 1e9 for way, size in sizes.items()}}
        images = project.root() / (settings.cohort or "") / "imagesTr"
        scans = len(list(images.glob("*_0000.*"))) if settings.cohort else 2
        if timed and scans > 1:                             # each counts as a patient
            cases = (len(split_by_patient({str(n): str(n) for n in range(scans)})[0]) if settings.cohort
                     else settings.cases)
            seconds, steps = flop_seconds * step_flop(settings), cases * settings.samples_per_case
            steps_and_curve = steps + train.CURVE_CASES / 3                         # which goes forward only
            hours = seconds * settings.epochs * steps_and_curve / 3600
            row |= {"steps": settings.epochs * steps, "seconds a step": seconds, "one training, h": hours,
                    "trainings": len(trainings(settings))}
        rows[settings.profile] = row
    return pd.DataFrame.from_dict(rows, orient="index")
