"""The weights that come with the project, in half precision: what `magunet predict` takes when no model is named."""

from pathlib import Path

import safetensors.torch
import torch

from magunet.base import project, provenance
from magunet.base.errors import InputError
from magunet.checkpoint import write_tensors
from magunet.predict import RECORD_FILE, WEIGHTS_FILE

CARD_FILE = "README.md"


def shipped_weights() -> Path:
    """Their folder, which `magunet.predict.load_model` reads like a run's. Raises InputError where it is missing."""
    folder = project.data() / "weights"
    if not (folder / WEIGHTS_FILE).is_file():
        raise InputError(f"{folder / WEIGHTS_FILE}: missing; take it from the repository again, or name a run with --model")
    return folder


def ship(run: Path, folder: Path) -> None:
    """Write a finished run's weights in half precision, and its record, into a folder.

    Raises InputError when a weight is too large for half precision.
    """
    record = provenance.read_json(run / RECORD_FILE)
    weights = safetensors.torch.load_file(run / WEIGHTS_FILE)
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    if bad := [name for name, tensor in halved.items() if not tensor.isfinite().all()]:
        raise InputError(f"{run / WEIGHTS_FILE}: {bad[0]} holds values beyond {torch.finfo(torch.half).max:g}, the largest "
                         "in half precision; ship another run")
    write_tensors(halved, folder / WEIGHTS_FILE)
    outputs = {WEIGHTS_FILE: provenance.file_hash(folder / WEIGHTS_FILE)}
    provenance.write_json(folder / RECORD_FILE, record | {"run": run.name, "weights": "float16", "outputs": outputs})
