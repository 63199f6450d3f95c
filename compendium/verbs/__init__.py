"""Verbs of the ``magunet`` command, with their arguments; each imports only what it needs, when it runs."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from magunet.base.errors import require
from magunet.base.project import typed

Words = argparse.Namespace
"""The arguments that stood on the command line."""


class Verb(NamedTuple):
    """A verb's name, what it does, a line about it, an example of its use, and its arguments."""

    name: str
    call: Callable[[Words], None]
    text: str
    example: str
    arguments: tuple


def verb(text: str, example: str, *arguments: tuple) -> Callable[[Callable[[Words], None]], Verb]:
    """Makes the function below a verb of its name; example: without "magunet"; arguments: of `argument`."""
    return lambda function: Verb(function.__name__.rstrip("_"), function, text, example, arguments)


def argument(*names: str, **options: object) -> tuple:
    """An argument as `argparse.ArgumentParser.add_argument` takes it."""
    return names, options


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """The type of an argument that is a whole number from low to high."""
    def number(text: str) -> int:
        if not (text.isdecimal() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
        return int(text)
    return number


SEED = whole_number(0, 2**63 - 1)
"""The type of a seed that torch takes."""
PROFILE = argument("--profile", default="smoke", help="in papermill_params/, or a YAML file; default: smoke")
"""Whose settings to take."""
PLAIN = argument("--plain", action="store_true", help="without the fast layers, in float32; to compare with")
"""Whether to compute without `magunet.fast`."""
FORCE = argument("--force", action="store_true", help="take a CT although its values do not look like HU")
"""Whether to go on where `magunet.body.hu_problem` says no."""
ORIENTATION = argument(
    "--orientation", type=str.upper, metavar="RAS", help="of files that do not state it: the sides of the "
    "patient that columns, rows and slices are counted towards, as in nibabel")
"""What `magunet.volume.read_volume` may have to be told."""


def export_folder(out: Path) -> Path:
    """A folder to write into. Raises InputError when it is a file, or may not be written to."""
    nearest = next(folder for folder in (out, *typed(out).parents) if folder.exists())
    require(nearest.is_dir(), f"{nearest}: is a file; give a folder to write into")
    require(os.access(nearest, os.W_OK | os.X_OK),
            f"{nearest}: nothing can be written there; give a folder to write into")
    return out
