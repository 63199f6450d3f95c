"""Training on phantoms that are made while it goes on, each seen a few times and then forgotten.

Another process makes them ahead. The step alone decides which phantom is seen, so a training that was killed
goes on where it was and ends with the same weights.
"""

import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch

from magunet import body, checkpoint, prepare, region, runs, train, volume
from magunet.base import project, provenance
from magunet.base.device import choose_device, choose_precision, peak_memory_mb, reset_peak_memory
from magunet.base.profiles import BOX_MM, Settings
from magunet.base.progress import say
from magunet.predict import RECORD_FILE, WEIGHTS_FILE
from magunet.studies import configuration
from magunet.volume import Volume, part_of
from sijphantom import cohort
from sijphantom.pelvis import parametric_pelvis
from sijphantom.phantom import make_phantom
from sijphantom.scanner import Protocol

BLOCK = 64
"""Steps whose phantoms are on disk at a time and come in a random order, each samples_per_case times."""
REPORT = 250
"""Steps from one line of the log to the next."""
START = 16
"""Phantoms whose mean share of target the last bias starts at."""
PART = 4
"""Of every so many phantoms the locator sees a part, so that it learns what is no joint."""
PELVIS_MM = 1.5
"""Voxels that a varied pelvis is drawn in."""
FIELDS_MM = {"locator": (200, 700), "weights": (200, 500)}
"""Profile -> smallest and largest field of view of its phantoms."""


def options(settings: Settings, seed: int) -> dict:
    """Arguments of `make_phantom`: a protocol of its own for each seed, wider than the paper's."""
    low, high = FIELDS_MM[settings.profile]
    pixel = np.random.default_rng(seed).uniform(low, high) / settings.scan_matrix
    protocol = Protocol(pixel_mm=(pixel, pixel), margin_mm=(2.0, 110.0))
    return dict(matrix=settings.scan_matrix, slices=settings.scan_slices, thickness=settings.target_mm,
                protocol=protocol)


def a_part(seed: int, scan: Volume, mask: Volume) -> tuple[Volume, Volume]:
    """A quarter to three quarters of a scan and its mask: the upper, lower, left or right one."""
    rng = np.random.default_rng(seed)
    axis, share, first = rng.choice([0, 2]), rng.uniform(0.25, 0.75), rng.random() < 0.5
    size, box = scan.array.shape[axis], [slice(0, n) for n in scan.array.shape]
    place = round(share * size)
    box[axis] = slice(0, place) if first else slice(place, size)
    return part_of(scan, tuple(box)), part_of(mask, tuple(box))


def make(settings: Settings, seed: int, varied: bool, path: Path) -> None:
    """Write the prepared phantom of a seed, unless it is there; varied: if odd, with a varied pelvis."""
    torch.set_num_threads(1)
    if not path.exists():
        bones = parametric_pelvis(seed, PELVIS_MM, varied=True) if varied and seed % 2 else None
        scan, mask = cohort.phantom_scan(make_phantom(seed, bones=bones, **options(settings, seed)))
        if settings.depth and seed % PART == 0:
            scan, mask = a_part(seed, scan, mask)
        image, target, _ = prepare.prepare(scan, mask, settings)
        with provenance.whole_file(path) as part:
            part.write_bytes(safetensors.numpy.save({"image": image.astype(np.float16), "mask": target}))


class Stream:
    """Step -> prepared phantom."""

    def __init__(self, settings: Settings, varied: bool, folder: Path, pool: ProcessPoolExecutor) -> None:
        self.settings, self.varied, self.folder, self.pool = settings, varied, folder, pool
        self.jobs: dict[int, Future] = {}

    def seeds(self, block: int) -> np.ndarray:
        """Of the steps of a block, in their order."""
        times = self.settings.samples_per_case
        count = BLOCK // times
        first = self.settings.cohort_seed + block * count
        return np.random.default_rng(block).permutation(np.repeat(range(first, first + count), times))

    def at(self, step: int, ahead: bool = True) -> prepare.Prepared:
        """The phantom of a step; what is needed until the end of the next block is asked for beforehand."""
        block, place = divmod(step, BLOCK)
        wanted = [*self.seeds(block), *self.seeds(block + 1)][place:]
        if ahead and place == 0:
            for path in self.folder.glob("*.safetensors"):
                if int(path.stem) < min(wanted):
                    path.unlink()
        for seed in dict.fromkeys(map(int, wanted)) if ahead else [int(wanted[0])]:
            if seed not in self.jobs:
                self.jobs[seed] = self.pool.submit(make, self.settings, seed, self.varied, self.path(seed))
        self.jobs = {seed: job for seed, job in self.jobs.items() if seed >= min(wanted) or not job.done()}
        seed = int(wanted[0])
        if seed in self.jobs:
            self.jobs[seed].result()
        stored = safetensors.numpy.load_file(self.path(seed))
        return prepare.Prepared(stored["image"], stored["mask"], (self.settings.voxel_mm,) * 3)

    def path(self, seed: int) -> Path:
        return self.folder / f"{seed}.safetensors"


def learn(network: str, settings: Settings, watched: Callable[[torch.nn.Module], float],
          start: Path | None = None) -> Path:
    """Train on a stream of phantoms, or go on, or take what is finished; returns the run's folder.

    watched: what of a network stands in its log, every so many steps; it chooses nothing. start: folder of
    weights to begin with, from where on every second phantom has a varied pelvis.
    """
    device = choose_device()
    precision, seed = choose_precision(settings.precision, device), settings.seeds[0]
    code = provenance.code_hash(*runs.CODE, *cohort.PHANTOM_CODE, body, prepare, region, volume,
                                sys.modules[__name__])
    key = provenance.content_hash(network, settings.as_dict(), FIELDS_MM, BLOCK, BOX_MM, code,
                                  provenance.file_hash(start / WEIGHTS_FILE) if start else None)
    folder = project.runs() / f"{settings.profile}-{network}-{key}"
    if runs.is_finished(folder):
        return folder
    steps = settings.cases * settings.samples_per_case // BLOCK * BLOCK
    path, began = folder / train.CHECKPOINT_FILE, time.monotonic()
    reset_peak_memory(device)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        stream = Stream(settings, start is not None, folder / "phantoms", pool)
        state = train.new_state(network, settings, seed, steps, device)
        if not (path.exists() and checkpoint.restore(state, path, key)):
            state = train.new_state(network, settings, seed, steps, device)
            if start:
                state.network.load_state_dict(safetensors.torch.load_file(start / WEIGHTS_FILE))
            else:
                first = {str(step): stream.at(step) for step in range(START)}
                train.start_at_share(state.network, train.share_of(first, settings))
        begin = REPORT * len(state.log) + len(state.losses)
        say(f"{folder.name}: from step {begin} of {steps}")
        earlier, saved = state.seconds, time.monotonic()
        for step in range(begin, steps):
            state.network.train()
            state.order.append(str(step))
            train.train_step(state, stream.at(step), settings, device, precision)
            if last := (step + 1) % REPORT == 0 or step + 1 == steps:
                loss = train.mean_loss(state)
                state.log.append({"step": step + 1, "loss": loss, "dice": watched(state.network)})
                state.order, state.losses = [], []
                say(f"{settings.profile}: step {step + 1}/{steps}  loss {loss:.3f}  Dice "
                    f"{state.log[-1]['dice']:.3f}  {earlier + time.monotonic() - began:.0f} s")
            if last or time.monotonic() - saved > train.STEP_SECONDS:
                state.seconds, saved = earlier + time.monotonic() - began, time.monotonic()
                checkpoint.save(state, path, key)
        pool.shutdown(cancel_futures=True)
    checkpoint.write_tensors(state.network.state_dict(), folder / WEIGHTS_FILE)
    seeds = [settings.cohort_seed, settings.cohort_seed + steps // settings.samples_per_case - 1]
    provenance.write_json(folder / RECORD_FILE, {
        "network": network, "seed": seed, "settings": settings.as_dict(), "settings_hash": key,
        "data_hash": key,
        "train": [f"phantoms of seeds {seeds[0]} to {seeds[1]}"], "val": [], "pixel_mm": settings.voxel_mm,
        "steps": steps, "fields_mm": FIELDS_MM[settings.profile], "log": state.log, "epochs": 1,
        "config": configuration(network, settings.width_divisor),
        "precision": str(precision).removeprefix("torch."),
        "git": provenance.git_revision(project.root()), **provenance.environment(device),
        "start": provenance.read_json(start / RECORD_FILE) if start else None,
        "seconds": round(state.seconds, 1), "peak_memory_mb": peak_memory_mb(device),
        "outputs": {WEIGHTS_FILE: provenance.file_hash(folder / WEIGHTS_FILE)}})
    return folder
