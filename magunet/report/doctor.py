"""What the machine has, and what each profile would take on it."""

import pandas as pd
import psutil
import torch

from magunet import profiles, project, provenance
from magunet.bench import contests
from magunet.bench.contest import seconds_of
from magunet.bench.passes import NETWORK, floor
from magunet.data.cohort import split_by_patient
from magunet.errors import InputError
from magunet.learn.device import choose_precision
from magunet.learn.memory import OWN_BYTES, free_bytes, needed, prediction_bytes
from magunet.profiles import Settings
from magunet.report.tables import study_rows, trained_as

PROBE = {"cpu": "cpu", "cuda": "gpu"}
"""The profile whose training step is measured; the others' are reckoned from it."""
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


def time_table(device: torch.device) -> pd.DataFrame:
    """Hours that training MAG-UNet takes in each profile, one and all seeds of all networks of Tables 1 to 4.

    A training step of one profile is measured, in seconds; the others take as much more as their operations would take at
    the speed of this machine's products and copies. Most networks are quicker than MAG-UNet, so all of them take less than
    the table says, one after the other on this device. A profile whose own cohort is not there has no row.
    """
    with contests.training_step(PROBE[device.type]) as contest:
        contest.ours()
        slower = min(seconds_of(contest.ours) for _ in range(2)) / contest.floor
    networks = len({trained_as(row.network) for table in (1, 2, 3, 4) for row in study_rows(table, ())})
    rows = {}
    for profile in profile_names():
        settings = profiles.load(profile)
        step = slower * floor(settings.width_divisor, (settings.depth, settings.size, settings.size), training=True)
        try:
            train, held_out = (len(cases) for cases in both_sides(settings))
        except InputError:
            continue
        hours = step * settings.epochs * (train * settings.samples_per_case + held_out * VALIDATION_STEPS) / 3600
        count = networks * len(settings.seeds)
        rows[profile] = {"steps": settings.epochs * train * settings.samples_per_case, "seconds a step": float(f"{step:.2g}"),
                         "one training, h": float(f"{hours:.2g}"), "trainings": count,
                         "all of them, h, at most": float(f"{count * hours:.2g}")}
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
