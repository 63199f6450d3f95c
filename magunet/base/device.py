"""Where and in which precision networks run."""

import contextlib
import functools
import sys
import tempfile
from pathlib import Path

import filelock
import psutil
import torch

from magunet.base.errors import InputError
from magunet.base.progress import say

CONTAINER = Path("/sys/fs/cgroup")
"""Where Linux tells what a container may take."""
WRONG_CUDNN = range(90800, 91500)
"""Versions, 9.8 to 9.14, whose 3D convolutions in bfloat16 and float16 can be wrong: issue 163539 of torch,
which avoids them from 2.9.1 on, but not in the memory format that is used here."""
_locks: list[filelock.BaseFileLock] = []


@functools.cache
def choose_device() -> torch.device:
    """The first GPU that no other process of magunet uses, else the first; the CPU where there is none.

    There float32 is never TF32, wrong in 3D in cuDNN 9.10 to 9.15 (pull request 167024 of torch), and cuDNN
    searches the fastest algorithm for each shape.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    names = [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]
    device = torch.device("cuda", next((i for i, name in enumerate(names) if take(name)), 0))
    torch.cuda.set_device(device)                   # also for calls that name no device
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    if (version := torch.backends.cudnn.version()) in WRONG_CUDNN:
        say(f"note: 3D convolutions of 16 bits can be wrong in cuDNN {version}, so that all is float32, and "
            "slow; install cuDNN 9.15 or newer (pip's nvidia-cudnn-cu12 or -cu13)")
    return device


def take(name: str) -> bool:
    """Whether this process now has the lock of this name, which it keeps until it ends."""
    lock = filelock.FileLock(Path(tempfile.gettempdir()) / f"magunet-{name}.lock")
    with contextlib.suppress(OSError):                  # another process's (Timeout), or another user's
        lock.acquire(blocking=False)
        _locks.append(lock)
    return lock.is_locked


def free_memory() -> float:
    """GiB that can still be taken, of the machine or of the container this runs in."""
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):      # no container, or one without a limit: "max"
        limit = int((CONTAINER / "memory.max").read_text("utf-8"))
        free = min(free, limit)
        used = int((CONTAINER / "memory.current").read_text("utf-8"))
        kinds = dict(line.split() for line in (CONTAINER / "memory.stat").read_text("utf-8").splitlines())
        free = min(free, limit - used + int(kinds.get("inactive_file", 0)))      # files read can go
    return max(0, free) / 2**30


def reset_peak_memory(device: torch.device) -> None:
    """From here on `peak_memory_mb` counts anew, on a GPU and under Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_memory_mb(device: torch.device) -> float | None:
    """Maximum in 10^6 bytes: torch's on the GPU, else this process's; None where unknown (Windows)."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    with contextlib.suppress(ImportError):
        import resource
        scale = 1 if sys.platform == "darwin" else 1024
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6, 1)
    return None


def fast_type(device: torch.device) -> torch.dtype:
    """What the processor itself computes fast and rightly: bfloat16, an older GPU float16, else float32."""
    if device.type == "cuda":
        if torch.backends.cudnn.version() in WRONG_CUDNN:
            return torch.float32
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        return torch.float16 if torch.cuda.get_device_capability(device) >= (7, 0) else torch.float32
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    has_bfloat16 = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if has_bfloat16 else torch.float32


def choose_precision(setting: str, device: torch.device) -> torch.dtype:
    """"auto", "float32" or "bfloat16" as a type. Raises InputError for bfloat16 the processor lacks."""
    fast = fast_type(device)
    if setting == "bfloat16" and fast != torch.bfloat16:
        raise InputError(f"precision bfloat16: this {device.type} cannot compute in it; use auto or float32")
    return torch.float32 if setting == "float32" else fast


def autocast(device: torch.device, precision: torch.dtype) -> contextlib.AbstractContextManager:
    """Context in which networks run in ``precision``; weights stay float32."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


def onto(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """x on the device; to a GPU from pinned memory, so that nobody waits for the copy."""
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)
