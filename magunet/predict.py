"""From a CT to a mask on the CT's own grid, with a trained run."""

import functools
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from magunet.base import project
from magunet.base.device import autocast, choose_device, choose_precision
from magunet.base.errors import InputError, is_out_of_memory, require
from magunet.base.profiles import SMALLEST_SIDE, Settings, from_mapping
from magunet.base.progress import say, track
from magunet.base.provenance import read_json
from magunet.body import around_body
from magunet.fast import accelerate, evaluate_by_input
from magunet.prepare import HU_WINDOW, clip_and_scale, prepare, require_scan, restore
from magunet.region import Triple, cut, joints_alone, joints_centre, put_back, region_about
from magunet.studies import build
from magunet.volume import Volume, onto_grid

THRESHOLD = 0.5
"""Voxels with a higher foreground probability belong to the mask."""
WEIGHTS_FILE = "weights.safetensors"
"""A run's weights, in its folder."""
RECORD_FILE = "run.json"
"""A run's record, written last: what it was trained from and with."""
RECORD_ENTRIES = ("network", "seed", "settings", "data_hash", "train", "val", "pixel_mm")
"""What a run's record must hold for the run to be used."""
CARD_FILE = "README.md"
"""Beside the weights that come with the project: what they can do and what they cannot."""


def window_starts(slices: int, depth: int) -> list[int]:
    """First slices of windows ``depth`` deep that cover ``slices``, evenly spread, overlapping by half."""
    if slices <= depth:
        return [0]
    count = 1 + int(np.ceil((slices - depth) / (depth / 2)))
    return [round(i * (slices - depth) / (count - 1)) for i in range(count)]


def predict_windows(image: np.ndarray, depth: int,
                    function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Sliding window along z: ``function`` of each window, blended with Gaussian weights (sigma depth / 4).

    image and answer: float32 (n, h, w). function: (depth, h, w) -> the same. Outer slices are repeated.
    """
    slices = len(image)
    padding = max(0, depth - slices)
    before = padding // 2
    padded = np.pad(image, ((before, padding - before), (0, 0), (0, 0)), mode="edge")
    total, weight = np.zeros(padded.shape), np.zeros((len(padded), 1, 1))
    share = np.exp(-0.5 * ((np.arange(depth) - (depth - 1) / 2) / (depth / 4)) ** 2)[:, None, None]
    for start in track(window_starts(len(padded), depth), "windows", lines=False):
        window = slice(start, start + depth)
        total[window] += share * function(padded[window])
        weight[window] += share
    return (total / weight)[before:before + slices].astype(np.float32)


def probability(network: torch.nn.Module, window: np.ndarray, device: torch.device,
                precision: torch.dtype) -> np.ndarray:
    """The network's foreground probability of a prepared window (d, h, w), float32. Sets evaluation mode."""
    evaluate_by_input(network)
    x = torch.from_numpy(np.ascontiguousarray(window))[None, None].to(device).float()
    with torch.inference_mode(), autocast(device, precision):
        logits = network(x.to(memory_format=torch.channels_last_3d))
    return torch.sigmoid(logits.float())[0, 0].cpu().numpy()


@dataclass(frozen=True)
class Model:
    """A trained network with the settings its input must be prepared with; window_depth: as memory allows."""

    network: torch.nn.Module
    settings: Settings
    record: dict
    device: torch.device
    precision: torch.dtype
    window_depth: int | None = None

    def probability(self, image: np.ndarray) -> np.ndarray:
        """Foreground probability of a prepared image (n, size, size), float32, blended from windows.

        The answers for each window and for its mirror image, left to right, are averaged. Where memory does
        not suffice, windows become shallower, which is announced. Raises MemoryError when no depth fits.
        """
        def both_ways(window: np.ndarray) -> np.ndarray:
            answer, mirrored = (probability(self.network, view, self.device, self.precision)
                                for view in (window, window[..., ::-1]))
            return (answer + mirrored[..., ::-1]) / 2

        depth = self.window_depth or self.settings.shape[0]
        while True:
            try:
                return predict_windows(image, depth, both_ways)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if depth == SMALLEST_SIDE:
                    raise MemoryError("windows of {} x {} x {} voxels do not fit; a run with smaller size or "
                                      "larger width_divisor would".format(depth, *image.shape[1:])) from error
                traceback.clear_frames(error.__traceback__)     # they hold the tensors that filled the memory
            depth = max(SMALLEST_SIDE, depth // 2)
            say(f"note: not enough memory; going on with windows of {depth} slices instead of "
                f"{self.settings.shape[0]}, from which the mask may differ a little")

    def segment(self, scan: Volume, centre: Triple | None = None) -> Volume:
        """SIJ mask, uint8, on the scan's own grid. The scan is a CT in HU in any orientation.

        centre: of the region of interest, as `locate` finds it, which is asked otherwise; where that finds
        no joint the mask is empty.
        """
        require_scan(scan)
        if self.settings.voxel_mm:
            centre = centre or locate(scan)
            if centre is None:
                return scan.with_array(np.zeros(scan.array.shape, np.uint8))
            region = region_about(centre, scan, self.settings.voxel_mm)
            p = self.probability(clip_and_scale(cut(scan, region, HU_WINDOW[0])))
            joints = joints_alone(Volume(p > THRESHOLD, (region.voxel,) * 3, direction=np.eye(3)))
            share = put_back(np.where(joints.array | (p <= THRESHOLD), p, 0), region, scan)
            return share.with_array((share.array > THRESHOLD).astype(np.uint8))
        planes = around_body(scan, self.record["pixel_mm"] * self.settings.size)
        prepared, frame = prepare(planes, None, self.settings)
        return onto_grid(restore(self.probability(prepared.image), frame, THRESHOLD), scan)


@functools.cache
def load_locator() -> Model:
    """The network that finds the joints in a whole scan, the same for every other."""
    return load_model(shipped_weights())


def locate(scan: Volume) -> Triple | None:
    """Where the locator finds the middle between the joints: mm as `magunet.region.joints_centre`; None where
    it finds none."""
    mask = load_locator().segment(scan)
    return joints_centre(mask) if mask.array.any() else None


def load_model(run: Path | str, plain: bool = False) -> Model:
    """A finished run's network, ready to predict; plain: as in `magunet.runs.fit`. InputError if damaged."""
    run = Path(run)
    for path in (run / RECORD_FILE, run / WEIGHTS_FILE):
        require(path.is_file(), f"{path}: missing; give the folder of a finished run, as train prints it")
    try:
        record = read_json(run / RECORD_FILE)
        if missing := [name for name in RECORD_ENTRIES if name not in record]:
            raise ValueError(f"{RECORD_FILE} does not say {missing[0]}")
        if not all(isinstance(record[name], list) for name in ("train", "val")):
            raise ValueError(f"train and val in {RECORD_FILE} must be lists of cases")
        if not 0.1 <= record["pixel_mm"] <= 20:
            raise ValueError(f"pixel_mm in {RECORD_FILE} must be a distance of pixels in mm")
        settings = from_mapping(record["settings"], str(run / RECORD_FILE))
        network = build(record["network"], settings.width_divisor)
        weights = safetensors.torch.load_file(run / WEIGHTS_FILE)
        network.load_state_dict(weights)
        if bad := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
            raise ValueError(f"{bad[0]} holds NaN or infinite values")
    except (ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{run}: record and weights cannot be read or do not fit together ({reason}); "
                         "remove the folder and train the run again") from error
    device = choose_device()
    precision = choose_precision("float32" if plain else settings.precision, device)
    network = (network if plain else accelerate(network)).to(device, memory_format=torch.channels_last_3d)
    return Model(network.eval(), settings, record, device, precision)


def shipped_weights() -> Path:
    """The folder of the weights that come with the project. Raises InputError where it is missing."""
    folder = project.data() / "weights"
    require((weights := folder / WEIGHTS_FILE).is_file(),
            f"{weights}: missing; take it from the repository again, or name a run with --model")
    return folder
