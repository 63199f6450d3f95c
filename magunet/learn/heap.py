"""Memory that the C library holds on to while a network runs."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of glibc's mallopt(3)."""
KEEPING = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1}
USUAL = {MMAP_MAX: 2**16, TRIM_THRESHOLD: 2**26, MMAP_THRESHOLD: 2**25}
"""What glibc allows itself, and comes to by itself when large blocks are freed."""


@contextmanager
def memory_kept() -> Iterator[None]:
    """Context in which freed memory is kept for the next map of a network, and given back at the end.

    Otherwise glibc gives back a block of 32 MB or more at once, and the system clears every page of the next one: a tenth
    of a forward pass at the paper's size. Where the C library is another, and in any thread but the first, nothing changes.
    Not to be nested.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    for parameter, value in KEEPING.items():
        library.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in USUAL.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)
