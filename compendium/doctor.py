"""What the machine has, which profiles fit into its memory, and how long they take."""

import time

import numpy as np
import pandas as pd
import psutil
import torch

from compendium.fits import OWN_BYTES, count_flop, free_bytes, needed, prediction_bytes
from compendium.grid import grid
from magunet import train
from magunet.base import profiles, project, provenance
from magunet.base.device import choose_precision
from magunet.base.errors import InputError
from magunet.base.profiles import Settings
from magunet.cohort import split_by_patient
from magunet.prepare import Prepared
from magunet.studies import build_on_meta

NETWORK = "MAG-UNet"
"""The network whose memory and hours are reported."""
TIMED_PROFILE = {"cpu": "cpu", "cuda": "gpu"}
"""The profile whose training step is measured; the others' follow from their operations."""
VALIDATION_STEPS = 2 / 3
"""What a validation case takes of a training step's time: two windows, a third of the operations each."""


def machine(device: torch.device) -> str:
    """Device, memory and arithmetic in a line."""
    precision = str(choose_precision("auto", device)).removeprefix("torch.")
    total = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else psutil.virtual_memory().total
    memory = f"{total / 1e9:.1f} GB, of which {free_bytes(device) / 1e9:.1f} free"
    return (f"{provenance.device_name(device)}, {memory}; {precision}; torch {torch.__version__} with "
            f"{torch.get_num_threads()} threads")


def all_settings() -> list[Settings]:
    """The settings of all profiles."""
    return [profiles.load(path.stem) for path in sorted((project.root() / project.MARKER).glob("*.yaml"))]


def memory_table(device: torch.device) -> pd.DataFrame:
    """GB that MAG-UNet takes in each profile: training, training with maps computed twice, prediction.

    Counted from shapes; ``fits`` says which way of training does on this device.
    """
    free, rows = free_bytes(device), {}
    for settings in all_settings():
        size = settings.depth, settings.size, settings.size
        precision = choose_precision(settings.precision, device)
        usual, lean = (needed(NETWORK, settings, device, recompute) for recompute in (False, True))
        window = prediction_bytes(NETWORK, settings.width_divisor, size, precision) + OWN_BYTES[device.type]
        rows[settings.profile] = {
            "window": "x".join(map(str, size)), "widths / ": settings.width_divisor,
            "training, GB": round(usual / 1e9, 1), "recomputing, GB": round(lean / 1e9, 1),
            "prediction, GB": round(window / 1e9, 1),
            "fits": "yes" if usual < free else "recomputing" if lean < free else "no"}
    return pd.DataFrame.from_dict(rows, orient="index")


def step_seconds(settings: Settings, device: torch.device) -> float:
    """Seconds of a training step of MAG-UNet here: the faster of two, after one to warm up. Seeds torch."""
    precision = choose_precision(settings.precision, device)
    shape, seconds = (settings.depth, settings.size, settings.size), []
    case = Prepared(np.zeros(shape, np.float32), np.ones(shape, np.uint8), (1.0, 1.0, 1.0))
    state = train.new_state(NETWORK, settings, 0, 10, device)
    for _ in range(3):
        start = time.monotonic()
        train.train_step(state, case, settings, device, precision)
        float(state.losses[-1])                             # waits for a GPU
        seconds.append(time.monotonic() - start)
    return min(seconds[1:])


def step_flop(settings: Settings) -> int:
    """Operations of a forward pass of MAG-UNet on a window."""
    network = build_on_meta(NETWORK, settings.width_divisor)
    return count_flop(network, (settings.depth, settings.size, settings.size))


def time_table(device: torch.device) -> pd.DataFrame:
    """Hours of one training of MAG-UNet in each profile, and how many trainings its networks and seeds make.

    One profile's step is measured, the others take as much longer as they have more operations. A profile
    whose own cohort is not there has no row.
    """
    timed, rows = profiles.load(TIMED_PROFILE[device.type]), {}
    seconds_per_flop = step_seconds(timed, device) / step_flop(timed)
    for settings in all_settings():
        try:
            cases, held_out = map(len, both_sides(settings))
        except InputError:
            continue
        seconds, steps = seconds_per_flop * step_flop(settings), cases * settings.samples_per_case
        hours = seconds * settings.epochs * (steps + held_out * VALIDATION_STEPS) / 3600
        rows[settings.profile] = {
            "steps": settings.epochs * steps, "seconds a step": float(f"{seconds:.2g}"),
            "one training, h": float(f"{hours:.2g}"),
            "trainings": len(grid(settings.profile)) * len(settings.seeds)}
    return pd.DataFrame.from_dict(rows, orient="index")


def both_sides(settings: Settings) -> tuple[list[str], list[str]]:
    """Cases to learn from and to validate on; in a cohort of one's own each scan counts as a patient.

    Raises InputError where that cohort has fewer than two scans.
    """
    if settings.cohort is None:
        cases = map(str, range(settings.cases))
    else:
        cases = (path.name for path in (project.root() / settings.cohort / "imagesTr").glob("*_0000.*"))
    return split_by_patient({case: case for case in cases})
