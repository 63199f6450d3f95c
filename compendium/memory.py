"""What training and prediction take in memory, counted from shapes beforehand, and what fits where it does not suffice."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from magunet import losses, train
from magunet.base.device import autocast, choose_precision, free_memory
from magunet.base.errors import is_out_of_memory
from magunet.base.profiles import SMALLEST_SIDE, Settings
from magunet.base.progress import say
from magunet.fast import accelerate, evaluate_by_input
from magunet.fast import recompute as recompute_levels
from magunet.predict import Model
from magunet.prepare import Prepared
from magunet.studies import build_on_meta

CPU = torch.device("cpu")
OWN_BYTES = {"cpu": 450e6, "cuda": 600e6}
"""What Python and torch take before the first tensor: resident on the CPU, the context on a GPU."""
ADAM_BYTES = 8
"""Of the two moments that Adam keeps of a parameter."""
GLANCE_BYTES = 50_000
"""Per voxel of the window: more than any network here takes at any width."""


class PeakBytes(TorchDispatchMode):
    """Context that counts the bytes of all tensors made in it while they live: ``peak`` is the most at a time."""

    def __init__(self):
        super().__init__()
        self.living, self.peak = {}, 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.living[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.living = {key: held for key, held in self.living.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.living.values()))
        return result


@contextmanager
def counting() -> Iterator[PeakBytes]:
    """Context in which tensors have shapes but no values, and their bytes are counted."""
    with FakeTensorMode(), PeakBytes() as counted:
        yield counted


def without_values(network: nn.Module) -> None:
    """Give a network from the meta device tensors of the counting context in place of its own."""
    for module in network.modules():
        for name, p in module.named_parameters(recurse=False):
            module._parameters[name] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype))
        for name, b in module.named_buffers(recurse=False):
            module._buffers[name] = torch.empty(b.shape, dtype=b.dtype)


@cache
def training_bytes(network: str, divisor: int, size: tuple[int, int, int], precision: torch.dtype,
                   recompute: bool = False) -> int:
    """Peak of all tensors in a training step at batch size 1 with Adam; size (d, h, w). Computes nothing but shapes.

    recompute: as `magunet.fast.recompute` does, which leaves other networks than MAG-UNets as they are.
    """
    net = accelerate(build_on_meta(network, divisor)).train()
    with counting() as counted:
        without_values(net)
        parameters = sum(p.numel() for p in net.parameters())
        if recompute:
            recompute_levels(net)
        image, mask = torch.zeros(1, 1, *size), torch.zeros(1, 1, *size, dtype=torch.uint8)
        with autocast(CPU, precision):
            logits = net(image)
        losses.dice_ce_loss(logits.float(), mask).backward()
    return counted.peak + ADAM_BYTES * parameters


@cache
def prediction_bytes(network: str, divisor: int, size: tuple[int, int, int], precision: torch.dtype) -> int:
    """Peak of all tensors while one window (d, h, w) is predicted. Computes nothing but shapes."""
    net = accelerate(build_on_meta(network, divisor))
    evaluate_by_input(net)
    with counting() as counted:
        without_values(net)
        image = torch.zeros(1, 1, *size)
        with torch.inference_mode(), autocast(CPU, precision):
            torch.sigmoid(net(image).float())
    return counted.peak


def free_bytes(device: torch.device) -> int:
    """What is free on a GPU, or of the machine's memory."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else int(free_memory() * 2**30)


def needed(network: str, settings: Settings, device: torch.device, recompute: bool = False) -> float:
    """Bytes that training takes on a device, with what Python and torch take themselves."""
    size, precision = (settings.depth, settings.size, settings.size), choose_precision(settings.precision, device)
    return training_bytes(network, settings.width_divisor, size, precision, recompute) + OWN_BYTES[device.type]


def smaller_windows(settings: Settings) -> Iterator[Settings]:
    """The settings with size and depth halved in turns, down to the smallest that are allowed."""
    while max(settings.size, settings.depth) > SMALLEST_SIDE:
        for name in ("size", "depth"):
            halved = replace(settings, **{name: max(SMALLEST_SIDE, getattr(settings, name) // 2)})
            if halved != settings:
                settings = halved
                yield settings


def choose_recompute(network: str, settings: Settings, device: torch.device) -> bool:
    """Whether training has to compute maps a second time to fit into memory; says so, and what would fit if neither does.

    Nothing is counted where a glance shows that there is room.
    """
    free = free_bytes(device)
    if GLANCE_BYTES * settings.depth * settings.size**2 + OWN_BYTES[device.type] < free:
        return False
    plain = needed(network, settings, device)
    if plain < free:
        return False
    lean = needed(network, settings, device, recompute=True)
    text = f"note: training {network} takes about {plain / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
    if lean < free:
        say(f"{text}; maps are computed a second time for the gradient instead of kept, which takes {lean / 1e9:.1f} GB")
        return True
    fits = next((s for s in smaller_windows(settings) if needed(network, s, device, recompute=True) < free), None)
    advice = f"depth {fits.depth} and size {fits.size} would fit" if fits else \
        "smaller windows would not fit either; raise width_divisor"
    say(f"{text}, or {lean / 1e9:.1f} GB with maps computed a second time; {advice}")
    return True


def with_room(model: Model) -> Model:
    """The model with windows shallow enough for what memory is free, halved as often as it takes.

    Says so beforehand; also where even the shallowest may not fit. Nothing is counted where a glance shows that there is
    room. Counted are the network's tensors; what the scan takes should be read before.
    """
    settings, free = model.settings, free_bytes(model.device)
    if GLANCE_BYTES * settings.depth * settings.size**2 < free:
        return model

    def taken(depth: int) -> int:
        return prediction_bytes(model.record["network"], settings.width_divisor, (depth, settings.size, settings.size),
                                model.precision)

    depth = settings.depth
    while taken(depth) > free and depth > SMALLEST_SIDE:
        depth = max(SMALLEST_SIDE, depth // 2)
    if depth < settings.depth or taken(depth) > free:
        whole, shallow = taken(settings.depth) / 1e9, taken(depth) / 1e9
        text = (f"note: windows of {settings.depth} slices take about {whole:.1f} GB, and {free / 1e9:.1f} GB are free; "
                f"going on with windows of {depth}, which take {shallow:.1f} GB")
        say(f"{text} and from which the mask may differ a little" if taken(depth) <= free else
            f"{text} and may not fit either; close other programs, or take a run with smaller size or larger width_divisor")
    return replace(model, window_depth=depth) if depth < settings.depth else model


def what_fits(network: str, settings: Settings, device: torch.device, precision: torch.dtype) -> str:
    """One line: the largest windows, halved in turns, with which a training step fits; found by trying. Seeds torch."""
    tried = f"training {network} on windows of {settings.depth} x {settings.size} x {settings.size} voxels does not fit"
    for smaller in smaller_windows(replace(settings, samples_per_case=1)):
        shape = smaller.depth, smaller.size, smaller.size
        case = Prepared(np.zeros(shape, np.float32), np.zeros(shape, np.uint8), (1.0, 1.0, 1.0))
        try:
            train.train_epoch(train.new_state(network, smaller, 0, 1, device), {"trial": case}, smaller, device, precision)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return f"{tried}; depth {smaller.depth} and size {smaller.size} would"
    return f"{tried}, nor do smaller ones; raise width_divisor"
