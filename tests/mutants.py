"""Puts each mistake of mutants.toml into a copy of the compendium and asks the everyday tests.

    python tests/mutants.py

Prints a table of what noticed each; status 1 where more than two go unnoticed. That each fits the code, an
everyday test sees to. The file of tests that should notice a mistake goes first; where it does not, all
everyday tests follow.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import pandas as pd
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
COPIES = ROOT / "runs" / "mutants"
PROCESSES = 2
UNNOTICED = 2
"""So many may go unnoticed."""
FAILED = re.compile(r"^(?:FAILED|ERROR) (?:tests/)?(\S+)", re.MULTILINE)


def copied(folder):
    """The tracked files, in a folder of their own."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")[:-1]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def verdict(folder, *tests):
    """The first everyday test that fails in a folder, or None."""
    options = ["-m", "not slow", "-k", "not fits_the_code", "-x", "-q", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if ended.returncode == 0:
        return None
    return (FAILED.search(ended.stdout) or [None, f"pytest ended: {ended.stdout[-200:]}"])[1]


def notice(mutant, folders):
    """The row of a mistake: what noticed it."""
    folder = folders.get()
    path = folder / mutant["file"]
    text = path.read_text()
    try:
        path.write_text(text.replace(mutant["old"], mutant["new"]))
        noticed = verdict(folder, mutant["first"]) or verdict(folder, "tests")
    finally:
        path.write_text(text)
        folders.put(folder)
    return {"area": mutant["area"], "fault": mutant["fault"], "noticed by": noticed or "NOTHING"}


def main():
    """Tries all mistakes; the status."""
    mutants = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())["mutant"]
    folders = SimpleQueue()
    for number in range(PROCESSES):
        folders.put(copied(COPIES / str(number)))
    undisturbed = verdict(COPIES / "0", *sorted({mutant["first"] for mutant in mutants}))
    if undisturbed:
        sys.exit(f"mutants: {undisturbed} fails without any mistake; mend it first")
    with ThreadPoolExecutor(PROCESSES) as pool:
        found = pool.map(lambda mutant: notice(mutant, folders), mutants)
        rows = list(tqdm(found, total=len(mutants), unit="mutant"))
    shutil.rmtree(COPIES)
    table = pd.DataFrame(rows)
    print(table.to_markdown(index=False))
    unnoticed = int((table["noticed by"] == "NOTHING").sum())
    print(f"{len(table) - unnoticed} of {len(table)} mistakes are noticed by the everyday tests")
    return int(unnoticed > UNNOTICED)


if __name__ == "__main__":
    sys.exit(main())
