"""What the machine has, and what each profile would take on it."""

from collections.abc import Callable

import pandas as pd
import psutil
import torch

from compendium.bench import contests
from compendium.bench.ceilings import Ceilings, floor_seconds
from compendium.bench.contest import seconds_of
from compendium.bench.passes import NETWORK, floor, operations
from compendium.grid import grid
from compendium.memory import OWN_BYTES, free_bytes, needed, prediction_bytes
from magunet.base import profiles, project, provenance
from magunet.base.device import choose_precision
from magunet.base.errors import InputError
from magunet.base.profiles import Settings
from magunet.base.progress import track
from magunet.cohort import split_by_patient

PROBES = {"cpu": ("cpu",), "cuda": ("gpu", "paper")}
"""Profiles whose training step is measured; the others' are reckoned from the first."""
REFERENCE_PROFILE = "gpu"
"""Whose networks' operations tell how long they take beside MAG-UNet's."""
VALIDATION_STEPS = 2 / 3
"""What a validation case takes of a training step's time: two windows or so, a third of the operations each."""


def machine(device: torch.device) -> str:
    """Device, memory and arithmetic in a line."""
    precision = str(choose_precision("auto", device)).removeprefix("torch.")
    total = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else psutil.virtual_memory().total
    return (f"{provenance.device_name(device)}, {total / 1e9:.1f} GB, of which {free_bytes(device) / 1e9:.1f} free; {precision}; "
            f"torch {torch.__version__} with {torch.get_num_threads()} threads")


def profile_names() -> list[str]:
    """Of all files of settings."""
    return sorted(path.stem for path in (project.root() / project.MARKER).glob("*.yaml"))


def memory_table(device: torch.device) -> pd.DataFrame:
    """GB that MAG-UNet takes in each profile: training, training with maps computed twice, a window's prediction.

    Counted from shapes; ``fits`` says which way of training does on this device.
    """
    free, rows = free_bytes(device), {}
    for profile in profile_names():
        settings = profiles.load(profile)
        size, precision = (settings.depth, settings.size, settings.size), choose_precision(settings.precision, device)
        plain, lean = (needed(NETWORK, settings, device, recompute) for recompute in (False, True))
        window = prediction_bytes(NETWORK, settings.width_divisor, size, precision) + OWN_BYTES[device.type]
        rows[profile] = {"window": "x".join(map(str, size)), "widths / ": settings.width_divisor,
                         "training, GB": round(plain / 1e9, 1), "recomputing, GB": round(lean / 1e9, 1),
                         "prediction, GB": round(window / 1e9, 1),
                         "fits": "yes" if plain < free else "recomputing" if lean < free else "no"}
    return pd.DataFrame.from_dict(rows, orient="index")


def measured_step(device: torch.device) -> Callable[[Settings], float]:
    """Profile -> seconds of a training step of MAG-UNet on this machine.

    Steps of the profiles in PROBES are measured; another's takes as much longer than the first of them as its operations would
    at the speed of this machine's products and copies.
    """
    slower = {}
    for profile in PROBES[device.type]:
        with contests.training_step(profile) as contest:
            contest.ours()
            slower[profile] = min(seconds_of(contest.ours) for _ in range(2)) / contest.floor

    def step(settings: Settings) -> float:
        least = floor(settings.width_divisor, (settings.depth, settings.size, settings.size), training=True)
        return least * slower.get(settings.profile, slower[PROBES[device.type][0]])
    return step


def least_step(most: Ceilings) -> Callable[[Settings], float]:
    """Profile -> seconds that a training step of MAG-UNet in bfloat16 takes at least on a machine with these ceilings."""
    def step(settings: Settings) -> float:
        size = settings.depth, settings.size, settings.size
        return floor_seconds(operations(NETWORK, settings.width_divisor, size, True, torch.bfloat16), most)
    return step


def time_table(step: Callable[[Settings], float], most: Ceilings) -> pd.DataFrame:
    """Hours of each profile, one training of MAG-UNet and all seeds of all its networks, one after the other.

    step: profile -> seconds of a training step of MAG-UNet. Other networks take as much of it as their operations of a step
    of the profile gpu, at these ceilings, take of MAG-UNet's. A profile whose own cohort is not there has no row.
    """
    reference, rows = profiles.load(REFERENCE_PROFILE), {}
    size = reference.depth, reference.size, reference.size
    work = {name: floor_seconds(operations(name, reference.width_divisor, size, True, torch.bfloat16), most)
            for name in track(grid(REFERENCE_PROFILE, beyond=True), "networks counted", lines=False)}
    for profile in profile_names():
        settings = profiles.load(profile)
        try:
            train, held_out = (len(cases) for cases in both_sides(settings))
        except InputError:
            continue
        seconds, networks = step(settings), grid(profile)
        hours = seconds * settings.epochs * (train * settings.samples_per_case + held_out * VALIDATION_STEPS) / 3600
        whole = hours * len(settings.seeds) * sum(work[name] for name in networks) / work[NETWORK]
        rows[profile] = {"steps": settings.epochs * train * settings.samples_per_case,
                         "seconds a step": float(f"{seconds:.2g}"), "one training, h": float(f"{hours:.2g}"),
                         "trainings": len(networks) * len(settings.seeds), "all of them, h": float(f"{whole:.2g}")}
    return pd.DataFrame.from_dict(rows, orient="index")


def both_sides(settings: Settings) -> tuple[list[str], list[str]]:
    """Cases to learn from and to validate on; of a profile's own cohort as if each scan were of another patient.

    Raises InputError where that cohort has fewer than two scans.
    """
    if settings.cohort is None:
        cases = map(str, range(settings.cases))
    else:
        cases = (path.name for path in (project.root() / settings.cohort / "imagesTr").glob("*_0000.*"))
    return split_by_patient({case: case for case in cases})
