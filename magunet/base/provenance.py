"""Where a result came from: hashes of data, settings and code, versions, and files written whole.

Everything that is cached or reported carries these, so that a stale file cannot be mistaken for a result.
"""

import ast
import contextlib
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

import psutil
import torch


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
    """Yields a temporary path beside ``path``, which is renamed to ``path`` on success, else removed.

    What a killed process left of the same file is removed, too. Raises OSError as `explained`.
    """
    prefix = f".part-{content_hash(platform.node())}-"      # processes of two machines may have one number
    part = path.with_name(f"{prefix}{os.getpid()}-{path.name}")
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for other in path.parent.glob(f"{prefix}*-{glob.escape(path.name)}"):
                if not psutil.pid_exists(int(other.name.removeprefix(prefix).split("-")[0])):
                    other.unlink(missing_ok=True)
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())                     # else a power cut may leave an empty file
            os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):                  # the folder itself may be missing
            part.unlink(missing_ok=True)


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
    """A short hash of anything JSON can hold, 10 hex digits, the same on every machine."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def code_hash(*modules: ModuleType) -> str:
    """A short hash of what modules do: comments, docstrings and layout do not count."""
    trees = [ast.parse(Path(module.__file__).read_text("utf-8")) for module in modules]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [part for part in body
                         if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))]
    return content_hash([ast.dump(tree) for tree in trees])


def git_revision(root: Path) -> str:
    """The commit of the code, "+changes" when files differ from it that are no results.

    Outside git: the environment variable MAGUNET_REVISION, for a copy sent to another machine, or "unknown".
    """
    others = ".", ":(exclude)figures", ":(exclude)benchmarks/*.json"
    questions = ["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--", *others]
    try:
        commit, changes = (subprocess.run(["git", *question], cwd=root, capture_output=True, text=True,
                                          check=True, timeout=20).stdout.strip() for question in questions)
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
