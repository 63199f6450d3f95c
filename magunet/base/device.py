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

CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Where Linux tells the bytes that a container may take."""
_locks: list[filelock.BaseFileLock] = []


@functools.cache
def choose_device() -> torch.device:
    """The first GPU that no other process of magunet uses, else the first; the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    names = [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]
    device = torch.device("cuda", next((i for i, name in enumerate(names) if take(name)), 0))
    torch.cuda.set_device(device)                   # also for calls that name no device
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
        free = min(free, int(CONTAINER_LIMIT.read_text("utf-8")))
    return free / 2**30


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


def has_bfloat16(device: torch.device) -> bool:
    """Whether the processor computes in bfloat16 itself, so that it is faster and not slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def choose_precision(setting: str, device: torch.device) -> torch.dtype:
    """"auto", "float32" or "bfloat16" as a type. Raises InputError for bfloat16 the processor lacks."""
    if setting == "bfloat16" and not has_bfloat16(device):
        raise InputError(f"precision bfloat16: this {device.type} cannot compute in it; use auto or float32")
    return torch.bfloat16 if setting != "float32" and has_bfloat16(device) else torch.float32


def autocast(device: torch.device, precision: torch.dtype) -> contextlib.AbstractContextManager:
    """Context in which networks run in ``precision``; weights stay float32."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)
