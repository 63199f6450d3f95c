"""Runs pip and npm to fetch files, within bounds: a server that never ends fills neither the disk nor the day."""

import os
import subprocess

from magunet.base.errors import InputError

LONGEST = 900
"""Seconds that a program may take to fetch what it was asked for."""
LARGEST_FILE = 128 * 2**20
"""Bytes of a file that it may write; ours have at most 40 MB. Windows has no such limit."""


def run_fetcher(command: list[str], what: str, otherwise: str) -> subprocess.CompletedProcess:
    """Run a program that downloads, without a question to the user; returns its exit status and what it printed.

    Raises InputError, naming ``what`` and ``otherwise`` what to do, when it takes too long.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=LONGEST,
                              preexec_fn=_limit_files if os.name == "posix" else None)
    except subprocess.TimeoutExpired:
        raise InputError(f"{what} could not be fetched within {LONGEST // 60} minutes; check the network, or "
                         f"{otherwise}") from None


def _limit_files() -> None:
    import resource  # not on Windows

    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
