"""Two ways to do one thing, measured in turns: ratios, because machines are noisy and differ."""

import contextlib
import gc
import multiprocessing
import signal
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil
import torch

from magunet.base.device import choose_device
from magunet.base.errors import InputError
from magunet.base.progress import track

SECONDS, MEGABYTES, GPU_MEGABYTES = "s", "MB", "MB of the GPU"
POLL_SECONDS = 0.005


class PeakMemory:
    """Context that measures the most memory held inside it: ``mb``, in 10^6 bytes.

    On a GPU what torch allocated there. On the CPU this process's resident memory, Python and libraries included, read
    every few milliseconds: the system's own peak is that of the process's whole life, so a network would be
    given the memory of the one before it. children: with that of all processes it has started; what they share
    counts in each.
    """

    def __init__(self, device: torch.device, children: bool = False):
        self.device, self.children = device, children
        self.mb = 0.0

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._done = threading.Event()
            self._thread = threading.Thread(target=self._poll, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        if self.device.type == "cuda":
            self.mb = round(torch.cuda.max_memory_allocated(self.device) / 1e6, 1)
        else:
            self._done.set()
            self._thread.join()

    def _poll(self) -> None:
        process, waiting = psutil.Process(), True
        while waiting:
            waiting = not self._done.wait(POLL_SECONDS)
            held = process.memory_info().rss
            for child in process.children(recursive=True) if self.children else ():
                with contextlib.suppress(psutil.NoSuchProcess):             # it has just ended
                    held += child.memory_info().rss
            self.mb = max(self.mb, round(held / 1e6, 1))


@dataclass(frozen=True)
class Contest:
    """What is measured: ``ours`` beside ``theirs``, each a function without arguments that does the work once.

    unit: SECONDS, of wall clock; MEGABYTES, the most memory a process held, each way in a fresh one (both functions must
    be importable then); or GPU_MEGABYTES, the most that tensors took on the GPU. target: the ratio ours / theirs aimed
    at, and most: what ours may take in that unit, None where none is set. floor: seconds that the machine's measured
    ceilings allow, None where nobody counted.
    rounds: how often both take their turn, after one round to warm up.
    """

    work: str
    beside: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    target: float | None = None
    most: float | None = None
    unit: str = SECONDS
    floor: float | None = None
    rounds: int = 5
    warm_up: bool = True
    note: str = ""


@dataclass(frozen=True)
class Result:
    """What came out: seconds or megabytes of each round. revision: of the code, where it is known."""

    work: str
    beside: str
    target: float | None
    most: float | None
    unit: str
    floor: float | None
    note: str
    ours: list[float]
    theirs: list[float]
    revision: str = ""

    @property
    def ratios(self) -> list[float]:
        """Ours / theirs, round by round: what slows the machine down for a while slows both."""
        return [a / b for a, b in zip(self.ours, self.theirs)]

    @property
    def ratio(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the target, and ours the limit; None where neither is set."""
        aims = [(self.target, self.ratio), (self.most, statistics.median(self.ours))]
        held = [value <= aim for aim, value in aims if aim is not None]
        return all(held) if held else None

    def as_dict(self) -> dict:
        """Everything, for JSON."""
        return asdict(self) | {"ratio": self.ratio, "lowest": min(self.ratios), "highest": max(self.ratios), "met": self.met}


def run(contest: Contest) -> Result:
    """Measure both ways in turns, the order swapped from round to round."""
    measure = {SECONDS: seconds_of, MEGABYTES: megabytes_of, GPU_MEGABYTES: gpu_megabytes_of}[contest.unit]
    found = {"ours": [], "theirs": []}
    rounds = range(-1 if contest.warm_up and contest.unit == SECONDS else 0, contest.rounds)
    for number in track(rounds, contest.work, lines=False):
        for way in ("ours", "theirs")[:: 1 if number % 2 else -1]:
            value = measure(getattr(contest, way))
            if number >= 0:
                found[way].append(value)
    return Result(contest.work, contest.beside, contest.target, contest.most, contest.unit, contest.floor, contest.note, **found)


def seconds_of(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call; waits for the GPU where there is one."""
    gc.collect()
    wait()
    began = time.perf_counter()
    result = work()
    wait()
    seconds = time.perf_counter() - began
    del result
    return seconds


def wait() -> None:
    """Until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def megabytes_of(work: Callable[[], object]) -> float:
    """Most resident memory, in 10^6 bytes, of a fresh process that does the work once, Python and libraries included.

    Raises InputError when the process dies, as it does without memory.
    """
    return alone(getattr(work, "func", work).__name__, _peak_of, work)


def alone(what: str, work: Callable, *arguments: object) -> Any:
    """What ``work(*arguments)`` returns in a fresh process, which must be able to import it, on as many threads as here.

    So nothing that this process did before, and no memory that it holds, makes a difference. What the work raises is
    raised here. Raises InputError when the process dies.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(work, arguments, torch.get_num_threads(), sender))
    process.start()
    sender.close()
    try:
        found, error = receiver.recv()
    except EOFError:
        process.join()
        raise InputError(f"{what}: its process ended with {process.exitcode} before it was done; "
                         "there may be too little memory") from None
    except BaseException:
        process.terminate()
        raise
    finally:
        process.join()
    if error:
        raise error
    return found


def gpu_megabytes_of(work: Callable[[], object]) -> float:
    """Most memory, in 10^6 bytes, that torch's tensors took on the GPU while this process did the work once."""
    gc.collect()
    with PeakMemory(choose_device()) as peak:
        work()
        wait()
    return peak.mb


def _peak_of(work: Callable[[], object]) -> float:
    with PeakMemory(torch.device("cpu")) as peak:
        work()
    return peak.mb


def _answer(work: Callable, arguments: tuple, threads: int, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)                                # the parent's to handle
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))                       # so that a process started here ends, too
    torch.set_num_threads(threads)
    try:
        answer = work(*arguments), None
    except Exception as error:
        error.add_note(traceback.format_exc())                                  # which would stay here
        answer = None, error
    sender.send(answer)
