"""The contests: each takes an empty folder, and sizes for tests to run it in seconds, and sets one up."""

from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import psutil
import safetensors.torch
import torch

from benchmarks.speed import others, work
from benchmarks.speed.contest import MEGABYTES, SECONDS, Contest
from benchmarks.speed.work import NETWORK, Size
from compendium.fits import with_room
from compendium.paper import INPUT_SIZE
from magunet import augment, train
from magunet.base import profiles, project, provenance
from magunet.base.device import choose_device
from magunet.base.errors import InputError
from magunet.base.profiles import Settings
from magunet.cohort import Case
from magunet.fast import evaluate_by_input
from magunet.predict import RECORD_ENTRIES, RECORD_FILE, WEIGHTS_FILE, load_model
from magunet.prepare import Prepared, clip_and_scale, prepare, prepare_case
from magunet.studies import build
from magunet.surfaces import TOLERANCE_MM
from magunet.volume import Volume, read_volume, write_volume
from sijphantom.phantom import Phantom, make_phantom

CLINICAL = (150, 512, 512)
"""Voxels (d, h, w) of a CT as hospitals take it."""


@cache
def phantom(size: Size) -> Phantom:
    """A phantom of d slices of w x w pixels, made once."""
    return make_phantom(0, matrix=size[2], slices=(size[0], size[0]))


def scan_and_mask(size: Size) -> tuple[Volume, Volume]:
    """The phantom as a CT and its mask."""
    case = phantom(size)
    return Volume(case.image, case.spacing), Volume(case.mask, case.spacing)


def text(size: Size) -> str:
    """Such as "50x256x256"."""
    return "x".join(map(str, size))


def forward(folder: Path, size: Size = INPUT_SIZE, divisor: int = 1) -> Contest:
    networks = work.fast_network(divisor), build(NETWORK, divisor).to(choose_device())
    for network in networks:
        evaluate_by_input(network)
    image = torch.rand(1, 1, *size, device=choose_device())
    ours, theirs = (partial(work.pass_through, network, image, precision)
                    for network, precision in zip(networks, (work.default_precision(), torch.float32)))
    return Contest(work=f"{NETWORK} forward, 1 x {text(size)}", beside="own, float32",
                   ours=ours, theirs=theirs, target=0.33)


def training_step(folder: Path, profile: str = "cpu") -> Contest:
    settings, device = profiles.load(profile), choose_device()
    networks = work.fast_network(settings.width_divisor), build(NETWORK, settings.width_divisor).to(device)
    image = torch.rand(1, 1, *settings.shape, device=device)
    optimizers = [torch.optim.Adam(network.train().parameters()) for network in networks]
    ours, theirs = (partial(work.step, network, optimizer, image, precision) for network, optimizer, precision
                    in zip(networks, optimizers, (work.default_precision(), torch.float32)))
    return Contest(work=f"{NETWORK} training step, profile {profile}", beside="own, float32",
                   ours=ours, theirs=theirs, target=0.5)


def untrained_run(folder: Path, settings: Settings) -> Path:
    """A run's folder with random weights: they take as long as learnt ones."""
    torch.manual_seed(0)
    folder.mkdir()
    weights = build(NETWORK, settings.width_divisor).state_dict()
    safetensors.torch.save_file(weights, folder / WEIGHTS_FILE)
    record = {"network": NETWORK, "train": [], "val": [], "settings": asdict(settings), "pixel_mm": 2.5}
    provenance.write_json(folder / RECORD_FILE, dict.fromkeys(RECORD_ENTRIES) | record)
    return folder


def segment_file(run: Path, source: Path, target: Path) -> None:
    """What ``magunet predict`` does for a mask in NIfTI."""
    scan = read_volume(source)
    write_volume(with_room(load_model(run)).segment(scan), target)


def prediction(folder: Path, size: Size = CLINICAL, unit: str = SECONDS, target: float = 0.35,
               most: float | None = None, rounds: int = 3) -> Contest:
    write_volume(scan_and_mask(size)[0], folder / "ct.nii.gz")
    run = untrained_run(folder / "run", profiles.load("paper"))
    return Contest(work=f"prediction, file to file, {text(size)}",
                   beside="MONAI's AttentionUnet, float32, sliding window",
                   ours=partial(segment_file, run, folder / "ct.nii.gz", folder / "ours.nii.gz"),
                   theirs=partial(others.segment, folder / "ct.nii.gz", folder / "theirs.nii.gz"),
                   target=target, most=most, unit=unit, rounds=rounds, warm_up=False,
                   note="MONAI's windows tile the scan's own grid, ours its preparation")


def preparation(folder: Path, size: Size = CLINICAL, linear: bool = True) -> Contest:
    scan, mask = scan_and_mask(size)
    settings = profiles.load("paper")
    return Contest(work=f"preparation, {text(size)}",
                   beside=f"MONAI, {'linear, averaging' if linear else 'means of areas'}",
                   ours=partial(prepare, scan, mask, settings),
                   theirs=partial(others.prepare, scan, mask, settings.size, settings.margin_mm, linear),
                   target=0.35, rounds=3 if linear else 5)


def augmentation(folder: Path, size: Size = INPUT_SIZE, torchio: bool = False) -> Contest:
    device, case, generator = choose_device(), phantom(size), torch.Generator().manual_seed(0)
    image = torch.from_numpy(clip_and_scale(case.image))[None].to(device)
    mask = torch.from_numpy(case.mask)[None].to(device)

    def ours() -> None:
        with patch.object(augment, "AUGMENTATION_PROBABILITY", 1.0):
            augment.augment(image[None], mask[None], case.spacing, generator)

    theirs = (others.torchio_augmentation if torchio else others.monai_augmentation)(image, mask)
    return Contest(work=f"augmentation, {text(size)}", beside="TorchIO" if torchio else "MONAI",
                   ours=ours, theirs=theirs, target=0.8, rounds=15)


def metrics(folder: Path, size: Size = CLINICAL) -> Contest:
    case = phantom(size)
    pair = np.roll(case.mask, (1, 3), (0, 2)), case.mask, case.spacing
    ours, theirs = partial(work.metrics, *pair), partial(others.metrics, *pair, TOLERANCE_MM)
    values = "; ".join(f"{name} {a:.3f} and {b:.3f}"
                       for name, a, b in zip(("Dice", "HD95", "ASSD", "NSD"), ours(), theirs()))
    return Contest(work=f"Dice, HD95, ASSD, NSD, {text(size)}", beside="MONAI",
                   ours=ours, theirs=theirs, target=0.1,
                   note=f"ours and MONAI's: {values}; surfaces are defined differently")


def position_attention(folder: Path, positions: Size = (12, 64, 64)) -> Contest:
    needed = 2 * 4 * int(np.prod(positions)) ** 2
    if needed > psutil.virtual_memory().available:
        raise InputError(f"the naive matrix of PAM at {text(positions)} positions and its softmax take "
                         f"{needed / 1e9:.1f} GB, more than is free")
    return Contest(work=f"PAM, {text(positions)} positions", beside="the naive matrix",
                   ours=partial(work.attend, False, positions), theirs=partial(work.attend, True, positions),
                   unit=MEGABYTES, rounds=3)


def prepared_phantoms(folder: Path, count: int, settings: Settings) -> dict[str, Prepared]:
    """Prepared phantoms of a profile, mapped from files in a folder as in training."""
    size, cases = (settings.scan_slices[0], settings.scan_matrix, settings.scan_matrix), {}
    for number in range(count):
        files = [folder / f"{number}_{part}.nii.gz" for part in ("image", "label")]
        for volume, file in zip(scan_and_mask(size), files):
            write_volume(volume, file)
        with patch.object(project, "data", lambda: folder):
            cases[str(number)], _ = prepare_case(Case(str(number), *files, "", {}), settings)
    return cases


def epoch(folder: Path, settings: Settings | None = None, count: int = 4) -> Contest:
    settings = settings or profiles.load("cpu")
    device, precision = choose_device(), work.default_precision()
    cases = prepared_phantoms(folder, count, settings)
    state, alone = (train.new_state(NETWORK, settings, 0, 10**6, device) for _ in range(2))
    image = train.window(cases["0"], settings.shape, state.generator)[0]
    image = image.to(device, memory_format=torch.channels_last_3d)

    def whole_epoch() -> None:
        state.network.train()
        for case in [*cases.values()] * settings.samples_per_case:
            train.train_step(state, case, settings, device, precision)
        train.mean_loss(state)
        state.losses.clear()

    def steps_alone() -> None:
        alone.network.train()
        for _ in range(count * settings.samples_per_case):
            work.step(alone.network, alone.optimizer, image, precision)

    return Contest(work=f"epoch of {count} cases, profile {settings.profile}",
                   beside="its training steps alone", ours=whole_epoch, theirs=steps_alone,
                   target=1.05, rounds=9)


def train_once(settings: Settings, count: int) -> None:
    """An epoch of so many cases, for a process that does nothing else."""
    with TemporaryDirectory() as folder:
        epoch(Path(folder), settings, count).ours()


CONTESTS: dict[str, Callable[[Path], Contest]] = {
    "forward": forward,
    "prediction": prediction,
    "training-step": training_step,
    "preparation": preparation,
    "preparation-areas": partial(preparation, linear=False),
    "augmentation": augmentation,
    "augmentation-torchio": partial(augmentation, torchio=True),
    "metrics": metrics,
    "pam": position_attention,
    "epoch": epoch,
    "prediction-memory": partial(prediction, unit=MEGABYTES, target=0.5, most=2500.0, rounds=2),
}
"""Name -> what sets it up."""
