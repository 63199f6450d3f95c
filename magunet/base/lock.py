"""One process at a time in a folder; the system itself frees the lock of a process that died."""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from magunet.base.progress import say
from magunet.base.provenance import explained

LOCK_FILE = ".lock"


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """While inside, no other process is inside for the same folder: it waits, and says for whom. Makes the folder.

    Processes on other machines wait too, where they share a file system that has locks. Where files have none
    (Windows, some network storage) nobody waits: the same work is then done twice, but every file is whole all the same.
    """
    path = folder / LOCK_FILE
    with explained(path):
        file = _locked(path)
    with file:
        with contextlib.suppress(OSError):                  # a full disk does not matter yet
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}".encode())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):              # an empty folder is no result; others stay
                folder.rmdir()


def _locked(path: Path) -> BinaryIO:
    """The file at this path, locked by this process; waits while another one has it."""
    try:
        import fcntl
    except ImportError:                                     # Windows
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(os.devnull, "ab+")
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab+", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            say(f"{path.parent}: {file.read().decode() or 'another process'} works here; waiting until it ends")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:                                     # storage without locks
            return file
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()                                        # whoever had it has removed it since
