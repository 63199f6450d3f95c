"""Writes requirements.lock and requirements-gpu.lock anew: every package of every platform, with the hashes of its files.

    pip install uv && python workflow/lock.py [--upgrade-package NAME ...]

Versions stay as they are locked, but for the packages named, and for what their new versions need. The second file holds
the GPU libraries that torch from the package index needs on Linux. requirements-cpu.lock, torch without them, is by hand.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from magunet.provenance import whole_file

LOCK, GPU_LOCK = Path("requirements.lock"), Path("requirements-gpu.lock")
GPU = re.compile(r"(nvidia|cuda)-|triton==")
HEADS = {
    LOCK: "# Every package, exactly, with the hashes of its files: pip install --require-hashes --no-deps -r requirements.lock\n",
    GPU_LOCK: "# What torch needs beside it for NVIDIA's GPUs. Not needed for the CPU, and not by torch's CPU-only builds.\n"}


def packages(text: str) -> list[str]:
    """A lock's packages, each with its hashes, in order; those of a browser's Python left out."""
    found = re.findall(r"^\S+==.*\n(?:    .*\n)*", text, re.M)
    return [package for package in found if "sys_platform == 'emscripten'" not in package.split("\n")[0]]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "lock"
        made.write_text(re.sub(r" \\\n    --hash=\S+", "", LOCK.read_text() + GPU_LOCK.read_text()))    # what uv keeps to
        subprocess.run([sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--all-extras", "--universal",
                        "--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header", "--quiet",
                        "--output-file", str(made), *sys.argv[1:]], check=True)
        found = packages(made.read_text())
    for path in (LOCK, GPU_LOCK):
        kept = [package for package in found if bool(GPU.match(package)) == (path == GPU_LOCK)]
        with whole_file(path) as part:
            part.write_text(HEADS[path] + "".join(kept))


if __name__ == "__main__":
    main()
