"""Writes requirements.lock and those beside it anew: every package of every platform, with the hashes of its
files.

    pip install uv && python workflow/lock.py [--upgrade-package NAME]...

Versions stay as they are locked, but for the packages named, and for what their new versions need.
requirements-gpu.lock has the GPU libraries that torch from the package index needs on Linux,
requirements-fuzz.lock and requirements-docs.lock what fuzzing and the site of the pages need beside the rest.
requirements-cpu.lock, torch without GPU libraries, is by hand.
"""

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from magunet.base.provenance import whole_file

LOCK, GPU_LOCK, FUZZ_LOCK, DOCS_LOCK = (Path(f"requirements{part}.lock")
                                        for part in ("", "-gpu", "-fuzz", "-docs"))
GPU = re.compile(r"(nvidia|cuda)-|triton==")
BESIDE = {
    FUZZ_LOCK: "atheris==3.0.0; sys_platform == 'linux' and platform_machine == 'x86_64'\n",
    DOCS_LOCK: "sphinx==9.0.4\nmyst-nb==1.4.0\nfuro==2025.12.19\nziamath==0.13\n"}
HEADS = {
    LOCK: "# Every package, exactly, with the hashes of its files: "
          "pip install --require-hashes --no-deps -r requirements.lock\n",
    GPU_LOCK: "# What torch needs beside it for NVIDIA's GPUs. "
              "Not needed for the CPU, and not by torch's CPU-only builds.\n",
    FUZZ_LOCK: "# What `make fuzz` needs beside requirements.lock; in runs/fuzz/tools.\n",
    DOCS_LOCK: "# What `make docs` needs beside requirements.lock; in runs/docs/tools.\n"}


def packages(text: str) -> list[str]:
    """A lock's packages, each with its hashes, in order; those of a browser's Python left out."""
    found = re.findall(r"^\S+==.*\n(?:    .*\n)*", text, re.M)
    return [package for package in found if "sys_platform == 'emscripten'" not in package.split("\n")[0]]


def without_hashes(text: str) -> str:
    """A lock's versions alone."""
    return re.sub(r" \\\n    --hash=\S+", "", text)


def compiled(requirements: str, locked: str, binding: str, *options: str) -> str:
    """What uv makes of the text of a requirements file: with the versions ``locked`` where it can, those
    ``binding`` always."""
    with tempfile.TemporaryDirectory() as folder:
        source, made, bound = (Path(folder) / name for name in ("requirements.in", "lock", "bound"))
        for path, text in ((source, requirements), (made, locked), (bound, binding)):
            path.write_text(text, encoding="utf-8")
        subprocess.run([sys.executable, "-m", "uv", "pip", "compile", str(source), "--constraint", str(bound),
                        "--universal",
                        "--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header",
                        "--quiet",
                        "--output-file", str(made), *options], check=True)
        return made.read_text("utf-8")


def write(path: Path, kept: list[str]) -> None:
    with whole_file(path) as part:
        part.write_text(HEADS[path] + "".join(kept), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--upgrade-package", action="append", default=[], metavar="NAME",
                        help="take the newest version of this one")
    words = parser.parse_args()
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    locked = without_hashes(LOCK.read_text("utf-8") + GPU_LOCK.read_text("utf-8"))
    upgrades = [f"--upgrade-package={name}" for name in words.upgrade_package]
    found = packages(compiled("\n".join(wanted), locked, "", *upgrades))
    for path in (LOCK, GPU_LOCK):
        write(path, [package for package in found if bool(GPU.match(package)) == (path == GPU_LOCK)])
    names = {package.split("==")[0] for package in found}
    for path, requirements in BESIDE.items():
        locked = without_hashes(path.read_text("utf-8")) if path.exists() else ""
        needed = packages(compiled(requirements, locked, without_hashes("".join(found)), *upgrades))
        write(path, [package for package in needed if package.split("==")[0] not in names])


if __name__ == "__main__":
    main()
