"""SimpleITK, loaded where a file is read or written: it works in silence, and its faults are one line about the file."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from magunet.base.errors import InputError

SHEARED = "the axes of the volume are not perpendicular (sheared or tilted gantry); resample it to a rectangular grid first"


def load():
    """The module SimpleITK; phantoms, training and scoring run where it is not installed."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def execute(call: Callable, path: Path, *arguments, **named) -> Any:
    """Run a SimpleITK call that reads or writes ``path``. Raises InputError where it fails."""
    try:
        with _silence():
            return call(*arguments, **named)
    except RuntimeError as error:
        reason = re.sub(r"\w+\(0x\w+\): ", "", str(error).strip().splitlines()[-1].split("ERROR:")[-1].strip())
        if "orthonormal" in reason:
            raise InputError(f"{path}: {SHEARED}") from error
        raise InputError(f"{path}: cannot be read or written as a medical image ({reason}); is it complete, and "
                         "not compressed in an unusual way?") from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The C libraries inside print what they think of a damaged file, past Python and line after line."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
