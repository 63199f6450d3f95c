"""What networks cost in operations and memory, counted from shapes beforehand, and what fits into memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from compendium.paper import INPUT_SIZE
from magunet import fast, losses
from magunet.base.device import autocast, choose_precision, free_memory
from magunet.base.profiles import SMALLEST_SIDE, Settings
from magunet.base.progress import say
from magunet.model import count_parameters
from magunet.predict import Model
from magunet.studies import build_on_meta

CPU = torch.device("cpu")
"""Where bytes are counted, whatever the device: the shapes are the same."""
OWN_BYTES = {"cpu": 450e6, "cuda": 600e6}
"""What Python and torch take before the first tensor: resident on the CPU, the context on a GPU."""
ADAM_BYTES = 8
"""Of the two moments that Adam keeps of a parameter."""
AMPLE_BYTES = 50_000
"""Per voxel of the window: more than any network here takes at any width, so that nothing need be counted."""


@dataclass(frozen=True)
class Cost:
    """Of one network at the paper's widths: parameters, and floating-point operations of a forward pass."""

    parameters: int
    flop: int


@cache
def network_cost(name: str) -> Cost:
    """Cost of a network of ``magunet.studies`` on 1 x 1 x 50 x 256 x 256; computes nothing but shapes."""
    network = build_on_meta(name)
    return Cost(count_parameters(network), count_flop(network))


def count_flop(network: nn.Module, size: tuple[int, int, int] = INPUT_SIZE) -> int:
    """Floating-point operations of a forward pass of a network on the meta device; size (d, h, w).

    A multiplication with its addition counts as 2. Counted are convolutions (also transposed, also the
    kernel's part that hangs over the border) and matrix products, attention's among them. Not counted:
    biases, normalisation, activations, pooling and interpolation.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.empty(1, 1, *size, device="meta"))
    return counter.get_total_flops()


class PeakBytes(TorchDispatchMode):
    """Context that counts the bytes of all tensors allocated in it while they live; ``peak``: the maximum."""

    def __init__(self):
        super().__init__()
        self.living, self.peak = {}, 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.living[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.living = {key: entry for key, entry in self.living.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.living.values()))
        return result


@contextmanager
def counting() -> Iterator[PeakBytes]:
    """Context in which tensors have shapes but no values, and their bytes are counted."""
    with FakeTensorMode(allow_non_fake_inputs=True), PeakBytes() as counter:
        yield counter


@cache
def training_bytes(network: str, divisor: int, size: tuple[int, int, int], precision: torch.dtype,
                   recompute: bool = False) -> int:
    """Peak of all tensors in a training step at batch size 1 with Adam; size (d, h, w). Computes only shapes.

    recompute: as `magunet.fast.recompute` does, which leaves other networks than MAG-UNets as they are.
    """
    net = fast.accelerate(build_on_meta(network, divisor)).train()
    with counting() as counter:
        net.to_empty(device=CPU)
        if recompute:
            fast.recompute(net)
        image, mask = torch.zeros(1, 1, *size), torch.zeros(1, 1, *size, dtype=torch.uint8)
        with autocast(CPU, precision):
            logits = net(image)
        losses.dice_ce_loss(logits.float(), mask).backward()
    return counter.peak + ADAM_BYTES * count_parameters(net)


@cache
def prediction_bytes(network: str, divisor: int, size: tuple[int, int, int], precision: torch.dtype) -> int:
    """Peak of all tensors while one window (d, h, w) is predicted. Computes nothing but shapes."""
    net = fast.accelerate(build_on_meta(network, divisor))
    fast.evaluate_by_input(net)
    with counting() as counter:
        net.to_empty(device=CPU)
        image = torch.zeros(1, 1, *size)
        with torch.inference_mode(), autocast(CPU, precision):
            torch.sigmoid(net(image).float())
    return counter.peak


def free_bytes(device: torch.device) -> int:
    """What is free on a GPU, or of the machine's memory."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else int(free_memory() * 2**30)


def needed(network: str, settings: Settings, device: torch.device, recompute: bool = False) -> float:
    """Bytes that training takes on a device, with what Python and torch take themselves."""
    size, divisor = (settings.depth, settings.size, settings.size), settings.width_divisor
    precision = choose_precision(settings.precision, device)
    return training_bytes(network, divisor, size, precision, recompute) + OWN_BYTES[device.type]


def choose_recompute(network: str, settings: Settings, device: torch.device) -> bool:
    """Whether training has to compute maps a second time to fit into memory; says so."""
    free = free_bytes(device)
    if AMPLE_BYTES * settings.depth * settings.size**2 + OWN_BYTES[device.type] < free:
        return False
    usual = needed(network, settings, device)
    if usual < free:
        return False
    lean = needed(network, settings, device, recompute=True)
    advice = "" if lean < free else ", which may not fit either; lower depth or size, or raise width_divisor"
    say(f"note: training {network} takes about {usual / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; "
        f"maps are computed a second time for the gradient, which takes {lean / 1e9:.1f} GB{advice}")
    return True


def with_room(model: Model) -> Model:
    """The model with windows shallow enough for what memory is free, halved as often as it takes; says so.

    Counted are the network's tensors; what the scan takes should be read before.
    """
    settings, free = model.settings, free_bytes(model.device)
    if AMPLE_BYTES * settings.depth * settings.size**2 < free:
        return model

    def window_bytes(depth: int) -> int:
        size = depth, settings.size, settings.size
        return prediction_bytes(model.record["network"], settings.width_divisor, size, model.precision)

    depth = settings.depth
    while window_bytes(depth) > free and depth > SMALLEST_SIDE:
        depth = max(SMALLEST_SIDE, depth // 2)
    if window_bytes(settings.depth) <= free:
        return model
    outcome = "from which the mask may differ a little" if window_bytes(depth) <= free else \
        "may not fit either; close other programs, or take a run with smaller size or larger width_divisor"
    whole, shallow = window_bytes(settings.depth) / 1e9, window_bytes(depth) / 1e9
    say(f"note: windows of {settings.depth} slices take about {whole:.1f} GB, and {free / 1e9:.1f} GB are "
        f"free; going on with windows of {depth}, which take {shallow:.1f} GB and {outcome}")
    return replace(model, window_depth=depth) if depth < settings.depth else model
