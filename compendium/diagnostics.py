"""What a trained network uses: its Dice without each of its parts, and channels that say nothing.

Hooks take the parts out of the trained network; nothing is trained again. The Dice is that of
`magunet.train.validation_dice`: of prepared boxes around the joints, not of whole scans.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from compendium.formats import WORDS, Report
from magunet import metrics, predict, prepare, train
from magunet.base import provenance
from magunet.base.device import choose_precision
from magunet.base.errors import InputError
from magunet.base.progress import track
from magunet.blocks import CAM, PAM, BatchNorm3d
from magunet.cohort import Cohort, evenly
from magunet.model import MAGUNet, branches, gates
from magunet.runs import CODE, data_hash

DIAGNOSTICS_FILE = "diagnostics.csv"
"""Of a run, and of stored results: one row a measurement."""
COLUMNS = ["network", "seed", "part", "dice", "change", "dead", "channels", "key"]
"""Of a measurement."""
CASES = 20
"""Most scored cases that are taken, evenly over their order."""
WHOLE = "whole network"
"""The part that leaves nothing out."""
FLAT = 1e-6
"""A channel is dead if its values vary by at most this share of what the liveliest of its layer does."""
ATTENTIONS = {"se": "SE", "cbam": "CBAM", "non_local": "Non-local", "eca": "ECA", "da_placebo": "placebo"}
"""Switch of the attention -> its name in Table 2; every other but "none" is a DA."""


def diagnose(run: Path, cohort: Cohort, plain: bool = False) -> pd.DataFrame:
    """Take each part out of a finished run's network; done once, then read back from DIAGNOSTICS_FILE.

    One row a measurement: ``dice`` in [0, 1] and its ``change`` against the whole network in points, or
    ``dead`` of ``channels``. The precision is the settings', or float32 if ``plain``; the quick layers, which
    pass some hooks by, are not used. When precision, weights, data or code change (``key``), it is redone.
    """
    model, path = predict.load_model(run, plain=True), run / DIAGNOSTICS_FILE
    network, settings = model.network, model.settings
    precision = choose_precision("float32" if plain else settings.precision, model.device)
    code = provenance.code_hash(*CODE, metrics, predict, prepare, sys.modules[__name__])
    weights = provenance.file_hash(run / predict.WEIGHTS_FILE)
    key = provenance.content_hash(weights, data_hash(cohort, settings), code, str(precision))
    if path.exists() and set((table := read_diagnostics(run))["key"]) == {key}:
        return table
    dice = partial(train.validation_dice, network, {
        name: prepare.prepare_case(cohort.cases[name], settings)[0] for name in evenly(cohort.val, CASES)},
        settings, model.device, precision)
    whole, deepest, layers = watch(network, dice)
    rows = [{"part": WHOLE, "dice": whole}]
    for part, context in track(parts(network, deepest).items(), "parts"):
        with context:
            rows.append({"part": part, "dice": dice()})
    for part, chosen in (("all levels", layers), ("deepest level", [i for i in layers if i[0] == deepest])):
        rows.append({"part": part, "dead": sum(i[1] for i in chosen), "channels": sum(i[2] for i in chosen)})
    table = pd.DataFrame(rows).assign(network=model.record["network"], seed=model.record["seed"], key=key,
                                      change=lambda row: 100 * (row["dice"] - whole))
    with provenance.whole_file(path) as part:
        table[COLUMNS].to_csv(part, index=False)
    return read_diagnostics(run)


def read_diagnostics(folder: Path) -> pd.DataFrame:
    """Measurements in the folder of a run or of stored results. Raises InputError where they are damaged."""
    path, types = folder / DIAGNOSTICS_FILE, {"network": str, "key": str, "dead": float, "channels": float}
    try:
        table = pd.read_csv(path, dtype=types, usecols=COLUMNS)
    except ValueError as error:
        raise InputError(f"{path}: damaged; remove it and use 'magunet evaluate' on the run again") from error
    return table.astype({"dead": "Int64", "channels": "Int64"})


def silent(module: nn.Module, inputs: tuple, output: Tensor, grid: torch.Size | None = None) -> Tensor | None:
    """Hook: 0 in place of the output; with a grid only in place of a map on it."""
    return torch.zeros_like(output) if grid in (None, grid_of(output)) else None


def parts(network: nn.Module, deepest: torch.Size) -> dict[str, AbstractContextManager]:
    """Name -> context in which the network does without that part; deepest: its smallest grid."""
    def of(kind: type) -> list[nn.Module]:
        return [module for module in network.modules() if isinstance(module, kind)]

    leaves = [module for module in of(nn.Module) if not list(module.children())]
    contexts = {"without the deepest step": hooked(leaves, partial(silent, grid=deepest))}
    if norms := of(BatchNorm3d):
        contexts["by running statistics"] = hooked(
            norms, lambda norm, _: setattr(norm, "by_input", False), nn.Module.register_forward_pre_hook)
    if isinstance(network, MAGUNet):
        switch, own = network.config.attention, gates(network)
        passing = {f"without {ATTENTIONS.get(switch, 'DA')}": [network.attention]} if switch != "none" else {}
        passing |= {"without PAM": of(PAM), "without CAM": of(CAM), "all gates open": own.values()}
        passing |= {f"{name} open": [gate] for name, gate in own.items()}
        contexts |= {name: hooked(modules, lambda _, inputs, output: inputs[-1])    # of a gate the skip
                     for name, modules in passing.items() if modules}
        contexts |= {f"without {name}": hooked([one], silent) for name, one in branches(network).items()}
    return contexts


@contextmanager
def hooked(modules: Iterable[nn.Module], hook: Callable,
           register: Callable = nn.Module.register_forward_hook) -> Iterator[None]:
    """Context in which each of the modules has this hook."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(register(module, hook))
        yield


def grid_of(output: object) -> torch.Size | None:
    """The grid (d, h, w) of a map (b, c, d, h, w) of more than one voxel; None of anything else."""
    is_map = isinstance(output, Tensor) and output.ndim == 5 and output.shape[2:].numel() > 1
    return output.shape[2:] if is_map else None


def watch(network: nn.Module, work: Callable[[], float]) -> tuple[float, torch.Size, list[tuple]]:
    """What ``work()`` returns, the convolutions' smallest grid; of activations grid, dead and all channels.

    ``work`` runs the network, always on one size. An activation that a pass calls twice counts twice.
    """
    convolutions, activations = nn.Conv3d | nn.ConvTranspose3d, nn.ReLU | nn.LeakyReLU | nn.PReLU
    calls, grids, layers = [], [], []

    def note(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        if grid := grid_of(output):
            calls.append((module, grid, output.amin((0, 2, 3, 4)), output.amax((0, 2, 3, 4))))

    kinds = convolutions | activations
    with hooked([*(module for module in network.modules() if isinstance(module, kinds)), network], note):
        result = work()
    count = [module for module, *_ in calls].index(network) + 1             # of a pass, whose last it is
    for (module, *_), (grid, *_), low, high in (zip(*calls[i::count]) for i in range(count - 1)):
        if isinstance(module, convolutions):
            grids.append(grid)
        else:
            span = torch.stack(high).amax(0) - torch.stack(low).amin(0)     # over all passes
            layers.append((grid, int((span <= FLAT * span.max()).sum()), len(span)))
    return result, min(grids, key=torch.Size.numel), layers


def diagnostics_report(rows: pd.DataFrame) -> Report:
    """What trained networks use, mean ± SD over seeds: a row a network, a column a part."""
    value = rows["change"].where(rows["part"] != WHOLE, 100 * rows["dice"]).fillna(rows["dead"].astype(float))
    grouped = rows.assign(value=value).groupby(["network", "part"], sort=False)
    numbers = grouped.agg(mean=("value", "mean"), sd=("value", "std"), channels=("channels", "first"))
    numbers["cell"] = [f"{mean:z.1f}" + f" ± {sd:.1f}" * pd.notna(sd) + f" of {channels}" * pd.notna(channels)
                       for mean, sd, channels in numbers.itertuples(index=False)]
    cells = numbers["cell"].unstack("part").rename_axis(index=None, columns=None)
    cells = cells.reindex(index=rows["network"].unique(), columns=rows["part"].unique())
    tables = {title: table.fillna("-") for title, names in WORDS["diagnostics"].items()
              if len(table := cells.filter(regex=names).dropna(how="all"))}
    return Report("What the trained networks use", tables, rows, [WORDS["notes"]["diagnostics"]])
