"""Trainings as the command line and the notebooks start them: with a forecast of the memory they take."""

import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from compendium.fits import choose_recompute
from magunet.base.device import choose_device
from magunet.base.errors import InputError, is_out_of_memory
from magunet.base.profiles import Settings
from magunet.cohort import Cohort
from magunet.runs import fit


def fit_with_room(network: str, settings: Settings, seed: int, cohort: Cohort, recompute: bool | None = None,
                  plain: bool = False) -> Path:
    """`magunet.runs.fit`, in the way that fits into memory.

    recompute: whether MAG-UNet computes maps a second time for the gradient instead of keeping them, which
    changes no weight; None does where memory demands it, and says so.
    """
    if recompute is None:
        recompute = choose_recompute(network, settings, choose_device())
    return fit(network, settings, seed, cohort, recompute=recompute, plain=plain)


def fit_all(networks: Iterable[str], settings: Settings, cohort: Cohort) -> dict[str, list[Path]]:
    """Finished runs of each network, one a seed; a network that fails is named on stderr and left out.

    Raises InputError when data or settings are wrong, which no other network would change.
    """
    runs = {}
    for network in networks:
        try:
            runs[network] = [fit_with_room(network, settings, seed, cohort) for seed in settings.seeds]
        except InputError:
            raise
        except Exception as error:                      # the other networks shall be trained all the same
            if not is_out_of_memory(error):
                traceback.print_exception(error)
            print(f"failed: {network}: {error}", file=sys.stderr)
    return runs
