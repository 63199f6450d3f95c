"""How fast runs were trained: seconds a step, memory, and the share of what the machine can do at most."""

import pandas as pd
import torch

from compendium.bench.ceilings import Ceilings, floor_seconds
from compendium.bench.passes import operations
from compendium.figures.curves import STEP
from magunet.base.profiles import Settings


def efficiency(runs: list[dict], curves: pd.DataFrame, settings: Settings, most: Ceilings) -> pd.DataFrame:
    """A row a run: epochs, seconds a step, peak memory in GB, and the share of the ceilings that its steps reached, in percent.

    runs: records as `magunet.runs.fit` writes them; curves: of `compendium.figures.curves.read_curves`; most: of the machine
    that trained. Seconds a step are the median over epochs, validation left out, NaN for runs that did not note them. The share
    is the time of the step's operations at the ceilings, each as fast as a large product and a large copy allow, over that.
    """
    rows = []
    for run in runs:
        log = curves[(curves["network"] == run["network"]) & (curves["seed"] == run["seed"])]
        size, precision = (settings.depth, settings.size, settings.size), getattr(torch, run["precision"])
        step = log[STEP].median()
        least = floor_seconds(operations(run["network"], settings.width_divisor, size, True, precision), most)
        rows.append({"network": run["network"], "seed": run["seed"], "epochs": f"{run['epochs']} of {settings.epochs}",
                     "hours": round(run["seconds"] / 3600, 2), "seconds a step": round(step, 4),
                     "of the ceiling, %": round(100 * least / step, 1), "peak memory, GB": round(run["peak_memory_mb"] / 1000, 2),
                     "device": run["device"], "precision": run["precision"]})
    return pd.DataFrame(rows)
