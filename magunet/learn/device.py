"""Where and in which precision networks run."""

import contextlib

import torch

from magunet.errors import InputError


def choose_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cpu_capabilities() -> dict:
    """What torch knows of the processor; empty in releases that do not tell."""
    return dict(getattr(torch.cpu, "get_capabilities", dict)())


def has_bfloat16(device: torch.device) -> bool:
    """Whether the processor computes in bfloat16 itself, so that it is faster and not slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = cpu_capabilities()
    return any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def choose_precision(setting: str, device: torch.device) -> torch.dtype:
    """"auto", "float32" or "bfloat16" as a type. Raises InputError for bfloat16 the processor lacks."""
    if setting == "bfloat16" and not has_bfloat16(device):
        raise InputError(f"precision bfloat16: this {device.type} has no bfloat16 arithmetic; use 'auto' or 'float32'")
    return torch.bfloat16 if setting != "float32" and has_bfloat16(device) else torch.float32


def autocast(device: torch.device, precision: torch.dtype) -> contextlib.AbstractContextManager:
    """Context in which networks run in ``precision``; weights stay float32."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)
