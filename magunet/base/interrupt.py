"""Ctrl-C and SIGTERM that wait until a piece of work is whole."""

import contextlib
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """What runs inside ends, or fails, before a signal does what it did outside. A second signal does not wait."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, waiting = {number: signal.getsignal(number) for number in SIGNALS}, []

    def give_back() -> None:
        for number, handler in before.items():
            if handler is not None:                         # None: not Python's, and so not replaced
                signal.signal(number, handler)

    def wait(number: int, _: object) -> None:
        waiting.append(number)
        if len(waiting) > 1:
            give_back()
            signal.raise_signal(number)

    try:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, wait)
        yield
    finally:
        give_back()
        if len(waiting) == 1:
            signal.raise_signal(waiting[0])
