"""The contests of ``magunet bench``: each is a context that sets one up and cleans up after it.

Sizes are arguments, so that tests can run every contest in seconds; their defaults are those of the table.
"""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil
import safetensors.torch
import torch

from compendium.bench import others
from compendium.bench.ceilings import copy_seconds
from compendium.bench.contest import GPU_MEGABYTES, MEGABYTES, SECONDS, Contest
from compendium.bench.first_phantom import FirstPhantom
from compendium.bench.passes import (
    NETWORK,
    both_networks,
    default_precision,
    floor,
    pass_through,
    step,
    two_steps,
)
from compendium.fits import with_room
from compendium.paper import INPUT_SIZE
from magunet import augment, train
from magunet.base import profiles, project, provenance
from magunet.base.device import choose_device
from magunet.base.errors import InputError
from magunet.base.profiles import Settings
from magunet.blocks import PAM
from magunet.checkpoint import TrainingState
from magunet.fast import evaluate_by_input
from magunet.metrics import overlap
from magunet.predict import RECORD_ENTRIES, RECORD_FILE, WEIGHTS_FILE, load_model, window_starts
from magunet.prepare import Prepared, clip_and_scale, prepare, prepare_case
from magunet.studies import build
from magunet.surfaces import TOLERANCE_MM, surface_scores
from magunet.volume import Volume, read_volume, write_volume
from sijphantom.phantom import Phantom, make_phantom

CPU = torch.device("cpu")
CLINICAL = (512, 150)
"""Matrix and slices of a CT as hospitals take it."""


@cache
def phantom(matrix: int, slices: int) -> Phantom:
    """A phantom of this size, made once."""
    return make_phantom(0, matrix=matrix, slices=(slices, slices))


def scan_and_mask(matrix: int, slices: int) -> tuple[Volume, Volume]:
    """The phantom as a CT and its mask."""
    made = phantom(matrix, slices)
    return Volume(made.image, made.spacing), Volume(made.mask, made.spacing)


@contextmanager
def forward(size: tuple[int, int, int] = INPUT_SIZE, divisor: int = 1) -> Iterator[Contest]:
    networks = both_networks(divisor)
    for network in networks:
        evaluate_by_input(network)
    image = torch.rand(1, 1, *size, device=choose_device())
    ours, theirs = (partial(pass_through, network, image, precision)
                    for network, precision in zip(networks, (default_precision(), torch.float32)))
    yield Contest(f"{NETWORK} forward, 1 x {'x'.join(map(str, size))}", "own, float32", ours, theirs,
                  target=0.33, floor=floor(divisor, size, training=False))


@contextmanager
def training_step(profile: str = "cpu", target: float = 0.5) -> Iterator[Contest]:
    settings = profiles.load(profile)
    size, ways = (settings.depth, settings.size, settings.size), []
    image = torch.rand(1, 1, *size, device=choose_device())
    mask = (image > 0.9).to(torch.uint8)
    for network, precision in zip(both_networks(settings.width_divisor), (default_precision(), torch.float32)):
        optimizer = torch.optim.Adam(network.train().parameters(), lr=settings.learning_rate)
        ways.append(partial(step, network, optimizer, image, mask, precision))
    yield Contest(f"{NETWORK} training step, profile {profile}", "own, float32", *ways, target=target,
                  floor=floor(settings.width_divisor, size, training=True))


@contextmanager
def training_memory(profile: str = "paper") -> Iterator[Contest]:
    settings = profiles.load(profile)
    size = settings.depth, settings.size, settings.size
    ways = [partial(two_steps, size, settings.width_divisor, precision) for precision in (default_precision(), torch.float32)]
    yield Contest(f"{NETWORK} training step, profile {profile}", "own, float32", *ways, most=22 * 2**30 / 1e6,
                  unit=GPU_MEGABYTES, rounds=1)


@contextmanager
def prediction_loaded(matrix: int = CLINICAL[0], slices: int = CLINICAL[1]) -> Iterator[Contest]:
    scan, ways = scan_and_mask(matrix, slices)[0], []
    for precision in ("auto", "float32"):
        with tempfile.TemporaryDirectory(prefix="magunet-bench-") as name:
            settings = replace(profiles.load("paper"), profile="bench", precision=precision)
            ways.append(load_model(untrained_run(Path(name) / "run", settings)))
    yield Contest(f"prediction after loading, {slices}x{matrix}x{matrix}", "own, float32",
                  *(partial(model.segment, scan) for model in ways), most=1.0)


@contextmanager
def on_gpu(contest: Callable[..., AbstractContextManager[Contest]], **sizes) -> Iterator[Contest]:
    """A contest for a GPU. Raises InputError where there is none."""
    if choose_device().type != "cuda":
        raise InputError("is for a GPU, and there is none here")
    with contest(**sizes) as made:
        yield made


def untrained_run(folder: Path, settings: Settings) -> Path:
    """A run's folder with random weights: they take as long as learnt ones."""
    torch.manual_seed(0)
    folder.mkdir()
    safetensors.torch.save_file(build(NETWORK, settings.width_divisor).state_dict(), folder / WEIGHTS_FILE)
    known = {"network": NETWORK, "train": [], "val": [], "settings": asdict(settings)}
    provenance.write_json(folder / RECORD_FILE, dict.fromkeys(RECORD_ENTRIES) | known)
    return folder


def segment_file(run: Path, source: Path, target: Path) -> None:
    """What ``magunet predict --formats nifti`` does."""
    scan = read_volume(source)
    write_volume(with_room(load_model(run)).segment(scan), target)


@contextmanager
def prediction(matrix: int = CLINICAL[0], slices: int = CLINICAL[1], unit: str = SECONDS, target: float = 0.35,
               most: float | None = None, rounds: int = 3) -> Iterator[Contest]:
    """The floor is that of the network's passes alone, two for each window."""
    settings = replace(profiles.load("paper"), profile="bench")
    with tempfile.TemporaryDirectory(prefix="magunet-bench-") as name:
        folder = Path(name)
        write_volume(scan_and_mask(matrix, slices)[0], folder / "ct.nii.gz")
        run = untrained_run(folder / "run", settings)
        passes = 2 * len(window_starts(slices, settings.depth))
        yield Contest(f"prediction, file to file, {slices}x{matrix}x{matrix}", "MONAI's AttentionUnet, float32, sliding window",
                      partial(segment_file, run, folder / "ct.nii.gz", folder / "ours.nii.gz"),
                      partial(others.segment_with_monai, folder / "ct.nii.gz", folder / "theirs.nii.gz"),
                      target=target, most=most, unit=unit, rounds=rounds, warm_up=False,
                      floor=passes * floor(1, INPUT_SIZE, training=False) if unit == SECONDS else None,
                      note="MONAI's windows tile the scan's own grid, ours its preparation")


prediction_memory = partial(prediction, unit=MEGABYTES, target=0.5, most=2500.0, rounds=2)


@contextmanager
def preparation(matrix: int = CLINICAL[0], slices: int = CLINICAL[1], linear: bool = True) -> Iterator[Contest]:
    scan, mask = scan_and_mask(matrix, slices)
    settings = profiles.load("paper")
    made = prepare(scan, mask, settings)[0]
    yield Contest(f"preparation, {slices}x{matrix}x{matrix}", f"MONAI, {'linear, averaging' if linear else 'means of areas'}",
                  partial(prepare, scan, mask, settings),
                  partial(others.prepare_with_monai, scan, mask, settings.size, settings.margin_mm, linear), target=0.35,
                  floor=copy_seconds(CPU, scan.array, mask.array, made.image, made.mask), rounds=3 if linear else 5)


@contextmanager
def augmentation(size: tuple[int, int, int] = INPUT_SIZE, torchio: bool = False) -> Iterator[Contest]:
    device, made = choose_device(), phantom(size[1], size[0])
    image = torch.from_numpy(clip_and_scale(made.image))[None].to(device)
    mask = torch.from_numpy(made.mask)[None].to(device)
    generator = torch.Generator().manual_seed(0)
    theirs = others.torchio_augmentation(image, mask) if torchio else partial(others.augment_with_monai, image, mask)
    with patch.object(augment, "AUGMENTATION_PROBABILITY", 1.0):
        yield Contest(f"augmentation, {'x'.join(map(str, size))}", "TorchIO" if torchio else "MONAI",
                      partial(augment.augment, image[None], mask[None], made.spacing, generator), theirs, target=0.8,
                      floor=2 * copy_seconds(device, image, mask), rounds=15)


def our_metrics(prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, float, float]) -> tuple[float, ...]:
    """Dice, HD95, ASSD and NSD."""
    scores = surface_scores(prediction, truth, spacing)
    return overlap(prediction, truth).dice, scores.hd95, scores.assd, scores.nsd


@contextmanager
def metrics(matrix: int = CLINICAL[0], slices: int = CLINICAL[1]) -> Iterator[Contest]:
    made = phantom(matrix, slices)
    moved = np.roll(made.mask, (1, 3), (0, 2))
    pair = (moved, made.mask, made.spacing)
    ours, theirs = our_metrics(*pair), others.metrics_with_monai(*pair, TOLERANCE_MM)
    values = "; ".join(f"{name} {a:.3f} and {b:.3f}" for name, a, b in zip(("Dice", "HD95", "ASSD", "NSD"), ours, theirs))
    yield Contest(f"Dice, HD95, ASSD, NSD, {slices}x{matrix}x{matrix}", "MONAI", partial(our_metrics, *pair),
                  partial(others.metrics_with_monai, *pair, TOLERANCE_MM), target=0.1, floor=copy_seconds(CPU, moved, made.mask),
                  note=f"ours and MONAI's: {values}; surfaces are defined differently")


def attend(naive: bool, positions: tuple[int, int, int], channels: int = 64) -> None:
    """Position attention over a map of this size."""
    with torch.inference_mode():
        pam, x = PAM(channels), torch.rand(1, channels, *positions)
        (partial(others.naive_position_attention, pam) if naive else pam)(x)


@contextmanager
def position_attention(positions: tuple[int, int, int] = (12, 64, 64)) -> Iterator[Contest]:
    """Raises InputError, which names the bytes, where the matrix and its softmax do not fit into memory."""
    needed = 2 * 4 * int(np.prod(positions)) ** 2
    if needed > psutil.virtual_memory().available:
        raise InputError(f"the naive matrix of PAM at {'x'.join(map(str, positions))} positions and its softmax take "
                         f"{needed / 1e9:.1f} GB, more than is free")
    yield Contest(f"PAM, {'x'.join(map(str, positions))} positions", "the naive matrix", partial(attend, False, positions),
                  partial(attend, True, positions), unit=MEGABYTES, rounds=3)


@contextmanager
def phantom_generation(matrix: int = 256, slices: int = 50) -> Iterator[Contest]:
    ours, theirs, made = itertools.count(), itertools.count(), phantom(matrix, slices)
    with FirstPhantom() as first:
        yield Contest(f"phantom, {slices}x{matrix}x{matrix}, one core", "its first version",
                      lambda: make_phantom(next(ours), matrix=matrix, slices=(slices, slices)),
                      lambda: first.make(matrix, slices, next(theirs)), target=0.5,
                      floor=copy_seconds(CPU, made.image, made.mask))


def prepared_phantoms(folder: Path, count: int, settings: Settings) -> dict[str, Prepared]:
    """Prepared phantoms of a profile, mapped from files in a folder as in training; made where they are not there yet."""
    made = {}
    for number in range(count):
        image, label = (folder / f"{number}_{part}.nii.gz" for part in ("image", "label"))
        if not label.exists():
            scan, mask = scan_and_mask(settings.scan_matrix, settings.scan_slices[0])
            write_volume(scan, image)
            write_volume(mask, label)
        with patch.object(project, "data", lambda: folder):
            made[str(number)], _ = prepare_case(str(number), image, label, settings)
    return made


@contextmanager
def epoch(settings: Settings | None = None, cases: int = 4) -> Iterator[Contest]:
    with tempfile.TemporaryDirectory(prefix="magunet-bench-") as folder:
        yield epoch_of(settings or profiles.load("cpu"), cases, Path(folder))


def epoch_of(settings: Settings, cases: int, folder: Path) -> Contest:
    """The contest of `epoch`, with its cases in files in a folder."""
    device, precision = choose_device(), default_precision()
    made = prepared_phantoms(folder, cases, settings)
    state = train.new_state(NETWORK, settings, 0, 10**6, device)
    image, mask = train.window(made["0"], settings.depth, state.generator)
    image, mask = image.to(device, memory_format=torch.channels_last_3d), mask.to(device)

    @cache
    def other() -> TrainingState:
        """A second network, made when it is needed."""
        return train.new_state(NETWORK, settings, 0, 10**6, device)

    def train_all() -> None:
        state.losses = []
        for name in [name for name in made for _ in range(settings.samples_per_case)]:
            train.train_step(state, made[name], settings, device, precision)
        train.mean_loss(state)

    def compute() -> None:
        other().network.train()
        for _ in range(cases * settings.samples_per_case):
            step(other().network, other().optimizer, image, mask, precision)

    return Contest(f"epoch of {cases} cases, profile {settings.profile}", "its training steps alone",
                   train_all, compute, target=1.05, rounds=9)


CONTESTS: dict[str, Callable[[], AbstractContextManager[Contest]]] = {
    "forward": forward,
    "prediction": prediction,
    "training-step": training_step,
    "preparation": preparation,
    "preparation-areas": partial(preparation, linear=False),
    "augmentation": augmentation,
    "augmentation-torchio": partial(augmentation, torchio=True),
    "metrics": metrics,
    "pam": position_attention,
    "phantom": phantom_generation,
    "epoch": epoch,
    "prediction-memory": prediction_memory,
    "gpu-training-step": partial(on_gpu, training_step, profile="paper", target=0.3),
    "gpu-training-memory": partial(on_gpu, training_memory),
    "gpu-prediction": partial(on_gpu, prediction_loaded),
}
