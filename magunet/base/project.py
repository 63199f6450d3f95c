"""Where things lie: the folders of the compendium."""

import os
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


def typed(path: Path) -> Path:
    """Absolute, and as the user typed it: unlike `Path.resolve`, it never names what a link leads to."""
    here = os.environ.get("PWD", "")                        # where the shell went, perhaps along a link
    return Path(here if os.path.isdir(here) and os.path.samefile(here, ".") else os.getcwd(), path)


def typed_name(path: Path) -> str:
    """Its last part, also of ``.`` and ``..``."""
    return os.path.basename(os.path.normpath(typed(path)))


def data() -> Path:
    """Cohorts, prepared volumes and downloads."""
    return root() / "data"


def runs() -> Path:
    """Trained networks and executed notebooks."""
    return root() / "runs"
