"""A run: one network trained once, in a folder of its own under ``runs/``, and never again when finished.

Its name holds a hash of everything that decides the weights: network, settings, precision, data and code.
"""

import traceback
from pathlib import Path

import numpy as np
import torch

from magunet import attention, augment, blocks, checkpoint, fast, losses, model, studies, train
from magunet.base import project, provenance
from magunet.base.device import choose_device, choose_precision, peak_memory_mb, reset_peak_memory
from magunet.base.errors import is_out_of_memory, require
from magunet.base.profiles import Settings
from magunet.base.progress import track
from magunet.cohort import Cohort, evenly
from magunet.model import MAGUNetConfig
from magunet.peers import adapt, deeplab, monai, segnet, transunet, unetr
from magunet.predict import RECORD_FILE, WEIGHTS_FILE
from magunet.prepare import cache_key, prepare_case
from magunet.studies import checked, configuration

TRAINING_SETTINGS = ("voxel_mm", "depth", "size", "slice_mm", "margin_mm", "width_divisor", "epochs",
                     "samples_per_case", "augmentation", "optimizer", "weight_decay", "schedule",
                     "warmup_steps", "clip_norm")
"""The settings that change the weights; the others change the data, which is hashed itself."""
CODE = (attention, augment, blocks, fast, losses, model, studies, train,
        adapt, deeplab, monai, segnet, transunet, unetr)
"""The modules that decide the weights."""


def data_hash(cohort: Cohort, settings: Settings) -> str:
    """Changes with any image or mask in the split, the split, and how they are prepared."""
    used = [cohort.cases[name] for name in (*cohort.train, *cohort.val)]
    keys = {case.name: cache_key(case.image, case.label, settings) for case in used}
    return provenance.content_hash(keys, cohort.train, cohort.val)


def run_hash(network: str | MAGUNetConfig, settings: Settings, data: str, plain: bool = False) -> str:
    """Changes with all that decides the weights but the seed; ``data`` is from `data_hash`."""
    precision = "plain" if plain else str(choose_precision(settings.precision, choose_device()))
    return provenance.content_hash(
        configuration(network, settings.width_divisor), precision, data,
        {name: getattr(settings, name) for name in TRAINING_SETTINGS},
        settings.rate_of(checked(network, settings.width_divisor)), provenance.code_hash(*CODE))


def run_folder(network: str | MAGUNetConfig, settings: Settings, seed: int, data: str,
               plain: bool = False) -> Path:
    """Where this run lies, or will: ``runs/<network>-<hash>-s<seed>``, one for two names of a network."""
    network = checked(network, settings.width_divisor)
    return project.runs() / f"{network.replace(' ', '-')}-{run_hash(network, settings, data, plain)}-s{seed}"


def is_finished(folder: Path) -> bool:
    """Whether the run was trained to its end: its record is written last."""
    return (folder / RECORD_FILE).exists()


def fit(network: str | MAGUNetConfig, settings: Settings, seed: int, cohort: Cohort, *,
        recompute: bool = False, plain: bool = False) -> Path:
    """Train a network of ``magunet.studies``, or any MAG-UNet, unless its run is finished; return the folder.

    An unfinished one goes on from its last checkpoint. On the CPU the same seed, settings, data and thread
    count give the same weights, bit for bit. recompute: as `magunet.fast.recompute`, which changes no weight.
    plain: without `magunet.fast.accelerate` and in float32, in a folder of its own. Raises InputError for a
    cohort without training cases, and MemoryError where a step does not fit.
    """
    require(cohort.train, f"{cohort.root}: holds scans of one patient only, so there is nothing to train on; "
                          "add other patients")
    network, data = checked(network, settings.width_divisor), data_hash(cohort, settings)
    folder = run_folder(network, settings, seed, data, plain)
    if not is_finished(folder):
        with provenance.alone_in(folder):
            if not is_finished(folder):                     # now, after waiting
                _fit(network, settings, seed, cohort, data, folder, recompute, plain)
    return folder


def _fit(network: str, settings: Settings, seed: int, cohort: Cohort, data: str, folder: Path,
         recompute: bool, plain: bool) -> None:
    device = choose_device()
    precision = choose_precision("float32" if plain else settings.precision, device)
    held_out = evenly(cohort.val, train.CURVE_CASES)
    prepared = {case.name: prepare_case(case, settings)[0] for case in
                track([cohort.cases[name] for name in (*cohort.train, *held_out)], "prepared")}
    for case in track([cohort.cases[name] for name in cohort.val if name not in held_out], "checked"):
        prepare_case(case, settings)                        # what cannot be scored is refused now
    divisor, settings_hash = settings.width_divisor, run_hash(network, settings, data, plain)
    record = {"network": network, "seed": seed, "settings": settings.as_dict(),
              "pixel_mm": round(float(np.median([case.spacing[1] for case in prepared.values()])), 3),
              "data_hash": data, "settings_hash": settings_hash, "train": cohort.train, "val": cohort.val,
              "config": configuration(network, divisor), "precision": str(precision).removeprefix("torch."),
              "git": provenance.git_revision(project.root()), **provenance.environment(device)}
    sides = [{name: prepared[name] for name in side} for side in (cohort.train, held_out)]
    reset_peak_memory(device)
    with torch.random.fork_rng():
        try:
            state = train.train(folder, network, settings, seed, *sides, settings_hash, device, precision,
                                recompute, plain)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)     # they hold the tensors that filled the memory
            size = " x ".join(map(str, settings.shape))
            raise MemoryError(f"training {network} on windows of {size} voxels does not fit") from error
    weights = folder / WEIGHTS_FILE
    checkpoint.write_tensors(state.network.state_dict(), weights)
    record |= {"epochs": len(state.log), "seconds": round(sum(entry["seconds"] for entry in state.log), 1),
               "peak_memory_mb": peak_memory_mb(device),
               "outputs": {WEIGHTS_FILE: provenance.file_hash(weights)}}
    provenance.write_json(folder / RECORD_FILE, record)
