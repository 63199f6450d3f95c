"""Training (Sec. 2.1): Adam, Dice + cross-entropy, batch size 1.

The last epoch's weights are the result. The validation curve is a picture, never a choice: the cases
that are reported choose nothing.
"""

import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from magunet import checkpoint, fast, losses
from magunet.augment import augment
from magunet.base import provenance
from magunet.base.device import autocast
from magunet.base.errors import InputError
from magunet.base.interrupt import uninterrupted
from magunet.base.profiles import Settings
from magunet.base.progress import say, track
from magunet.checkpoint import TrainingState
from magunet.fast import accelerate
from magunet.metrics import overlap
from magunet.predict import THRESHOLD, predict_windows, probability
from magunet.prepare import Prepared
from magunet.studies import build

CHECKPOINT_FILE, LOG_FILE = "checkpoint.safetensors", "metrics.jsonl"
CHECKPOINT_SECONDS = {"cpu": 0, "cuda": 20}
"""Between checkpoints at least: on a GPU writing one can take longer than an epoch. An interruption writes one in any case."""


def window(prepared: Prepared, depth: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random ``depth`` slices of a case: image and mask, each (1, 1, depth, h, w).

    A case with fewer slices is padded: the image by its outer slices, the mask by nothing.
    """
    slices = len(prepared.image)
    start = int(torch.randint(max(1, slices - depth + 1), (1,), generator=generator))
    image, mask = prepared.image[start:start + depth], prepared.mask[start:start + depth]
    before = (depth - len(image)) // 2
    pad = ((before, depth - len(image) - before), (0, 0), (0, 0))
    image, mask = np.pad(image, pad, mode="edge"), np.pad(mask, pad)
    return torch.from_numpy(image)[None, None].float(), torch.from_numpy(mask)[None, None]


def learning_rate_factor(schedule: str, step: int, steps: int) -> float:
    """What the learning rate is multiplied with at a step: 1, or half a cosine from 1 down to 0."""
    return 1.0 if schedule == "constant" else 0.5 * (1 + math.cos(math.pi * step / steps))


def new_state(network: str, settings: Settings, seed: int, steps: int, device: torch.device,
              plain: bool = False) -> TrainingState:
    """Network, optimiser, scheduler and generators at step 0. Seeds torch. plain: without `magunet.fast.accelerate`."""
    torch.manual_seed(seed)
    net = build(network, settings.width_divisor)
    net = (net if plain else accelerate(net)).to(device, memory_format=torch.channels_last_3d)
    optimizer = torch.optim.Adam(net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(settings.schedule, step, steps))
    return TrainingState(net, optimizer, scheduler, torch.Generator().manual_seed(seed))


def train_epoch(state: TrainingState, cases: dict[str, Prepared], settings: Settings,
                device: torch.device, precision: torch.dtype) -> float:
    """One pass of ``samples_per_case`` windows of every case in random order, or the rest of it; returns `mean_loss`."""
    state.network.train()
    if len(state.losses) == len(state.order):
        names = [name for name in cases for _ in range(settings.samples_per_case)]
        state.order, state.losses = [names[i] for i in torch.randperm(len(names), generator=state.generator)], []
    for name in track(state.order[len(state.losses):], "windows", lines=False):
        with uninterrupted():
            train_step(state, cases[name], settings, device, precision)
    return mean_loss(state)


def mean_loss(state: TrainingState) -> float:
    """Of the windows of an epoch. Raises InputError, naming the case, when one is not a number."""
    values = torch.stack([loss.cpu() for loss in state.losses])
    if not values.isfinite().all():
        bad = state.order[int((~values.isfinite()).nonzero()[0])]
        raise InputError(f"case {bad}: the loss became {values[~values.isfinite()][0]:g}; lower learning_rate "
                         "or look at the case. The last checkpoint is from before")
    return float(values.mean())


def handed_over(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor from the CPU on a device. To a GPU from pinned memory, which does not wait for what the GPU still has to do."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def train_step(state: TrainingState, case: Prepared, settings: Settings, device: torch.device, precision: torch.dtype) -> None:
    """A random window of a case, augmented, forwards and backwards.

    Nothing here asks a GPU for a value: while it works on one window, the next are read, augmented and queued.
    """
    state.whole = False
    image, mask = window(case, settings.depth, state.generator)
    image, mask = augment(handed_over(image, device), handed_over(mask, device), case.spacing, state.generator,
                          settings.augmentation)
    with autocast(device, precision):
        logits = state.network(image.contiguous(memory_format=torch.channels_last_3d))
    loss = losses.dice_ce_loss(logits.float(), mask)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    state.optimizer.step()
    state.scheduler.step()
    state.losses.append(loss.detach())
    state.whole = True


def validation_dice(network: torch.nn.Module, cases: dict[str, Prepared], settings: Settings,
                    device: torch.device, precision: torch.dtype) -> float:
    """Mean Dice over prepared cases, around the target only; the reported scores are on the scans' own grids."""
    scores = []
    for case in cases.values():
        p = predict_windows(case.image, settings.depth, lambda x: probability(network, x, device, precision))
        scores.append(overlap(p > THRESHOLD, case.mask).dice)
    return float(np.mean(scores))


def train(folder: Path, network: str, settings: Settings, seed: int, cases: dict[str, Prepared],
          held_out: dict[str, Prepared], settings_hash: str, device: torch.device, precision: torch.dtype,
          recompute: bool = False, plain: bool = False) -> TrainingState:
    """Run the epochs that are still to do, with a log line and a checkpoint (as CHECKPOINT_SECONDS allow) after each, and a
    checkpoint when interrupted.

    cases are learned from, held_out only drawn as a curve. recompute: as `magunet.fast.recompute` does.
    plain: as in `new_state`.
    """
    steps = settings.epochs * settings.samples_per_case * len(cases)
    state = new_state(network, settings, seed, steps, device, plain)
    if recompute:
        fast.recompute(state.network)
    path = folder / CHECKPOINT_FILE
    if path.exists():
        checkpoint.restore(state, path, settings_hash)
        if not set(state.order) <= set(cases):
            raise InputError(f"{path}: names cases that are not trained on; remove it to train from the start")
        within = f" and window {len(state.losses)} of {len(state.order)} of the next" if state.losses else ""
        say(f"{network}: going on after epoch {len(state.log)} of {settings.epochs}{within}")
    saved, saved_epochs = time.monotonic(), len(state.log)
    for epoch in range(len(state.log) + 1, settings.epochs + 1):
        began, before = time.monotonic(), state.seconds
        done = len(state.losses)                                        # before an interruption
        try:
            all_seen = 0 < len(state.order) == done                     # interrupted within the validation
            loss = mean_loss(state) if all_seen else train_epoch(state, cases, settings, device, precision)
            step_seconds = None if all_seen else round((time.monotonic() - began) / (len(state.losses) - done), 5)
            dice = validation_dice(state.network, held_out, settings, device, precision)
            with uninterrupted():
                factor = learning_rate_factor(settings.schedule, steps * (epoch - 1) // settings.epochs, steps)
                state.log.append({"epoch": epoch, "loss": loss, "val_dice": dice,
                                  "learning_rate": settings.learning_rate * factor,
                                  "seconds": round(before + time.monotonic() - began, 2), "step_seconds": step_seconds})
                state.order, state.losses, state.seconds = [], [], 0.0
                if epoch == settings.epochs or time.monotonic() - saved >= CHECKPOINT_SECONDS[device.type]:
                    checkpoint.save(state, path, settings_hash)
                    saved, saved_epochs = time.monotonic(), epoch
                write_log(folder / LOG_FILE, state.log)
            say(f"{network}: epoch {epoch}/{settings.epochs}  loss {loss:.4f}  validation Dice {dice:.3f}  "
                f"{state.log[-1]['seconds']:.0f} s")
        except KeyboardInterrupt:
            if state.losses:
                state.seconds = before + time.monotonic() - began
            unsaved = state.losses or len(state.log) > saved_epochs
            if state.whole and unsaved and all(loss.isfinite() for loss in state.losses):
                try:
                    checkpoint.save(state, path, settings_hash)
                    within = f"window {len(state.losses)} of {len(state.order)} of " if state.losses else ""
                    say(f"{network}: checkpoint after {within}epoch {len(state.log) + bool(state.losses)}")
                except (InputError, OSError) as error:
                    say(f"note: no checkpoint within the epoch: {error}")
            raise
    return state


def write_log(path: Path, log: list[dict]) -> None:
    """One JSON line an epoch, whole or not at all."""
    with provenance.whole_file(path) as part:
        part.write_text("".join(json.dumps(entry) + "\n" for entry in log))
