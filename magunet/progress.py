"""How long work shows that it is alive: a bar where somebody watches, plain lines where nobody does."""

import os
import sys
from collections.abc import Iterator, Sequence

import tqdm

IN_KERNEL = "ipykernel" in sys.modules


def watched() -> bool:
    """True in a terminal and in a notebook that a Jupyter server shows; false under papermill, nbval, cron."""
    return "JPY_SESSION_NAME" in os.environ or (sys.stderr.isatty() and not IN_KERNEL)


def say(text: str) -> None:
    """One line for the user, on stderr; in a notebook on stdout, where it does not look like an error."""
    tqdm.tqdm.write(text, file=sys.stdout if IN_KERNEL else sys.stderr)


def track(items: Sequence, what: str) -> Iterator:
    """Iterate with a bar where somebody watches, or with a line an item."""
    if watched():
        yield from tqdm.tqdm(items, desc=what, leave=False, file=sys.stdout if IN_KERNEL else sys.stderr)
        return
    for number, item in enumerate(items, 1):
        yield item
        say(f"{what} {number}/{len(items)}")


def track_quietly(items: Sequence, what: str) -> Iterator:
    """As ``track``, but silent where nobody watches: for inner loops."""
    if watched():
        yield from tqdm.tqdm(items, desc=what, leave=False, file=sys.stdout if IN_KERNEL else sys.stderr)
    else:
        yield from items
