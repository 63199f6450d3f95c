"""Where things lie: the folders of the compendium, found from anywhere inside it."""

from pathlib import Path

from magunet.base.errors import InputError

MARKER = "papermill_params"


def root() -> Path:
    """The compendium's folder: the first one with ``papermill_params`` above the working directory, or
    the one that magunet is installed from. Raises InputError when there is none."""
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if (folder / MARKER).is_dir():
            return folder
    raise InputError(f"{here}: not inside a magunet compendium (no {MARKER} folder here or above); "
                     "change to the folder you cloned")


def data() -> Path:
    """Cohorts, prepared volumes and downloads."""
    return root() / "data"


def runs() -> Path:
    """Trained networks, executed notebooks, predictions."""
    return root() / "runs"


def figures(profile: str) -> Path:
    """Figures of a profile."""
    return root() / "figures" / profile
