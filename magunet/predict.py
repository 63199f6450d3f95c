"""From a CT to a mask on the CT's own grid, with a trained run."""

import functools
import itertools
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch

from magunet import region
from magunet.base import project
from magunet.base.device import autocast, choose_device, choose_precision
from magunet.base.errors import InputError, is_out_of_memory, require
from magunet.base.profiles import SMALLEST_SIDE, Settings, from_mapping
from magunet.base.progress import say, track
from magunet.base.provenance import read_json
from magunet.fast import accelerate, evaluate_by_input
from magunet.prepare import HU_WINDOW, Shape, clip_and_scale, require_scan
from magunet.studies import build
from magunet.volume import Volume, orientation, reorient

THRESHOLD = 0.5
"""Voxels with a higher foreground probability belong to the mask."""
WEIGHTS_FILE = "weights.safetensors"
"""A run's weights, in its folder."""
RECORD_FILE = "run.json"
"""A run's record, written last: what it was trained from and with."""
RECORD_ENTRIES = ("network", "seed", "settings", "data_hash", "train", "val", "pixel_mm")
"""What a run's record must hold for the run to be used."""
LOCATOR = "locator"
"""Folder in ``data/weights`` of the network that finds the joints in a whole scan."""
ONE_MM = 60
"""One joint is narrower, and two are wider, the middles of which lie farther apart."""
NOTHING = "the network found no joint; the mask is empty"
"""What is said of an empty mask."""
CARD_FILE = "README.md"
"""Beside the weights that come with the project: what they can do and what they cannot."""


def window_starts(size: int, window: int) -> list[int]:
    """First places of windows that cover ``size`` voxels of an axis, evenly spread, overlapping by half."""
    if size <= window:
        return [0]
    count = 1 + int(np.ceil((size - window) / (window / 2)))
    return [round(i * (size - window) / (count - 1)) for i in range(count)]


def padding(shape: Shape, window: Shape) -> list[tuple[int, int]]:
    """Voxels before and behind along each axis that an array of this shape lacks of a window."""
    lacks = [max(0, m - n) for n, m in zip(shape, window)]
    return [(lack // 2, lack - lack // 2) for lack in lacks]


def predict_windows(image: np.ndarray, shape: Shape,
                    function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Sliding window: ``function`` of each window, blended with Gaussian weights (sigma a quarter of it).

    image and answer: float32 (n, h, w). function: windows of this shape -> the same. Along an axis with more
    than one window they overlap by half; beyond the image its outer voxels are repeated.
    """
    pad = padding(image.shape, shape)
    padded = np.pad(image, pad, mode="edge")
    total, share, weight = np.zeros(padded.shape), np.ones(shape), np.ones((1, 1, 1))
    starts = [window_starts(n, m) for n, m in zip(padded.shape, shape)]
    for axis, (firsts, n, m) in enumerate(zip(starts, padded.shape, shape)):
        along = [-1 if other == axis else 1 for other in range(3)]
        bell = np.exp(-8 * ((np.arange(m) - (m - 1) / 2) / m) ** 2) if len(firsts) > 1 else np.ones(m)
        sums = sum(np.pad(bell, (first, n - m - first)) for first in firsts)
        share, weight = share * bell.reshape(along), weight * sums.reshape(along)
    for corner in track(list(itertools.product(*starts)), "windows", lines=False):
        window = tuple(slice(start, start + m) for start, m in zip(corner, shape))
        total[window] += share * function(padded[window])
    inside = tuple(slice(before, before + n) for (before, _), n in zip(pad, image.shape))
    return (total / weight)[inside].astype(np.float32)


def probability(network: torch.nn.Module, window: np.ndarray, device: torch.device,
                precision: torch.dtype) -> np.ndarray:
    """The network's foreground probability of a prepared window (d, h, w), float32. Sets evaluation mode."""
    evaluate_by_input(network)
    x = torch.from_numpy(np.ascontiguousarray(window))[None, None].to(device).float()
    with torch.inference_mode(), autocast(device, precision):
        logits = network(x.to(memory_format=torch.channels_last_3d))
    return torch.sigmoid(logits.float())[0, 0].cpu().numpy()


class Answer(NamedTuple):
    """A mask, uint8, on the scan's own grid; the foreground probability on the grid that the network sees,
    None where it saw nothing; and what the locator has to say, or ""."""

    mask: Volume
    chance: Volume | None = None
    note: str = ""


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

        depth, *plane = self.window_depth or self.settings.shape[0], *self.settings.shape[1:]
        while True:
            try:
                return predict_windows(image, (depth, *plane), both_ways)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if depth == SMALLEST_SIDE:
                    raise MemoryError("windows of {} x {} x {} voxels do not fit; a run with smaller size or "
                                      "larger width_divisor would".format(depth, *plane)) from error
                traceback.clear_frames(error.__traceback__)     # they hold the tensors that filled the memory
            depth = max(SMALLEST_SIDE, depth // 2)
            say(f"note: not enough memory; going on with windows of {depth} slices instead of "
                f"{self.settings.shape[0]}, from which the mask may differ a little")

    def segment(self, scan: Volume, centre: region.Triple | None = None) -> Volume:
        """SIJ mask, uint8, on the scan's own grid, as of `answer`."""
        return self.answer(scan, centre).mask

    def answer(self, scan: Volume, centre: region.Triple | None = None) -> Answer:
        """The mask of a scan, which is a CT in HU in any orientation, and what there is to know of it.

        centre: of the region of interest, as `locate` finds it, which is asked otherwise. Pieces of the mask
        away from both joints are removed.
        """
        require_scan(scan)
        lps, note, voxel = reorient(scan, "LPS"), "", self.settings.voxel_mm
        if not voxel:
            box = region.whole_planes(lps, self.settings, self.record["pixel_mm"] * self.settings.size)
        elif self.settings.depth:
            box = region.whole(lps, voxel)
        else:
            centre, note = (centre, "") if centre else locate(lps)
            if centre is None:
                return Answer(scan.with_array(np.zeros(scan.array.shape, np.uint8)), note=note)
            box = region.region_about(centre, lps, voxel)
        chance = self.chance(lps, box)
        mask = chance.with_array(chance.array > THRESHOLD)
        chance.array[mask.array & (region.joints_alone(mask).array == 0)] = 0
        mask = region.put_back(chance.array, box, lps).array > THRESHOLD
        return Answer(reorient(lps.with_array(mask.astype(np.uint8)), orientation(scan)), chance,
                      "; ".join(filter(None, [note, NOTHING * (not mask.any())])))

    def chance(self, lps: Volume, box: region.Region) -> Volume:
        """Foreground probability in a region of a scan in LPS, float32."""
        return region.placed(self.probability(clip_and_scale(region.cut(lps, box, HU_WINDOW[0]))), box, lps)


@functools.cache
def load_locator() -> Model:
    """The network that finds the joints in a whole scan, the same for every other."""
    return load_model(shipped_weights() / LOCATOR)


def locate(scan: Volume) -> tuple[region.Triple | None, str]:
    """Where the locator finds the middle between the joints, mm as `magunet.region.joints_centre`, None where
    it finds none; and what there is to know of it, or ""."""
    model, lps = load_locator(), reorient(scan, "LPS")
    box = region.whole(lps, model.settings.voxel_mm, body=True)
    mask = region.joints(model.chance(lps, box), region.LEAST_ML, region.SURE)
    if not mask.array.any():
        return None, ("no sacroiliac joint is found in it: it is no pelvis, or cuts the joints off, or its "
                      "header turns or stretches it, or its values are not HU; the mask is empty")
    across = np.ptp(np.flatnonzero(mask.array.any((0, 1)))) * box.voxel[2]
    note = "only one joint is found in it; the other is cut off, or missed" if across < ONE_MM else ""
    return tuple(np.add(region.joints_centre(mask), box.first).tolist()), note


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
