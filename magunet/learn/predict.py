"""From a CT to a mask on the CT's own grid, with a trained run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from magunet.data.prepare import prepare, restore
from magunet.data.volume import Volume
from magunet.errors import InputError
from magunet.learn.device import autocast, choose_device, choose_precision
from magunet.nets.blocks import evaluate_by_input
from magunet.nets.studies import build
from magunet.profiles import Settings, from_mapping
from magunet.progress import track
from magunet.provenance import read_json

OVERLAP = 0.5
"""Of neighbouring windows, as a fraction of their depth."""
SIGMA = 0.25
"""Of the Gaussian that weights a window's slices, as a fraction of its depth."""
THRESHOLD = 0.5

WEIGHTS_FILE, RECORD_FILE = "weights.safetensors", "run.json"
RECORDED = ("network", "seed", "settings", "data_hash", "train", "val")
"""What a run's record must say for the run to be used."""


def window_starts(slices: int, depth: int) -> list[int]:
    """First slices of windows ``depth`` deep that cover ``slices``, evenly spread, overlapping by half or more."""
    if slices <= depth:
        return [0]
    count = 1 + int(np.ceil((slices - depth) / (depth * (1 - OVERLAP))))
    return [round(i * (slices - depth) / (count - 1)) for i in range(count)]


def gaussian_weights(depth: int) -> np.ndarray:
    """Weight of each slice of a window, 1 in its middle; (depth,), float64, all above 0."""
    z = (np.arange(depth) - (depth - 1) / 2) / (SIGMA * depth)
    return np.exp(-0.5 * z**2)


def predict_windows(image: np.ndarray, depth: int, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply ``function`` to windows along z and blend the results with Gaussian weights.

    image: float32 (n, h, w). function: (depth, h, w) -> the same shape. Fewer than ``depth`` slices are
    padded by repeating the outer ones. Returns float32 (n, h, w).
    """
    slices = len(image)
    before = max(0, depth - slices) // 2
    padded = np.pad(image, ((before, max(0, depth - slices) - before), (0, 0), (0, 0)), mode="edge")
    total, weight = np.zeros(padded.shape), np.zeros((len(padded), 1, 1))
    share = gaussian_weights(depth)[:, None, None]
    for start in track(window_starts(len(padded), depth), "windows", lines=False):
        window = slice(start, start + depth)
        total[window] += share * function(padded[window])
        weight[window] += share
    return (total / weight)[before:before + slices].astype(np.float32)


def probability(network: torch.nn.Module, window: np.ndarray, device: torch.device,
                precision: torch.dtype) -> np.ndarray:
    """The network's foreground probability for one prepared window (d, h, w), float32. Sets evaluation mode."""
    evaluate_by_input(network)
    x = torch.from_numpy(np.ascontiguousarray(window))[None, None].to(device)
    with torch.inference_mode(), autocast(device, precision):
        logits = network(x.to(memory_format=torch.channels_last_3d))
    return torch.sigmoid(logits.float())[0, 0].cpu().numpy()


@dataclass(frozen=True)
class Model:
    """A trained network with the settings its input must be prepared with."""

    network: torch.nn.Module
    settings: Settings
    record: dict
    device: torch.device
    precision: torch.dtype

    def probability(self, image: np.ndarray) -> np.ndarray:
        """Foreground probability of a prepared image (n, size, size), float32, blended from windows.

        Each window is also seen mirrored left to right, as in training, and the two answers are averaged: left and
        right are told apart afterwards, by position.
        """
        def answer(window: np.ndarray) -> np.ndarray:
            return probability(self.network, window, self.device, self.precision)

        return predict_windows(image, self.settings.depth,
                               lambda window: (answer(window) + answer(window[..., ::-1])[..., ::-1]) / 2)

    def segment(self, scan: Volume) -> Volume:
        """SIJ mask, uint8, on the scan's own grid. The scan is a CT in HU in any orientation."""
        prepared, frame = prepare(scan, None, self.settings)
        on_scan = restore(self.probability(prepared.image), frame)
        return on_scan.with_array((on_scan.array > THRESHOLD).astype(np.uint8))


def load_model(run: Path | str) -> Model:
    """Load a finished run's network, ready to predict. Nothing is unpickled.

    Raises InputError when the folder is not a finished run or its files do not fit together.
    """
    run = Path(run)
    record_path, weights_path = run / RECORD_FILE, run / WEIGHTS_FILE
    for path in (record_path, weights_path):
        if not path.is_file():
            raise InputError(f"{path}: missing; give the folder of a finished run, as 'magunet train' prints it")
    try:
        record = read_json(record_path)
        if missing := [name for name in RECORDED if name not in record]:
            raise ValueError(f"{RECORD_FILE} does not say {missing[0]}")
        settings = from_mapping(record["settings"], str(record_path))
        network = build(record["network"], settings.width_divisor)
        weights = safetensors.torch.load_file(weights_path)
        network.load_state_dict(weights)
        if bad := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
            raise ValueError(f"{bad[0]} holds NaN or infinite values")
    except (ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{run}: record and weights cannot be read or do not fit together ({reason}); "
                         "train the run again") from error
    device = choose_device()
    network = network.to(device, memory_format=torch.channels_last_3d).eval()
    return Model(network, settings, record, device, choose_precision(settings.precision, device))
