"""The first version of the phantom, out of the project's own history, in a process of its own."""

import io
import os
import subprocess
import sys
import tarfile
import tempfile

from magunet.base import project
from magunet.base.errors import InputError

REVISION = "1826fd7"
SERVE = """
import sys
from sijphantom.phantom import make_phantom
for line in sys.stdin:
    matrix, slices, seed = map(int, line.split())
    make_phantom(seed, matrix=matrix, slices=(slices, slices))
    print("done", flush=True)
"""


class FirstPhantom:
    """Makes phantoms by the code of REVISION, on one thread; a context."""

    def __enter__(self) -> "FirstPhantom":
        root = project.root()
        found = subprocess.run(["git", "-C", str(root), "archive", REVISION, "magunet"], capture_output=True)
        if found.returncode:
            raise InputError(f"{root}: no commit {REVISION}, so the first phantom is not at hand; clone the whole history")
        self._folder = tempfile.TemporaryDirectory(prefix="magunet-first-")
        with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
            archive.extractall(self._folder.name, filter="data")
        threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
        self._process = subprocess.Popen([sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                         cwd=self._folder.name, env=os.environ | threads | {"PYTHONPATH": self._folder.name})
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()

    def make(self, matrix: int, slices: int, seed: int) -> None:
        """One phantom, thrown away."""
        self._process.stdin.write(f"{matrix} {slices} {seed}\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "done\n":
            raise InputError("the first phantom failed; its message is above")
