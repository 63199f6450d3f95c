"""What networks cost in operations and memory, counted from shapes beforehand, and what fits into memory."""

import contextlib
import math
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from compendium.grid import seeds_of
from compendium.paper import INPUT_SIZE
from magunet import fast, losses, runs
from magunet.base.device import autocast, choose_device, choose_precision, free_memory
from magunet.base.errors import InputError, is_out_of_memory
from magunet.base.profiles import SMALLEST_SIDE, Settings
from magunet.base.progress import say
from magunet.cohort import Cohort
from magunet.model import MAGUNetConfig, count_parameters
from magunet.predict import Model
from magunet.prepare import Shape
from magunet.studies import build_on_meta, checked

CPU = torch.device("cpu")
"""Where bytes are counted, whatever the device: the shapes are the same."""
OWN_BYTES = {"cpu": 450e6, "cuda": 600e6}
"""What Python and torch take before the first tensor: resident on the CPU, the context on a GPU."""
AMPLE_BYTES = {"training": 50_000, "prediction": 12_000}
"""Per voxel of the window: more than any network here takes at any width, so that nothing need be counted."""


@cache
def network_cost(name: str) -> tuple[int, int]:
    """Parameters, and operations of a forward pass on 1 x 1 x 50 x 256 x 256, at the paper's widths."""
    network = build_on_meta(name)
    return count_parameters(network), count_flop(network)


def count_flop(network: nn.Module, size: tuple[int, int, int] = INPUT_SIZE) -> int:
    """Floating-point operations of a forward pass of a network on the meta device; size (d, h, w).

    A multiplication with its addition counts as 2. Counted are convolutions (also transposed, also the
    kernel's part that hangs over the border) and matrix products, attention's among them; nothing else is.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.empty(1, 1, *size, device="meta"))
    return counter.get_total_flops()


def peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes that tensors take at a time during ``work()``, in which they have shapes but no values."""
    from torch.distributed._tools.mem_tracker import MemTracker  # its import takes seconds

    with FakeTensorMode(allow_non_fake_inputs=True), MemTracker() as tracker:
        work()
    return tracker.get_tracker_snapshot("peak")[CPU]["Total"]


@cache
def tensor_bytes(way: str, network: str, divisor: int, shape: Shape, precision: torch.dtype) -> int:
    """Peak of all tensors of a "training" step with Adam, one "recomputing" maps, or a window's "prediction".

    recomputing: as `magunet.fast.recompute` does, which leaves other networks than MAG-UNets as they are.
    divisor: of the paper's widths; shape: of the window (d, h, w).
    """
    net = fast.accelerate(build_on_meta(network, divisor))
    if way == "prediction":
        fast.evaluate_by_input(net)
    elif way == "recomputing":
        fast.recompute(net)

    def work() -> None:
        net.to_empty(device=CPU)
        image = torch.zeros(1, 1, *shape)
        with torch.inference_mode(way == "prediction"), autocast(CPU, precision):
            logits = net(image).float()
        if way == "prediction":
            torch.sigmoid(logits)
        else:
            losses.dice_ce_loss(logits, torch.zeros_like(image, dtype=torch.uint8)).backward()

    moments = 0 if way == "prediction" else 8 * count_parameters(net)       # Adam keeps two of a parameter
    return peak_bytes(work) + moments


def process_bytes(way: str, network: str, settings: Settings, device: torch.device) -> float:
    """`tensor_bytes` on a device, with what Python and torch take themselves."""
    size = settings.width_divisor, settings.shape, choose_precision(settings.precision, device)
    return tensor_bytes(way, network, *size) + OWN_BYTES[device.type]


def free_bytes(device: torch.device) -> int:
    """What is free on a GPU, or of the machine's memory."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else int(free_memory() * 2**30)


def choose_recompute(network: str, settings: Settings, device: torch.device) -> bool:
    """Whether training has to compute maps a second time to fit into memory; says so."""
    free = free_bytes(device)
    if AMPLE_BYTES["training"] * math.prod(settings.shape) + OWN_BYTES[device.type] < free:
        return False
    usual, lean = (process_bytes(way, network, settings, device) for way in ("training", "recomputing"))
    if usual < free:
        return False
    advice = "" if lean < free else f", which may not fit; {what_fits(network, settings, device, free)}"
    say(f"note: training {network} takes about {usual / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; "
        f"maps are computed a second time for the gradient, which takes {lean / 1e9:.1f} GB{advice}")
    return True


def what_fits(network: str, settings: Settings, device: torch.device, free: float) -> str:
    """The smallest changes of a setting, each alone, by which training takes less than ``free`` bytes."""
    def fits(name: str, value: float) -> bool:
        return process_bytes("recomputing", network, replace(settings, **{name: value}), device) < free

    ways = {"width_divisor": [divisor for divisor in (2, 4, 8, 16, 32) if divisor > settings.width_divisor],
            "voxel_mm": [mm for mm in (1, 1.5, 2, 3, 4, 6) if mm > (settings.voxel_mm or math.inf)],
            "size": [side for side in (192, 128, 96, 64, 32) if side < (settings.size or 0)]}
    changes = [next((f"{name} {value}" for value in values if fits(name, value)), "")
               for name, values in ways.items()]
    return "it would with " + " or ".join(filter(None, changes)) if any(changes) else "no setting would"


def with_room(model: Model) -> Model:
    """The model with windows shallow enough for what memory is free once the scan was read; says so."""
    settings, free = model.settings, free_bytes(model.device)
    if AMPLE_BYTES["prediction"] * math.prod(settings.shape) < free:
        return model
    depth, network = (whole := settings.shape[0]), model.record["network"]
    while (size := tensor_bytes("prediction", network, settings.width_divisor, (depth, *settings.shape[1:]),
                                model.precision)) > free and depth > SMALLEST_SIDE:
        depth = max(SMALLEST_SIDE, depth // 2)
    if size <= free and depth == whole:
        return model
    outcome = "from which the mask may differ a little" if size <= free else "which may not fit either; " \
        "close other programs, or take a run with smaller size or larger width_divisor"
    say(f"note: {free / 1e9:.1f} GB are free, too little for windows of {whole} slices; going on "
        f"with windows of {depth}, {outcome}")
    return replace(model, window_depth=depth)


def fit_with_room(network: str | MAGUNetConfig, settings: Settings, seed: int, cohort: Cohort,
                  recompute: bool | None = None, plain: bool = False) -> Path:
    """`magunet.runs.fit`; recompute None: as `choose_recompute` says, or where memory does not suffice.

    Raises MemoryError, which says with which settings it would.
    """
    device, network = choose_device(), checked(network, settings.width_divisor)
    again = choose_recompute(network, settings, device) if recompute is None else recompute
    try:
        return runs.fit(network, settings, seed, cohort, recompute=again, plain=plain)
    except MemoryError as error:
        failure = error
    torch.cuda.empty_cache()                                # else what failed counts as taken
    if not again and recompute is None:
        say(f"note: {failure}; going on with maps that are computed a second time")
        return fit_with_room(network, settings, seed, cohort, True, plain)
    advice = ""
    with contextlib.suppress(RuntimeError, MemoryError):    # to count may take what is not there, either
        room = 0.8 * process_bytes("recomputing", network, settings, device) + 0.2 * OWN_BYTES[device.type]
        advice = f"; {what_fits(network, settings, device, min(room, free_bytes(device)))}"
    raise MemoryError(f"{failure}{advice}") from failure


def fit_all(networks: Iterable[str | MAGUNetConfig], settings: Settings,
            cohort: Cohort) -> dict[str | MAGUNetConfig, list[Path]]:
    """Finished runs of each network, one a seed; a network that fails is named on stderr and left out.

    Raises InputError when data or settings are wrong, which no other network would change.
    """
    folders = {}
    for network in networks:
        try:
            folders[network] = [fit_with_room(network, settings, seed, cohort)
                                for seed in seeds_of(network, settings)]
        except InputError:
            raise
        except Exception as error:                      # the other networks shall be trained all the same
            if not is_out_of_memory(error):
                traceback.print_exception(error)
            print(f"failed: {network}: {error}", file=sys.stderr)
    return folders
