"""From a CT on any grid to the network's input, and back (Fig. 8, Sec. 2.1.2).

    reorient to LPS -> pad to a square -> resize in plane -> space the slices -> clip and scale HU -> keep the target's slices

Each geometric step has its way back, so that a prediction returns to the scan's own grid. The paper gives
no slice distance; ``slice_mm`` None keeps the scan's own, as its "N x 256 x 256" suggests. Its scans are square;
others are padded with air, so that anatomy keeps its proportions.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
import torch.nn.functional as F

from magunet import volume as volume_module
from magunet.base import project, provenance
from magunet.base.errors import InputError
from magunet.base.profiles import Settings
from magunet.base.progress import say
from magunet.cohort import read_checked
from magunet.volume import Volume, orientation, reorient, same_geometry


@dataclass(frozen=True)
class Frame:
    """How a prepared array lies in its scan: what ``restore`` needs. Shapes are (d, h, w).

    ``inside`` are the rows and columns of the padded scan that hold the scan, in LPS order.
    """

    scan: Volume
    padded_shape: tuple[int, int, int]
    inside: tuple[slice, slice]
    resized_shape: tuple[int, int, int]
    kept: tuple[int, int]


@dataclass(frozen=True)
class Prepared:
    """image: (d, size, size) in [0, 1], float32 or, cached, float16. mask: uint8 alike, or None. spacing: mm (z, y, x)."""

    image: np.ndarray
    mask: np.ndarray | None
    spacing: tuple[float, float, float]


HU_WINDOW = (-200.0, 1200.0)
"""Intensities are clipped to this window and scaled to [0, 1]; Sec. 2.1.2."""
SLAB = 8
"""Slices that are resized in plane at a time."""


def resize(array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Linear interpolation to ``shape`` (d, h, w) as float32, averaging where it shrinks.

    The outer faces of the volume stay where they are, so that resizing back returns to the same place.
    """
    x = torch.empty(array.shape[0], *shape[1:])                                         # (d, h', w')
    for start in range(0, len(array), SLAB):                                            # a few slices stay in the cache
        slab = torch.from_numpy(np.ascontiguousarray(array[start:start + SLAB], dtype=np.float32))[None]
        if slab.shape[2:] != shape[1:]:
            slab = F.interpolate(slab, shape[1:], mode="bilinear", antialias=True)
        x[start:start + SLAB] = slab[0]
    if len(x) != shape[0]:
        flat = x.reshape(1, 1, len(x), -1)                                              # (1, 1, d, h' * w')
        x = F.interpolate(flat, (shape[0], flat.shape[-1]), mode="bilinear", antialias=True).view(shape)
    return x.numpy()


HALF = 0.5 + 1e-5
"""What a resized mask must reach; so that voxels just half inside are outside, however their sum is rounded."""


def resize_mask(mask: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Where a mask (d, h, w), resized to ``shape``, is above one half, uint8. Only what it reaches is computed."""
    resized = np.zeros(shape, np.uint8)
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    if not len(slices):
        return resized
    flat = mask[slices[0]:slices[-1] + 1].any(axis=0)
    parts = [_reached(*lengths) for lengths in zip((slices, np.flatnonzero(flat.any(axis=1)), np.flatnonzero(flat.any(axis=0))),
                                                   mask.shape, shape)]
    before, after = zip(*parts)
    resized[after] = resize(mask[before], tuple(part.stop - part.start for part in after)) > HALF
    return resized


def _reached(held: np.ndarray, old: int, new: int) -> tuple[slice, slice]:
    """The stretch of an axis of ``old`` voxels, and of the ``new``, that resizing these held indices can change.

    It begins and ends where voxels of both grids do, so that it resizes alone as within the whole.
    """
    block = old // math.gcd(old, new)
    reach = 2 * math.ceil(max(1, old / new)) + 1
    first = max(0, (int(held[0]) - reach) // block)
    last = min(old // block, math.ceil((int(held[-1]) + 1 + reach) / block))
    return slice(first * block, last * block), slice(first * new * block // old, last * new * block // old)


def pad_to_square(array: np.ndarray, spacing: tuple[float, float, float],
                  value: float = 0) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Pad rows or columns on both sides with ``value`` until slices are as high as wide in mm.

    array: (d, h, w), spacing: mm (z, y, x). Returns the padded array, and the rows and columns where the old lies.
    """
    height, width = (n * s for n, s in zip(array.shape[1:], spacing[1:]))
    more = [max(0, round((max(height, width) - side) / s)) for side, s in zip((height, width), spacing[1:])]
    inside = tuple(slice(m // 2, m // 2 + n) for m, n in zip(more, array.shape[1:]))
    if not any(more):
        return array, inside
    return np.pad(array, ((0, 0), *((m // 2, m - m // 2) for m in more)), constant_values=value), inside


def clip_and_scale(hu: np.ndarray) -> np.ndarray:
    """HU clipped to [-200, 1200] and scaled to [0, 1], float32; what "linear normalisation" in the text means."""
    low, high = HU_WINDOW
    scaled = np.clip(hu, low, high).astype(np.float32)
    scaled -= low
    scaled /= high - low
    return scaled


def resized_shape(shape: tuple[int, int, int], spacing: tuple[float, float, float], size: int,
                  slice_mm: float | None) -> tuple[int, int, int]:
    """Shape after the two resampling steps: ``size`` pixels a side, slices nearest to ``slice_mm`` apart."""
    slices = shape[0] if slice_mm is None else max(1, round(shape[0] * spacing[0] / slice_mm))
    return slices, size, size


def kept_slices(mask: np.ndarray, spacing: float, margin: float) -> tuple[int, int]:
    """First and last + 1 slice that holds the target, with ``margin`` mm at either end.

    mask: (d, h, w). Raises InputError when it is empty.
    """
    holds = np.flatnonzero(mask.any(axis=(1, 2)))
    if not len(holds):
        raise InputError("the mask is empty, so there are no slices to keep; remove the case or label it")
    extra = round(margin / spacing)
    return max(0, int(holds[0]) - extra), min(len(mask), int(holds[-1]) + 1 + extra)


def prepare(scan: Volume, mask: Volume | None, settings: Settings) -> tuple[Prepared, Frame]:
    """Prepare a CT in HU; with a mask, only the slices around the target are kept (for training).

    Raises InputError when mask and scan lie on different grids, the mask is empty, or the scan holds NaN.
    """
    if mask is not None and not same_geometry(scan, mask):
        raise InputError("image and mask lie on different grids; resample the mask onto the image")
    if min(scan.array.shape) < 2:
        raise InputError(f"the scan has shape {scan.array.shape} (slices, rows, columns); at least 2 of each are "
                         "needed; give the whole scan")
    if scan.array.dtype.kind == "f" and not np.isfinite(scan.array).all():
        raise InputError("the scan holds NaN or infinite values; export it again")
    lps = reorient(scan, "LPS")
    square, inside = pad_to_square(lps.array, lps.spacing, HU_WINDOW[0])
    shape = resized_shape(square.shape, lps.spacing, settings.size, settings.slice_mm)
    spacing = tuple(s * n / m for s, n, m in zip(lps.spacing, square.shape, shape))
    kept, target = (0, shape[0]), None
    if mask is not None:
        whole, _ = pad_to_square(reorient(mask, "LPS").array != 0, lps.spacing)
        target = resize_mask(whole, shape)
        if mask.array.any() and not target.any():
            raise InputError(f"the target vanishes when resized to {shape} voxels; raise size or lower slice_mm")
        kept = kept_slices(target, spacing[0], settings.margin_mm)
        target = target[slice(*kept)]
    keep = slice(*kept)
    image = resize(square[keep], (kept[1] - kept[0], *shape[1:])) if len(square) == shape[0] else resize(square, shape)[keep]
    return Prepared(clip_and_scale(image), target, spacing), Frame(scan, square.shape, inside, shape, kept)


def restore(values: np.ndarray, frame: Frame) -> Volume:
    """A map on the prepared grid (d, size, size), such as a probability, on the scan's own grid as float32.

    Slices that were not kept are 0.
    """
    return _on_scan(_resized_by_slabs(values, frame, np.float32, lambda slab: slab), frame)


def restore_mask(probability: np.ndarray, frame: Frame, threshold: float) -> Volume:
    """Where a probability on the prepared grid (d, size, size) is above ``threshold`` on the scan's own grid, uint8.

    `restore`, but with a few slices of the scan at a time as float32.
    """
    return _on_scan(_resized_by_slabs(probability, frame, np.uint8, lambda slab: slab > threshold), frame)


def _resized_by_slabs(values: np.ndarray, frame: Frame, dtype: type, keep: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What ``keep`` makes of a prepared map, slab by slab, on the scan's grid in LPS order."""
    (d, h, w), (rows, columns) = frame.padded_shape, frame.inside
    spaced = np.zeros((frame.resized_shape[0], *values.shape[1:]), np.float32)
    spaced[slice(*frame.kept)] = values
    spaced = resize(spaced, (d, *values.shape[1:]))
    out = np.empty((d, rows.stop - rows.start, columns.stop - columns.start), dtype)
    for start in range(0, d, SLAB):
        slab = spaced[start:start + SLAB]
        out[start:start + SLAB] = keep(resize(slab, (len(slab), h, w))[:, rows, columns])
    return out


def _on_scan(lps: np.ndarray, frame: Frame) -> Volume:
    """An array in LPS order, as a volume in the scan's orientation."""
    grid = reorient(frame.scan, "LPS")
    return frame.scan.with_array(reorient(grid.with_array(lps), orientation(frame.scan)).array)


def cache_key(image: Path, label: Path, settings: Settings) -> str:
    """Changes with the content of the files, the settings that matter here and the code of preparation."""
    return provenance.content_hash(
        provenance.file_hash(image), provenance.file_hash(label), settings.size, settings.slice_mm,
        settings.margin_mm, HU_WINDOW, provenance.code_hash(sys.modules[__name__], volume_module))


def prepare_case(name: str, image: Path, label: Path, settings: Settings) -> tuple[Prepared, str]:
    """The prepared training case and its cache key; computed once, then read from ``data/prepared``.

    A stored case that is damaged is said, removed and made anew. Raises InputError, naming the file, when image and mask
    do not make a training case.
    """
    key = cache_key(image, label, settings)
    path = project.data() / "prepared" / f"{name}-{key}.safetensors"
    if not path.exists():
        scan, mask = read_checked(image, label)
        try:
            prepared, _ = prepare(scan, mask, settings)
        except InputError as error:
            raise InputError(f"{image}: {error}") from error
        with provenance.whole_file(path) as part:
            part.write_bytes(safetensors.numpy.save({"image": prepared.image.astype(np.float16), "mask": prepared.mask,
                                                     "spacing": np.array(prepared.spacing)}))
    try:
        stored = safetensors.torch.load_file(path)                      # maps the file, reads what is touched
        image_, mask_, spacing = (stored[part].numpy() for part in ("image", "mask", "spacing"))
        return Prepared(image_, mask_, tuple(spacing.tolist())), key
    except (safetensors.SafetensorError, KeyError) as error:
        say(f"note: {path}: damaged ({' '.join(str(error).split())[:120]}), removed; preparing the case anew")
    path.unlink()
    return prepare_case(name, image, label, settings)
