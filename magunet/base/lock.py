"""One process at a time in a folder. The system itself frees the lock of a process that died."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from magunet.base.progress import say
from magunet.base.provenance import explained


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Makes the folder. While inside, every other process that enters the same folder waits, and says so."""
    lock = filelock.FileLock(folder / ".lock")
    with explained(folder / ".lock"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            say(f"{folder}: another process works here; waiting until it ends")
            lock.acquire()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):                  # Windows removes no open file
            Path(lock.lock_file).unlink()
        lock.release()
