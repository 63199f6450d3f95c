"""Training, validation, checkpoint and prediction of every network on a GPU without values: what they ask."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from fake_gpu import FAULTS

from magunet.studies import NETWORKS

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(not COMPILER, reason="no C++ compiler, which the GPU without values needs"),
              pytest.mark.skipif(sys.platform != "linux" or torch.backends.cuda.is_built(),
                                 reason="the GPU without values needs Linux and a torch for the CPU")]
WINDOW = "1x1x16x32x32"
SENT = {f"sends {WINDOW}": 3, "sends 3x4": 1}
"""By a step with every augmentation: image, mask, noise and affine matrix, and nobody waits for them."""
OTHER = {"+CBAM": 2, "+Non-local": 1, "ResUNet": 4, "DeepLabv3+": 2, "TransUNet": 2, "SegNet": 10,
         "UNETR": 75, "nnU-Net": 81, "MedNeXt": 86, "SegResNet": 66, "SwinUNETR": 78}
"""So many maps a step at most are not channels last where they are convolved, so that cuDNN copies them: what
instance and group norms, unpooling, and attention, which makes rows of positions, answer with."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Title -> what was asked of the GPU."""
    library, folder = tmp_path_factory.mktemp("gpu") / "fake_cuda.so", Path(torch.__file__).parent
    subprocess.run([COMPILER, "-std=c++20", "-shared", "-fPIC", f"-I{folder / 'include'}", "-o", library,
                    ROOT / "tests" / "fake_cuda.cpp", f"-L{folder / 'lib'}", f"-Wl,-rpath,{folder / 'lib'}",
                    "-ltorch_cpu", "-lc10"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)}
    out = subprocess.run([sys.executable, ROOT / "tests" / "fake_gpu.py"], env=environment, check=True,
                         stdout=subprocess.PIPE, text=True).stdout
    return {report.pop("title"): report for report in map(json.loads, out.splitlines())}


def troubles(title, report):
    """What a report says that it should not. Steps send four tensors and do nothing else; most maps have 16
    bits and channels last; what follows waits for windows, and asks for scales of modules and gradients."""
    half, words = "float16" if title.startswith("float16") else "bfloat16", [report.get("error", "")]
    other = OTHER.get(title.removeprefix("float16, "), 0)
    for step in report.get("steps", []):
        maps = {what: step.pop(what) for what in list(step) if what.startswith("maps in ")}
        words += [what for what in step | SENT if step.get(what) != SENT.get(what)]
        words += ["maps in float32"] * (maps["maps in float32"] > 0.4 * maps.get(f"maps in {half}", 0))
        words += ["maps in another layout"] * (maps.get("maps in another layout", 0) > other)
    for part, windows in zip(report.get("rest", [])[1::2] + report.get("prediction", []), (2, 2, 4)):
        waits = {what: count for what, count in part.items() if what.startswith("waits")}
        words += ["waits in validation or prediction"] * (waits != {f"waits while sending {WINDOW}": windows})
        asked = sum(count for what, count in part.items() if what.startswith("asks"))
        words += ["asks in validation, checkpoint or prediction"] * (asked > (0 if windows == 4 else 16))
    return " ".join(words).strip()


def test_no_step_of_any_network_waits_for_a_gpu_or_mixes_devices_types_or_layouts(reports):
    assert reports.keys() >= {*NETWORKS, "recomputing", "float16, MAG-UNet"}
    assert not {title: words for title, report in reports.items()
                if title not in FAULTS and (words := troubles(title, report))}


def test_each_mistake_is_noticed(reports):
    assert not {fault: words for fault in FAULTS if fault not in (words := troubles(fault, reports[fault]))}
