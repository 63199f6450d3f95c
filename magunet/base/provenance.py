"""Where a result came from: hashes of data, settings and code, versions, and files written whole.

Everything that is cached or reported carries these, so that a stale file cannot be mistaken for a result.
"""

import ast
import contextlib
import glob
import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import torch

from magunet.nifti import is_truncated

HASH_DIGITS = 10
PARTS: set[Path] = set()
"""Files that this process is writing."""


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Whatever keeps ``path`` from being written inside becomes an OSError that names the file and says what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot be written ({error.strerror or error}); see that there is room and that you may "
                      "write there, then run this again", str(path)) from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; on success it is renamed to ``path``, else removed.

    No reader ever sees half a file, and an interrupted write leaves the earlier file as it was. What a killed
    process left of the same file is removed. Raises OSError as `explained`.
    """
    mine = f".part-{content_hash(platform.node())}-"        # processes of two machines may have one number
    part = path.with_name(f"{mine}{os.getpid()}-{path.name}")
    PARTS.add(part)
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for left in path.parent.glob(f"{mine}*-{glob.escape(path.name)}"):
                if not psutil.pid_exists(int(left.name.removeprefix(mine).split("-")[0])):
                    left.unlink(missing_ok=True)
            yield part
            if is_truncated(part):                          # SimpleITK says nothing when a disk is full
                raise OSError("no space left on the device, most likely")
            with part.open("rb+") as written:
                os.fsync(written.fileno())                  # else a power cut may leave the new name on nothing
            os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):                  # the folder itself may be what is missing
            part.unlink(missing_ok=True)
        PARTS.discard(part)


def write_json(path: Path, content: object) -> None:
    """Write indented JSON, whole or not at all."""
    with whole_file(path) as part:
        part.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises OSError, and ValueError when that is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("brackets in brackets without end") from None


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_hash(*parts: object) -> str:
    """A short hash of anything JSON can hold, the same on every machine."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def code_hash(*parts: ModuleType | type | Callable) -> str:
    """A short hash of what modules, classes and functions do: comments, docstrings and layout do not count."""
    return content_hash([_without_docstrings(_source(part)) for part in parts])


def _source(part: ModuleType | type | Callable) -> str:
    return Path(part.__file__).read_text() if isinstance(part, ModuleType) else inspect.getsource(part)


def _without_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [n for n in body
                         if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    return ast.dump(tree)


def git_revision(root: Path, besides: Path | None = None) -> str:
    """The commit the code stands at, "+changes" when files differ from it; outside git what the environment variable
    MAGUNET_REVISION says, as on a machine that a copy was sent to, or "unknown".

    Figures do not count: they are what is drawn, not what draws. besides: a file that does not count either.
    """
    others = [".", ":(exclude)figures"]
    if besides and besides.resolve().is_relative_to(root.resolve()):
        others.append(f":(exclude){besides.resolve()}")

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True,
                              timeout=20).stdout.strip()
    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain", "--", *others) else "")
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("MAGUNET_REVISION", "unknown")


def environment(device: torch.device) -> dict:
    """Versions and hardware that a result depends on."""
    names = ("torch", "numpy", "scipy", "SimpleITK", "monai")
    installed = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    return {
        "python": platform.python_version(),
        "libraries": {n: installed.get(n.lower(), "not installed") for n in names},
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
    }


def device_name(device: torch.device) -> str:
    """The device in words: the GPU's or the processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} processor, {os.cpu_count()} cores"
