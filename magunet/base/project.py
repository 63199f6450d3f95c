"""Where things lie: the folders of the compendium."""

from pathlib import Path

from magunet.base.errors import InputError

MARKER = "papermill_params"
"""The folder by which the compendium is known."""


def root() -> Path:
    """The first folder upwards that has the marker, else magunet's own; InputError when there is none."""
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
    """Trained networks and executed notebooks."""
    return root() / "runs"


def figures(profile: str) -> Path:
    """Figures of a profile."""
    return root() / "figures" / profile
