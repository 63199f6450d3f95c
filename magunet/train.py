"""Training (Sec. 2.1): Adam, Dice + cross-entropy, batch size 1. The validation cases choose no weights."""

import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from magunet import checkpoint, fast, losses
from magunet.augment import augment
from magunet.base.device import autocast, choose_precision, onto
from magunet.base.errors import InputError
from magunet.base.profiles import Settings
from magunet.base.progress import say, track
from magunet.base.provenance import whole_file
from magunet.checkpoint import TrainingState
from magunet.metrics import overlap
from magunet.model import scales
from magunet.predict import THRESHOLD, padding, predict_windows, probability
from magunet.prepare import Prepared, Shape
from magunet.studies import build, checked

CHECKPOINT_FILE = "checkpoint.safetensors"
"""The state of a training, in the run's folder."""
LOG_FILE = "metrics.jsonl"
"""A line an epoch, in the run's folder."""
EPOCH_SECONDS = {"cpu": 0, "cuda": 20}
"""Minimum between two checkpoints after an epoch: on a GPU writing one can take longer than an epoch."""
STEP_SECONDS = 60
"""Minimum between two checkpoints within an epoch."""
CURVE_CASES = 10
"""Of the cases that are scored, evenly chosen: their Dice after every epoch is the learning curve."""


def window(prepared: Prepared, shape: Shape, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random box of a case, image and mask (1, 1, *shape); what it lacks is padded, masks by 0."""
    spare = [max(0, n - m) for n, m in zip(prepared.image.shape, shape)]
    starts = [int(torch.randint(more + 1, (1,), generator=generator)) if more or not axis else 0
              for axis, more in enumerate(spare)]
    box = tuple(slice(start, start + m) for start, m in zip(starts, shape))
    image, mask = prepared.image[box], prepared.mask[box]
    pad = padding(image.shape, shape)
    image, mask = np.pad(image, pad, mode="edge"), np.pad(mask, pad)
    return torch.from_numpy(image)[None, None].float(), torch.from_numpy(mask)[None, None]


def middle(case: Prepared, shape: Shape) -> Prepared:
    """The box in the middle of a case, where the joints are; smaller where the case is."""
    starts = [max(0, (n - m) // 2) for n, m in zip(case.image.shape, shape)]
    box = tuple(slice(start, start + m) for start, m in zip(starts, shape))
    return case._replace(image=case.image[box], mask=case.mask[box])


def learning_rate_factor(settings: Settings, step: int, steps: int) -> float:
    """What the learning rate is multiplied with: 1, or half a cosine from 1 to 0; less in the warm-up."""
    rise = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    return rise if settings.schedule == "constant" else rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def optimizer_of(network: nn.Module, settings: Settings, rate: float) -> torch.optim.Optimizer:
    """Adam with its L2 term (Sec. 2.1.3), or AdamW, which shrinks kernels alone.

    Loshchilov, Hutter: Decoupled Weight Decay Regularization, ICLR 2019. AdamW leaves biases,
    normalisation and scalars alone; both leave modules that are ``undecayed``.
    """
    undecayed = {p for module in network.modules() if getattr(module, "undecayed", False)
                 for p in module.parameters()}
    if settings.optimizer == "adamw":
        undecayed |= {p for p in network.parameters() if p.ndim < 2}
    groups = [{"params": [p for p in network.parameters() if (p in undecayed) == free],
               "weight_decay": 0 if free else settings.weight_decay} for free in (False, True)]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    fused = all(p.device.type == "cuda" for p in network.parameters())   # asks for no value, nor when scaled
    return kind([group for group in groups if group["params"]], lr=rate, fused=fused)


def new_state(network: str, settings: Settings, seed: int, steps: int, device: torch.device,
              plain: bool = False) -> TrainingState:
    """Network, optimiser, scheduler and generators at step 0. Seeds torch. plain: without the fast layers."""
    torch.manual_seed(seed)
    net = build(network, settings.width_divisor)
    net = (net if plain else fast.accelerate(net)).to(device, memory_format=torch.channels_last_3d)
    optimizer = optimizer_of(net, settings, settings.rate_of(checked(network, settings.width_divisor)))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(settings, step, steps))
    half = not plain and choose_precision(settings.precision, device) == torch.float16
    return TrainingState(net, optimizer, scheduler, torch.Generator().manual_seed(seed),
                         torch.amp.GradScaler(device.type, enabled=half))


def start_at_share(network: torch.nn.Module, share: float) -> None:
    """Sets the bias of the last layer to the log odds of the target, whose ``share`` of voxels is in (0, 1).

    A drawn bias near 0 says one half everywhere; how soon a network unlearns that would decide which is best.
    """
    layers = (layer for layer in network.modules() if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)))
    head = [layer for layer in layers if layer.out_channels == 1 and layer.bias is not None][-1]
    nn.init.constant_(head.bias, math.log(share / (1 - share)))


def share_of(cases: dict[str, Prepared], settings: Settings) -> float:
    """Mean share of the target in what the network sees of each case."""
    return float(np.mean([case.mask.mean() if settings.depth else middle(case, settings.shape).mask.mean()
                          for case in cases.values()]))


def train_step(state: TrainingState, case: Prepared, settings: Settings, device: torch.device,
               precision: torch.dtype) -> None:
    """A random window of a case, augmented, forwards and backwards; asks a GPU for no value."""
    image, mask = (onto(part, device) for part in window(case, settings.shape, state.generator))
    image, mask = augment(image, mask, case.spacing, state.generator, settings.augmentation)
    with autocast(device, precision):
        logits = state.network(image.contiguous(memory_format=torch.channels_last_3d))
    loss = losses.dice_ce_loss(logits.float(), mask)
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(loss).backward()                     # the scaler does nothing but in float16
    if settings.clip_norm:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.network.parameters(), settings.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.scheduler.step()
    state.losses.append(loss.detach())


def mean_loss(state: TrainingState) -> float:
    """Of the windows of this epoch so far. Raises InputError, naming the case, when one is not a number."""
    values = torch.stack([loss.cpu() for loss in state.losses])
    for case, value in zip(state.order, values.tolist()):
        if not math.isfinite(value):
            raise InputError(f"case {case}: the loss became {value:g}; lower learning_rate or look at the "
                             "case. The last checkpoint is from before")
    return float(values.mean())


def validation_dice(network: torch.nn.Module, cases: dict[str, Prepared], settings: Settings,
                    device: torch.device, precision: torch.dtype) -> float:
    """Mean Dice over prepared cases, around the target only; reported scores are of whole scans."""
    scores = []
    for case in cases.values():
        case = case if settings.depth else middle(case, settings.shape)
        p = predict_windows(case.image, settings.shape, lambda x: probability(network, x, device, precision))
        scores.append(overlap(p > THRESHOLD, case.mask).dice)
    return float(np.mean(scores))


def train(folder: Path, network: str, settings: Settings, seed: int, cases: dict[str, Prepared],
          held_out: dict[str, Prepared], settings_hash: str, device: torch.device, precision: torch.dtype,
          recompute: bool = False, plain: bool = False) -> TrainingState:
    """Train from the last checkpoint, or the start, to the last epoch; an epoch is a log line.

    An epoch draws ``samples_per_case`` windows of each of ``cases`` in random order and validates on
    ``held_out``. A training that was killed ends with the very same weights. Others: as `magunet.runs.fit`.
    """
    windows = [name for name in cases for _ in range(settings.samples_per_case)]
    steps, path = settings.epochs * len(windows), folder / CHECKPOINT_FILE
    share = share_of(cases, settings)

    def start() -> TrainingState:
        state = new_state(network, settings, seed, steps, device, plain)
        start_at_share(state.network, share)
        return state

    state = start()
    if path.exists() and not checkpoint.restore(state, path, settings_hash):
        state = start()                                     # half restored, the other is of no use
    if not set(state.order) <= set(cases):
        raise InputError(f"{path}: names cases that are not trained on; remove it to start again")
    if state.log or state.losses:
        within = f" and window {len(state.losses)} of {len(state.order)} of the next" if state.losses else ""
        say(f"{network}: going on after epoch {len(state.log)} of {settings.epochs}{within}")
    if recompute:
        fast.recompute(state.network)
    last_save = time.monotonic()
    for epoch in range(len(state.log) + 1, settings.epochs + 1):
        start, earlier, done = time.monotonic(), state.seconds, len(state.losses)
        state.network.train()
        if not state.order:
            state.order = [windows[i] for i in torch.randperm(len(windows), generator=state.generator)]
        for name in track(state.order[done:], "windows", lines=False):
            train_step(state, cases[name], settings, device, precision)
            if time.monotonic() - last_save >= STEP_SECONDS:
                mean_loss(state)                            # no checkpoint of a loss that is not a number
                state.seconds = earlier + time.monotonic() - start
                checkpoint.save(state, path, settings_hash)
                last_save = time.monotonic()
        loss, count = mean_loss(state), len(state.losses) - done
        step_seconds = round((time.monotonic() - start) / count, 5) if count else None
        dice = validation_dice(state.network, held_out, settings, device, precision)
        rate, = {group["initial_lr"] for group in state.optimizer.param_groups}
        rate *= learning_rate_factor(settings, len(windows) * (epoch - 1), steps)
        seconds = earlier + time.monotonic() - start
        state.log.append({"epoch": epoch, "loss": loss, "val_dice": dice, "seconds": round(seconds, 2),
                          "learning_rate": rate, "step_seconds": step_seconds,
                          "scales": scales(state.network)})
        state.order, state.losses, state.seconds = [], [], 0.0
        with whole_file(folder / LOG_FILE) as part:         # first: a finished training lacks no line
            part.write_text("".join(json.dumps(entry) + "\n" for entry in state.log), encoding="utf-8")
        if epoch == settings.epochs or time.monotonic() - last_save >= EPOCH_SECONDS[device.type]:
            checkpoint.save(state, path, settings_hash)
            last_save = time.monotonic()
        say(f"{network}: epoch {epoch}/{settings.epochs}  loss {loss:.4f}  validation Dice {dice:.3f}  "
            f"{seconds:.0f} s")
    return state
