"""What each verb of the ``magunet`` command does with its arguments.

Imports stand in the functions, so that a verb loads only what it needs.
"""

import argparse
import os
from pathlib import Path

from magunet.base.errors import InputError


def settings_of(arguments: argparse.Namespace):
    from magunet.base import profiles

    return profiles.load(arguments.profile)


def export_folder(out: str | Path) -> Path:
    """A folder to write into. Raises InputError when it is a file, or may not be written to."""
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a folder to write into")
    there = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{there}: nothing can be written there; give another folder")
    return out
