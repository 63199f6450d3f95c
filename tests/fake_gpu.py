"""Trains networks on a GPU whose tensors have shapes but no values, and prints what each asks of it, as JSON.

    LD_PRELOAD=(tests/fake_cuda.cpp, compiled) python tests/fake_gpu.py [NETWORK ...]

Tensors of the CPU are real, so that what is trained is the project's own code, step by step.
"""

import contextlib
import json
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from boxes import TINY
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from magunet import losses, train
from magunet.base.device import choose_device, choose_precision
from magunet.predict import Model
from magunet.prepare import Prepared
from magunet.studies import NETWORKS

SETTINGS = replace(TINY, width_divisor=8, samples_per_case=1, augmentation="strong", clip_norm=1.0)
MASK = np.zeros((20, 32, 32), np.uint8)
MASK[5:9, 8:20, 10:20] = 1
CASES = {"a": Prepared(np.zeros(MASK.shape, np.float32), MASK, (3.0, 2.0, 2.0))}
LAST, ATEN, STEP, LOSS = torch.channels_last_3d, torch.ops.aten, train.train_step, losses.dice_ce_loss
FAULTS = {"cuda:0 and cpu": ("magunet.augment.onto", lambda x, device: x),
          "waits while sending 3x4": ("magunet.augment.onto", lambda x, device: x.to(device)),
          "asks number": ("magunet.losses.dice_ce_loss", lambda y, g: LOSS(y, g) * float(g.sum())),
          "float64": ("magunet.losses.dice_ce_loss", lambda y, g: LOSS(y.double(), g)),
          "another layout": ("torch.channels_last_3d", torch.contiguous_format),
          "in float32": ("magunet.train.autocast", lambda *_: contextlib.nullcontext())}
"""What is said of a mistake -> how to make it: what to put where."""


def on_gpu(x):
    return isinstance(x, FakeTensor) and x.device.type == "cuda"


class Gpu(TorchDispatchMode):
    """Counts copies, those that the CPU waits for, questions for values, and layouts and types met."""

    def __init__(self):
        super().__init__()
        self.fake, self.counts = FakeTensorMode(allow_non_fake_inputs=True), Counter()

    def note(self, what, x):
        self.counts[f"{what} {'x'.join(map(str, x.shape)) or 'number'}"] += 1

    def as_fake(self, x):
        with self.fake:
            return x if isinstance(x, FakeTensor) else torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)

    def parts(self, func, args, kwargs):
        """What inference mode shows whole, as the operations it is made of."""
        with self:
            return func.decompose(*args, **kwargs) if func.namespace == "aten" else NotImplemented

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is ATEN.is_pinned.default:
            return hasattr(args[0], "pinned")
        if func is ATEN._pin_memory.default:
            copy = args[0].clone()
            copy.pinned = True
            return copy
        target = torch.device(kwargs.get("device") or "cpu").type
        if target == "cpu" and not any(map(on_gpu, tree_leaves((args, kwargs)))):
            return func(*args, **kwargs)
        if torch.is_inference_mode_enabled():
            answer = self.parts(func, args, kwargs)
            if answer is not NotImplemented:
                return answer
        if func is ATEN._local_scalar_dense.default:
            self.note("asks", args[0])
            return 0
        if func in (ATEN._to_copy.default, ATEN.copy_.default):
            into = func is ATEN.copy_.default
            source, up = args[into], on_gpu(args[0]) if into else target == "cuda" or "device" not in kwargs
            if on_gpu(source) and not up:
                self.counts["fetches"] += 1
                answer = torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype)
                return args[0].copy_(answer) if into else answer
            if not on_gpu(source):
                free = hasattr(source, "pinned") and (args[2:] or [kwargs.get("non_blocking")])[0]
                self.note("sends" if free else "waits while sending", source)
        if func in (ATEN.convolution.default, ATEN.convolution_backward.default):
            for x in (x for x in args[:3] if isinstance(x, torch.Tensor) and x.dim() == 5):
                self.counts[f"maps in {str(x.dtype).removeprefix('torch.')}"] += 1
                self.counts["maps in another layout"] += not x.is_contiguous(memory_format=LAST)
        with self.fake:
            answer = func(*tree_map_only(torch.Tensor, self.as_fake, args),
                          **tree_map_only(torch.Tensor, self.as_fake, kwargs))
        self.counts["float64"] += any(x.dtype == torch.float64 and x.dim()
                                      for x in tree_leaves(answer) if isinstance(x, torch.Tensor))
        return answer


def report(name, device, recompute=False, **changes):
    """Two trainings, the second going on from the first one's checkpoint, and a prediction."""
    gpu, parts = Gpu(), {"steps": [], "rest": [], "prediction": []}
    settings, precision = replace(SETTINGS, **changes), choose_precision("auto", device)

    def close(part):
        parts[part].append({what: count for what, count in gpu.counts.items() if count})
        gpu.counts.clear()

    def step(*arguments):
        close("rest")
        STEP(*arguments)
        close("steps")

    with tempfile.TemporaryDirectory() as folder, gpu, patch("magunet.train.train_step", step):
        for epochs in (1, 2):
            state = train.train(Path(folder), name, replace(settings, epochs=epochs), 0, CASES, CASES, "hash",
                                device, precision, recompute)
            close("rest")
        Model(state.network, settings, {}, device, precision).probability(CASES["a"].image)
        close("prediction")
    return parts


def main(names):
    """A line of JSON a network, then one a fault that is put into the 3D U-Net's training."""
    gpu = SimpleNamespace(uuid="fake", major=8)
    with contextlib.ExitStack() as stack:
        for change in ("is_available", lambda: True), ("device_count", lambda: 1), (
                "current_device", lambda: 0), ("set_device", lambda device: None), (
                "get_device_properties", lambda device: gpu), ("_lazy_init", lambda: None), (
                "get_device_capability", lambda device: (gpu.major, 0)), (
                "get_rng_state", lambda: torch.zeros(16, dtype=torch.uint8)), (
                "set_rng_state", lambda state: None):
            stack.enter_context(patch.object(torch.cuda, *change))
        for share in "AUGMENTATION_PROBABILITY", "APPEARANCE_PROBABILITY":
            stack.enter_context(patch(f"magunet.augment.{share}", 1.0))
        device = choose_device()
        works = {name: (name, None, {}) for name in names}
        works |= {"recomputing": ("MAG-UNet", None, {"recompute": True})}
        works |= {f"float16, {name}": (name, 7, {"clip_norm": norm})
                  for name, norm in (("MAG-UNet", None), ("3D U-Net", 1.0), ("TransUNet", None))}
        works |= {fault: ("3D U-Net", None, {}) for fault in FAULTS}
        for title, (name, major, options) in works.items():
            gpu.major = major or 8
            with patch(*FAULTS[title]) if title in FAULTS else contextlib.nullcontext():
                try:
                    answer = report(name, device, **options)
                except Exception as error:
                    answer = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
            print(json.dumps({"title": title, **answer}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or NETWORKS)
