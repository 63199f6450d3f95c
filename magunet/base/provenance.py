"""Where a result came from: hashes of data, settings and code, versions, and files written whole."""

import ast
import contextlib
import functools
import glob
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import filelock
import psutil
import torch

from magunet.base.progress import say


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """An OSError from inside names ``path`` and says what to do."""
    try:
        yield
    except OSError as error:
        reason = (f"cannot be written ({error.strerror or error}); see that there is room and that you may "
                  "write there, then run this again")
        raise OSError(error.errno, reason, str(path)) from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``, renamed to it on success, else removed. Raises `explained`."""
    prefix = f".part-{content_hash(platform.node())}-"      # processes of two machines may have one number
    part = path.with_name(f"{prefix}{os.getpid()}-{path.name}")
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for other in path.parent.glob(f"{prefix}*-{glob.escape(path.name)}"):       # of killed processes
                if not psutil.pid_exists(int(other.name.removeprefix(prefix).split("-")[0])):
                    other.unlink(missing_ok=True)
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())                     # else a power cut may leave an empty file
            os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):                  # the folder itself may be missing
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Makes the folder; others that enter wait and say so. The system frees the lock of a dead process."""
    path, lock = folder / ".lock", filelock.FileLock(folder / ".lock")
    with explained(path):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            say(f"{folder}: another process works here; waiting until it ends")
            lock.acquire()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):                  # Windows removes no open file
            path.unlink()
        lock.release()


def write_json(path: Path, content: object) -> None:
    """Write indented JSON, whole or not at all."""
    with whole_file(path) as part:
        part.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


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
    """A short hash of anything JSON can hold, 10 hex digits, the same on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:10]


def code_hash(*modules: ModuleType) -> str:
    """A short hash of the modules' code: comments, docstrings and layout do not count."""
    return content_hash([_code(module.__file__) for module in modules])


@functools.cache
def _code(file: str) -> str:
    """What a module computes, as it is when first asked for."""
    tree = ast.parse(Path(file).read_bytes())
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            node.body = [part for part in node.body
                         if not isinstance(part, ast.Expr) or not isinstance(part.value, ast.Constant)]
    return ast.dump(tree)


def git_revision(root: Path) -> str:
    """The commit, "+changes" when more than results differs; outside git $MAGUNET_REVISION or "unknown"."""
    others = ".", ":(exclude)figures", ":(exclude)benchmarks/*.json"
    questions = ["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--", *others]
    try:
        commit, changes = (subprocess.run(
            ["git", *question], cwd=root, capture_output=True, encoding="utf-8", check=True,
            timeout=20).stdout.strip() for question in questions)
        return commit + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("MAGUNET_REVISION", "unknown")


def environment(device: torch.device) -> dict:
    """Versions and hardware that a result depends on."""
    libraries = ("torch", "numpy", "scipy", "SimpleITK", "nibabel", "monai")
    return {"python": platform.python_version(), "libraries": {name: version(name) for name in libraries},
            "device": device_name(device), "threads": torch.get_num_threads(),
            "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None}


def device_name(device: torch.device) -> str:
    """The device in words: the GPU's or the processor's name."""
    processor = f"{platform.machine()} processor, {os.cpu_count()} cores"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor
