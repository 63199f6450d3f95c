"""Would another engine predict faster? A finished run's network under torch, torch.compile, OpenVINO and OpenVINO in INT8.

    pip install 'magunet[openvino]' nncf==3.4.0
    python benchmarks/engines.py RUN [--cases 3]

Prints for each engine the seconds a window takes, the median of --repeats with all engines in turns, and as a fraction of
torch in float32; the mean Dice with the truth over the validation cases, and how far it is from torch's in float32. Engines
that are not installed are left out, and that is said. INT8 is calibrated on the training cases.
"""

import argparse
import copy
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from magunet.base.device import autocast, choose_device
from magunet.base.profiles import Settings
from magunet.base.progress import track
from magunet.cohort import Cohort, read_checked
from magunet.fast import evaluate_by_input
from magunet.metrics import overlap
from magunet.predict import Model, load_model, window_starts
from magunet.prepare import prepare
from sijphantom.cohort import cohort_of

Answer = Callable[[Tensor], Tensor]
WINDOWS = 12
"""Training windows that the calibration of INT8 looks at."""


class Engine(nn.Module):
    """Stands in for the network of a `Model`: windows (1, 1, d, h, w) -> logits of the same shape."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(x)


def under(network: nn.Module, precision: torch.dtype, x: Tensor) -> Tensor:
    layout = torch.contiguous_format if precision == torch.float32 else torch.channels_last_3d
    with torch.no_grad(), autocast(x.device, precision):
        return network(x.to(memory_format=layout)).float()


def training_windows(cohort: Cohort, settings: Settings) -> Iterator[np.ndarray]:
    """The middle windows (1, 1, d, h, w) of prepared training cases."""
    for name in cohort.train[:WINDOWS]:
        image = prepare(*read_checked(cohort.cases[name].image, cohort.cases[name].label), settings)[0].image
        starts = window_starts(len(image), settings.depth)
        start = starts[len(starts) // 2]
        window = image[start:start + settings.depth]
        yield np.pad(window, ((0, settings.depth - len(window)), (0, 0), (0, 0)), mode="edge")[None, None]


def openvino_engines(network: nn.Module, x: Tensor, windows: Callable[[], Iterator[np.ndarray]]) -> dict[str, Answer]:
    """OpenVINO in float32 and bfloat16, and in INT8 where its calibrator is installed."""
    sys.modules.setdefault("openvino_telemetry", None)                  # else converting a network sends a message to its makers
    try:
        import openvino
    except ImportError:
        print("OpenVINO is not installed, and left out")
        return {}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)                  # of one part of torch about another
        converted = openvino.convert_model(torch.export.export(network, (x,)))
    models = {"OpenVINO float32": (converted, "f32"), "OpenVINO bfloat16": (converted, "bf16")}
    try:
        import nncf
        models["OpenVINO INT8"] = nncf.quantize(converted, nncf.Dataset(list(windows()))), "bf16"
    except ImportError:
        print("nncf is not installed, so INT8 is left out")
    core, options = openvino.Core(), {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}

    def answer(model: object, x: Tensor) -> Tensor:
        return torch.from_numpy(model(np.ascontiguousarray(x.numpy()))[0])

    return {name: partial(answer, core.compile_model(model, "CPU", options | {"INFERENCE_PRECISION_HINT": precision}))
            for name, (model, precision) in models.items()}


def engines(model: Model, cohort: Cohort, x: Tensor) -> dict[str, Answer]:
    """Every engine at hand, by name; the first is the one the others are measured by."""
    evaluate_by_input(model.network)
    plain = copy.deepcopy(model.network).to(memory_format=torch.contiguous_format)
    ways = {"torch float32": (plain, torch.float32), "magunet's default": (model.network, model.precision),
            "torch.compile": (torch.compile(model.network), model.precision)}
    found = {name: partial(under, *way) for name, way in ways.items()}
    return found | openvino_engines(plain, x, partial(training_windows, cohort, model.settings))


def seconds(found: dict[str, Answer], x: Tensor, repeats: int) -> dict[str, float]:
    """Median over the repeats, after one that warms up."""
    taken = {name: [] for name in found}
    for _ in track(range(repeats + 1), "repeats", lines=False):
        for name, answer in found.items():
            began = time.perf_counter()
            answer(x)
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--cases", type=int, default=3, help="validation cases to score")
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    if choose_device().type != "cpu":
        parser.error("engines are compared on the CPU; hide the GPU with CUDA_VISIBLE_DEVICES=")
    model = load_model(given.run)
    cohort = cohort_of(model.settings, track)
    x = torch.from_numpy(next(training_windows(cohort, model.settings)))
    found = engines(model, cohort, x)
    table = pd.DataFrame({"seconds a window": seconds(found, x, given.repeats)})
    table["of the first"] = table["seconds a window"] / table["seconds a window"].iloc[0]
    cases = [read_checked(cohort.cases[name].image, cohort.cases[name].label) for name in cohort.val[:given.cases]]
    for name, answer in found.items():
        other = replace(model, network=Engine(answer), precision=torch.float32)
        table.loc[name, "Dice"] = np.mean([overlap(other.segment(scan).array != 0, truth.array != 0).dice
                                           for scan, truth in track(cases, f"scans, {name}")])
    table["Dice less the first's"] = table["Dice"] - table["Dice"].iloc[0]
    print(table.round(4).to_string())


if __name__ == "__main__":
    main()
