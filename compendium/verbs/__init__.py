"""The verbs of the ``magunet`` command: ``add_VERB`` has a verb's arguments, ``run_VERB`` is what it does.

Imports stand in the functions, so that a verb loads only what it needs.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from magunet.base.errors import InputError

Arguments = argparse.Namespace
"""What stood on the command line."""


class OneLineParser(argparse.ArgumentParser):
    """Wrong arguments are one line and status 2, without the usage text around it."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see '{self.prog} --help')\n")


def add_verb(verbs, name: str, run: Callable[[Arguments], None], text: str, example: str) -> OneLineParser:
    """A verb's parser, to add arguments to; its help ends with the example, which leaves out "magunet"."""
    parser = verbs.add_parser(name, help=text, description=text, epilog=f"example: magunet {example}")
    parser.set_defaults(call=run)
    return parser


def add_profile(parser) -> None:
    """``--profile``, with the smoke profile as its default."""
    parser.add_argument("--profile", default="smoke", help="name in papermill_params/, or YAML file; default: smoke")


def add_plain(parser) -> None:
    """``--plain``: no fast layers."""
    parser.add_argument("--plain", action="store_true",
                        help="compute without the fast layers, in float32: slower, to compare with")


def seed_number(text: str) -> int:
    """A seed that torch takes."""
    from magunet.base.profiles import LARGEST_SEED

    if not text.isdecimal() or int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {LARGEST_SEED}")
    return int(text)


def case_count(text: str) -> int:
    """A number of cases."""
    if not text.isdecimal() or not 0 < int(text) < 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of cases from 1 to 99999")
    return int(text)


def settings_of(arguments: Arguments):
    """The settings that ``--profile`` names."""
    from magunet.base import profiles

    return profiles.load(arguments.profile)


def export_folder(out: str | Path) -> Path:
    """A folder to write into. Raises InputError when it is a file, or may not be written to."""
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a folder to write into")
    parent = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{parent}: nothing can be written there; give another folder")
    return out
