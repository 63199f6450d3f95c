"""The state of a training run as one safetensors file: nothing in it can execute.

Tensors: ``model.*``, ``optimizer.<parameter>.<name>``, ``rng.*``, and ``losses`` of an unfinished epoch. The
header's text holds the rest as JSON, with the hash of the settings that the state belongs to.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError

from magunet.base.errors import InputError
from magunet.base.progress import say
from magunet.base.provenance import whole_file


@dataclass
class TrainingState:
    """What changes while a network trains; log: an entry an epoch; the rest is of the epoch under way."""

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    generator: torch.Generator
    scaler: torch.amp.GradScaler                                    # of gradients, in float16
    log: list[dict] = field(default_factory=list)
    order: list[str] = field(default_factory=list)                  # cases, one a window
    losses: list[torch.Tensor] = field(default_factory=list)        # of the windows that are done, each ()
    seconds: float = 0.0


def save(state: TrainingState, path: Path, settings_hash: str) -> None:
    """Write the state, whole or not at all. Raises InputError for weights that are not finite."""
    tensors = {f"model.{name}": tensor.cpu() for name, tensor in state.network.state_dict().items()}
    if bad := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise InputError(f"{path}: not written, {bad[0]} holds NaN or infinite values after epoch "
                         f"{len(state.log)}; lower learning_rate. The last checkpoint is from before")
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in values.items()}
    tensors |= {"rng.data": state.generator.get_state(), "rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    if state.losses:
        tensors["losses"] = torch.stack([loss.cpu() for loss in state.losses])
    header = {"settings": settings_hash, "log": state.log, "order": state.order, "seconds": state.seconds,
              "scheduler": state.scheduler.state_dict(), "scaler": state.scaler.state_dict()}
    write_tensors(tensors, path, {"state": json.dumps(header)})


def write_tensors(tensors: dict[str, torch.Tensor], path: Path, texts: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all; the library's own writer leaves parts when killed."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as part:
        part.write_bytes(safetensors.torch.save(stored, texts))


def restore(state: TrainingState, path: Path, settings_hash: str) -> bool:
    """Put a saved state back into a new one; False when it was damaged, InputError when of other settings."""
    try:
        with safetensors.safe_open(path, "pt") as stored:
            header = json.loads(stored.metadata()["state"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}
        if header["settings"] == settings_hash:
            _put_back(state, header, tensors)
            return True
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        say(f"note: {path}: damaged checkpoint ({reason}), not used; training from the start")
        return False
    raise InputError(f"{path}: belongs to other settings ({header['settings']}, not {settings_hash}); "
                     "remove it to train from the start")


def _put_back(state: TrainingState, header: dict, tensors: dict[str, torch.Tensor]) -> None:
    """Raises an error of any kind where something is missing or of another network."""
    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}

    state.network.load_state_dict(part("model."))
    content = state.optimizer.state_dict()
    for name, tensor in part("optimizer.").items():
        index, key = name.split(".", 1)
        content["state"].setdefault(int(index), {})[key] = tensor
    state.scheduler.load_state_dict(header["scheduler"])
    state.scaler.load_state_dict(header.get("scaler", {}))
    for group, rate in zip(content["param_groups"], state.scheduler.get_last_lr(), strict=True):
        group["lr"] = rate                                      # the scheduler sets it only at its next step
    state.optimizer.load_state_dict(content)
    for parameter, values in state.optimizer.state.items():     # laid out in memory as the parameters are
        values |= {key: torch.empty_like(parameter).copy_(value) for key, value in values.items()
                   if value.shape == parameter.shape}
    state.log, state.order = list(header["log"]), [str(name) for name in header["order"]]
    state.seconds = float(header["seconds"])
    state.losses = list(tensors["losses"].float().unbind()) if "losses" in tensors else []
    if len(state.losses) > len(state.order):
        raise ValueError("it has more losses than windows")
    state.generator.set_state(tensors["rng.data"])
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])
