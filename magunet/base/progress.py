"""How long work shows that it is alive: a bar where somebody watches, plain lines where nobody does."""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

import tqdm


def in_notebook() -> bool:
    """True in a process that is itself a notebook's kernel."""
    kernel = sys.modules.get("ipykernel.kernelapp")
    return kernel is not None and kernel.IPKernelApp.initialized()


def watched() -> bool:
    """True in a terminal and in a notebook that Jupyter shows; false under papermill, nbval, cron."""
    return "JPY_SESSION_NAME" in os.environ if in_notebook() else sys.stderr.isatty()


def channel() -> TextIO:
    """Where progress goes: stderr, or in a notebook stdout, where it does not look like an error."""
    return sys.stdout if in_notebook() else sys.stderr


def say(text: str) -> None:
    """One line for the user."""
    tqdm.tqdm.write(text, file=channel())


def track(items: Sequence, what: str, lines: bool = True) -> Iterator:
    """Iterate with a bar where somebody watches, else a line an item; inner loops have no lines."""
    bar = watched()
    for number, item in enumerate(tqdm.tqdm(items, what, leave=False, file=channel(), disable=not bar), 1):
        yield item
        if lines and not bar:
            say(f"{what} {number}/{len(items)}")
