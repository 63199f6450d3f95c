"""One piece of work many times over: one process a core, as many as memory allows."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType

import psutil
import torch

from magunet.base import provenance
from magunet.base.errors import InputError

MOST_PROCESSES = 61
"""Windows cannot wait for more."""
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM")}
"""What torch and NumPy's linear algebra read when they are imported."""


def core_count() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> float:
    """GiB that can still be taken, of the machine or of the container this runs in."""
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):          # no container, or one without a limit: "max"
        free = min(free, int(CONTAINER_LIMIT.read_text()))
    return free / 2**30


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch computes in one thread, and so comes to the same bits on any number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def process_count(jobs: int, gib: float) -> int:
    """Processes for a number of jobs that take ``gib`` of memory each; 1 means none beside this one."""
    return max(1, min(jobs, core_count(), int(free_memory() / gib), MOST_PROCESSES))


def run_all(call: Callable, jobs: Sequence[tuple], processes: int, progress: Callable[[Sequence, str], Iterator],
            what: str) -> None:
    """``call(*job)`` for every job, in any order, in several processes, or in this one; results go to files.

    call: a function that other processes can import. progress: as `progress.track`. Whatever a call raises
    is raised here, and so is Ctrl-C: calls under way then end at once, and leave no part of a file.
    Raises InputError when a process is ended from outside.
    """
    if processes == 1:
        for job in progress(jobs, what):
            call(*job)
        return
    context = multiprocessing.get_context("spawn")          # a fork of a process with threads can hang
    ends, keep = context.Pipe(duplex=False)
    with ends, keep, ProcessPoolExecutor(processes, context, _begin, (ends,)) as pool:
        try:
            with _for_children():
                calls = [pool.submit(call, *job) for job in jobs]
            for _, done in zip(progress(jobs, what), as_completed(calls)):
                done.result()
        except BrokenProcessPool as error:
            keep.close()
            raise InputError(f"{what}: a process was ended from outside, most often for lack of memory; close other "
                             "programs and run this again, it goes on with what is missing") from error
        except BaseException:
            keep.close()                                    # every process sees it, and ends
            raise


@contextlib.contextmanager
def _for_children() -> Iterator[None]:
    """Processes started inside compute in one thread each, leave Ctrl-C to this one, and import only what they need.

    Python would have each run the user's script again, which fails for a script without ``if __name__ ==
    "__main__"`` and for one read from stdin; an empty module in its place prevents that.
    """
    before, script = {name: os.environ.get(name) for name in ONE_THREAD}, sys.modules["__main__"]
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main_thread else None
    os.environ.update(ONE_THREAD)
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)


def _begin(ends: Connection) -> None:
    """In a new process: signals are the parent's to handle; when it closes the pipe, or is gone, so is this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=[ends], daemon=True).start()


def _end_with(ends: Connection) -> None:
    wait([ends])
    for part in list(provenance.PARTS):
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    os._exit(1)
