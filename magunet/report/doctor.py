"""What the machine has, and what each profile would take on it."""

import pandas as pd
import psutil
import torch

from magunet import profiles, project, provenance
from magunet.learn.device import choose_precision
from magunet.learn.memory import OWN_BYTES, free_bytes, needed, prediction_bytes

NETWORK = "MAG-UNet"


def machine(device: torch.device) -> str:
    """Device, memory and arithmetic in a line."""
    precision = str(choose_precision("auto", device)).removeprefix("torch.")
    total = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else psutil.virtual_memory().total
    return (f"{provenance.device_name(device)}, {total / 1e9:.1f} GB, of which {free_bytes(device) / 1e9:.1f} free; {precision}; "
            f"torch {torch.__version__} with {torch.get_num_threads()} threads")


def memory_table(device: torch.device) -> pd.DataFrame:
    """GB that MAG-UNet takes in each profile: training, training with maps computed twice, a window's prediction.

    Counted from shapes; ``fits`` says which way of training does on this device.
    """
    free, rows = free_bytes(device), {}
    for profile in sorted(path.stem for path in (project.root() / project.MARKER).glob("*.yaml")):
        settings = profiles.load(profile)
        size, precision = (settings.depth, settings.size, settings.size), choose_precision(settings.precision, device)
        plain, lean = (needed(NETWORK, settings, device, recompute) for recompute in (False, True))
        window = prediction_bytes(NETWORK, settings.width_divisor, size, precision) + OWN_BYTES[device.type]
        rows[profile] = {"window": "x".join(map(str, size)), "widths / ": settings.width_divisor,
                         "training, GB": round(plain / 1e9, 1), "recomputing, GB": round(lean / 1e9, 1),
                         "prediction, GB": round(window / 1e9, 1),
                         "fits": "yes" if plain < free else "recomputing" if lean < free else "no"}
    return pd.DataFrame.from_dict(rows, orient="index")
