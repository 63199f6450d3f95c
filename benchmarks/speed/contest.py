"""Two ways to do one thing, measured in turns: ratios, because machines are noisy and differ."""

import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from magunet.base.errors import InputError
from magunet.base.progress import track

SECONDS = "s"
"""Wall clock."""
MEGABYTES = "MB"
"""10^6 bytes: the peak resident memory of a fresh process for each way, which must be able to import it."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """Work, and what it stands beside. target: the ratio ours / theirs aimed at. most: what ours may take."""

    work: str
    beside: str
    target: float | None = None
    most: float | None = None
    unit: str = SECONDS
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Contest(Question):
    """Both ways, each a function that does the work once, and how often they take turns after a first one."""

    ours: Callable[[], object]
    theirs: Callable[[], object]
    rounds: int = 5
    warm_up: bool = True


@dataclass(frozen=True, kw_only=True)
class Result(Question):
    """Seconds or megabytes of each round, and the git revision of the code."""

    ours: list[float]
    theirs: list[float]
    revision: str = ""

    @property
    def ratios(self) -> list[float]:
        """Ours / theirs, round by round: what slows the machine down for a while slows both."""
        return [a / b for a, b in zip(self.ours, self.theirs)]

    @property
    def met(self) -> bool | None:
        """Whether the median ratio reaches the target, and ours the limit; None where neither is set."""
        aims = [(self.target, self.ratios), (self.most, self.ours)]
        checks = [statistics.median(values) <= aim for aim, values in aims if aim is not None]
        return all(checks) if checks else None


def run(contest: Contest) -> Result:
    """Measure both ways in turns, the order swapped from round to round."""
    measure = {SECONDS: seconds_of, MEGABYTES: megabytes_of}[contest.unit]
    values: dict[str, list[float]] = {"ours": [], "theirs": []}
    first = -1 if contest.warm_up and contest.unit == SECONDS else 0
    for number in track(range(first, contest.rounds), contest.work, lines=False):
        for way in ("ours", "theirs")[:: 1 if number % 2 else -1]:
            value = measure(getattr(contest, way))
            if number >= 0:
                values[way].append(value)
    return Result(**{field.name: getattr(contest, field.name) for field in fields(Question)}, **values)


def wait() -> None:
    """Until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call, the GPU's work included, freeing the result not."""
    gc.collect()
    wait()
    start = time.perf_counter()
    result = work()
    wait()
    seconds = time.perf_counter() - start
    del result
    return seconds


def megabytes_of(work: Callable[[], object]) -> float:
    """Peak resident memory of a fresh process that does the work once, Python and libraries included."""
    return alone(_peak_of, work)


def alone(work: Callable, *arguments: object) -> Any:
    """What ``work(*arguments)`` returns, or raises, in a fresh process, on as many threads as here.

    So nothing that this process did before makes a difference. Raises InputError when the process dies.
    """
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        try:
            return pool.submit(work, *arguments).result()
        except BrokenProcessPool:
            raise InputError("its process ended before it was done; there may be too little memory") from None


def _peak_of(work: Callable[[], object]) -> float:
    work()
    return peak_megabytes()


def peak_megabytes() -> float:
    """Peak resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():                                     # the peak of getrusage begins with the parent's
        lines = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
