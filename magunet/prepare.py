"""From a CT on any grid to the network's input, and back (Fig. 8, Sec. 2.1.2).

    to LPS -> pad to a square -> resize in plane -> space the slices -> cut slices -> clip and scale HU

Each geometric step has its way back, so that a prediction returns to the scan's own grid. The paper gives no
slice distance; ``slice_mm`` None keeps the scan's own, as its "N x 256 x 256" suggests. Its scans are square;
others are padded with air, so that anatomy keeps its proportions.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
import torch.nn.functional as F

from magunet import body, region, volume
from magunet.base import nifti, project, provenance
from magunet.base.errors import InputError, require
from magunet.base.profiles import BOX_MM, Settings
from magunet.base.progress import say
from magunet.cohort import Case, read_checked
from magunet.region import cut, joints_centre, put_back, region_about, whole
from magunet.volume import Volume, bounding_box, orientation, reorient, same_geometry

HU_WINDOW = (-200.0, 1200.0)
"""Intensities are clipped to this window and scaled to [0, 1]; Sec. 2.1.2."""
SLAB = 8
"""Slices that are resized in plane at a time, so that no second scan of floats is in memory."""
HALF = 0.5 + 1e-5
"""What a resized mask must exceed; voxels just half inside are outside, however their sum is rounded."""

DIFFERENT_GRIDS = "image and mask lie on different grids; resample the mask onto the image"
"""What is wrong with a case whose voxels do not coincide."""

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]


class Prepared(NamedTuple):
    """What a network sees of a case, (d, size, size), with a spacing in mm (z, y, x).

    image: in [0, 1], float32 or, from the cache, float16. mask: uint8, or None.
    """

    image: np.ndarray
    mask: np.ndarray | None
    spacing: Spacing


class Frame(NamedTuple):
    """How a prepared array lies in its scan: what `restore` needs. Shapes are (d, h, w).

    inside: rows and columns of the padded scan that hold the scan (LPS). slices: first and last + 1 of the
    resized slices that were prepared.
    """

    scan: Volume
    padded_shape: Shape
    inside: tuple[slice, slice]
    resized_shape: Shape
    slices: tuple[int, int]


def prepare(scan: Volume, mask: Volume | None, settings: Settings) -> tuple[Prepared, Frame]:
    """Prepare a CT in HU; with a mask, only the slices around the target (for training).

    Raises InputError when mask and scan lie on different grids, the mask is empty, or the scan holds NaN.
    """
    require(mask is None or same_geometry(scan, mask), DIFFERENT_GRIDS)
    require_scan(scan)
    lps = reorient(scan, "LPS")
    square, inside = pad_to_square(lps.array, lps.spacing, HU_WINDOW[0])
    shape = resized_shape(square.shape, lps.spacing, settings.size, settings.slice_mm)
    spacing = tuple(s * n / m for s, n, m in zip(lps.spacing, square.shape, shape))
    slices, target = (0, shape[0]), None
    if mask is not None:
        whole, _ = pad_to_square(reorient(mask, "LPS").array != 0, lps.spacing)
        target = (resize(whole, shape) > HALF).astype(np.uint8)
        require(target.any() or not mask.array.any(),
                f"the target vanishes when resized to {shape}; raise size or lower slice_mm")
        slices = target_slices(target, spacing[0], settings.margin_mm)
        target = target[slice(*slices)]
    if len(square) == shape[0]:                                     # only in plane, so only what is prepared
        image = resize(square[slice(*slices)], (slices[1] - slices[0], *shape[1:]))
    else:
        image = resize(square, shape)[slice(*slices)]
    return Prepared(clip_and_scale(image), target, spacing), Frame(scan, square.shape, inside, shape, slices)


def prepare_voxels(scan: Volume, mask: Volume, settings: Settings) -> Prepared:
    """A training case in isotropic voxels: all of it where windows have a size, else the region of interest,
    with ``margin_mm`` on every side, by which its boxes move.

    Raises InputError when mask and scan lie on different grids, the scan holds NaN, or a region would have an
    empty mask.
    """
    require(same_geometry(scan, mask), DIFFERENT_GRIDS)
    require_scan(scan)
    region = whole(scan, settings.voxel_mm) if settings.depth else region_about(
        joints_centre(mask), mask, settings.voxel_mm, settings.margin_mm)
    target = (cut(mask, region) > HALF).astype(np.uint8)
    require(target.any() or settings.depth, "the target vanishes in such voxels; lower voxel_mm")
    return Prepared(clip_and_scale(cut(scan, region, HU_WINDOW[0])), target, (settings.voxel_mm,) * 3)


def share_outside(mask: Volume, voxel: float) -> float:
    """Share of a mask that lies outside the region of interest about its joints."""
    region = region_about(joints_centre(mask), mask, voxel)
    inside = put_back(np.ones(region.shape, np.float32), region, mask).array > HALF
    return 1 - float(inside[mask.array != 0].mean())


def require_scan(scan: Volume) -> None:
    """Raises InputError when a scan is flat, or holds NaN."""
    require(min(scan.array.shape) >= 2, f"the scan has shape {scan.array.shape} (slices, rows, columns); at "
            "least 2 of each are needed; give the whole scan")
    require(np.isfinite(scan.array).all(), "the scan holds NaN or infinite values; export it again")


def pad_to_square(array: np.ndarray, spacing: Spacing,
                  value: float = 0) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Pad rows or columns (d, h, w) on both sides with ``value`` until slices are as high as wide in mm.

    Returns the padded array, and the rows and columns where the old one lies in it.
    """
    sides = [n * s for n, s in zip(array.shape[1:], spacing[1:])]
    more = [max(0, round((max(sides) - side) / s)) for side, s in zip(sides, spacing[1:])]
    inside = tuple(slice(m // 2, m // 2 + n) for m, n in zip(more, array.shape[1:]))
    widths = (0, 0), *((m // 2, m - m // 2) for m in more)
    return np.pad(array, widths, constant_values=value) if any(more) else array, inside


def resized_shape(shape: Shape, spacing: Spacing, size: int, slice_mm: float | None) -> Shape:
    """Shape after resampling: ``size`` pixels a side, slices nearest to ``slice_mm`` apart."""
    slices = shape[0] if slice_mm is None else max(1, round(shape[0] * spacing[0] / slice_mm))
    return slices, size, size


def resize(array: np.ndarray, shape: Shape) -> np.ndarray:
    """Linear interpolation to ``shape`` (d, h, w) as float32, averaging where it shrinks.

    The outer faces of the volume stay where they are, so that resizing back returns to the same place.
    """
    x = torch.empty(array.shape[0], *shape[1:])                                         # (d, h', w')
    for start in range(0, len(array), SLAB):
        slab = torch.from_numpy(np.ascontiguousarray(array[start:start + SLAB], dtype=np.float32))[None]
        if slab.shape[2:] != shape[1:]:
            slab = F.interpolate(slab, shape[1:], mode="bilinear", antialias=True)
        x[start:start + SLAB] = slab[0]
    if len(x) != shape[0]:
        flat = x.reshape(1, 1, len(x), -1)                                              # (1, 1, d, h' * w')
        x = F.interpolate(flat, (shape[0], flat.shape[-1]), mode="bilinear", antialias=True).view(shape)
    return x.numpy()


def clip_and_scale(hu: np.ndarray) -> np.ndarray:
    """HU clipped to [-200, 1200] and scaled to [0, 1], float32: the text's "linear normalisation"."""
    low, high = HU_WINDOW
    return (np.clip(hu, low, high).astype(np.float32) - low) / (high - low)


def target_slices(mask: np.ndarray, spacing: float, margin: float) -> tuple[int, int]:
    """First and last + 1 slice that holds a mask (d, h, w), with ``margin`` mm at either end.

    Raises InputError when the mask is empty.
    """
    require(mask.any(), "the mask is empty, so there are no slices to keep; remove the case or label it")
    slices = bounding_box(mask, (round(margin / spacing), 0, 0))[0]
    return slices.start, slices.stop


def restore(values: np.ndarray, frame: Frame, threshold: float | None = None) -> Volume:
    """A map on the prepared grid (d, size, size), such as a probability, on the scan's own grid as float32.

    With a threshold, where it is above that, uint8. Slices that were not prepared are 0.
    """
    (d, h, w), lps = frame.padded_shape, reorient(frame.scan, "LPS")
    spaced = np.zeros((frame.resized_shape[0], *values.shape[1:]), np.float32)
    spaced[slice(*frame.slices)] = values
    spaced = resize(spaced, (d, *values.shape[1:]))
    array = np.empty(lps.array.shape, np.float32 if threshold is None else np.uint8)
    for start in range(0, d, SLAB):
        slab = spaced[start:start + SLAB]
        slab = resize(slab, (len(slab), h, w))[:, *frame.inside]
        array[start:start + SLAB] = slab if threshold is None else slab > threshold
    return frame.scan.with_array(reorient(lps.with_array(array), orientation(frame.scan)).array)


def cache_key(image: Path, label: Path, settings: Settings) -> str:
    """Changes with the content of the files, the settings that matter here and the code of preparation."""
    return provenance.content_hash(
        provenance.file_hash(image), provenance.file_hash(label), settings.size, settings.slice_mm,
        settings.margin_mm, settings.voxel_mm, not settings.depth, HU_WINDOW, BOX_MM,
        provenance.code_hash(sys.modules[__name__], body, nifti, region, volume))


def prepare_case(case: Case, settings: Settings) -> tuple[Prepared, str]:
    """The prepared training case and its cache key; computed once, then read from ``data/prepared``.

    A stored case that is damaged is computed again, with a note. Raises InputError, naming the file, when
    image and mask do not make a training case.
    """
    key = cache_key(case.image, case.label, settings)
    path = project.data() / "prepared" / f"{case.name}-{key}.safetensors"
    if not path.exists():
        scan, mask = read_checked(case)
        try:
            prepared = (prepare_voxels(scan, mask, settings) if settings.voxel_mm else
                        prepare(scan, mask, settings)[0])
        except InputError as error:
            raise InputError(f"{case.image}: {error}") from error
        if not settings.depth and (share := share_outside(mask, settings.voxel_mm)):
            say(f"note: {case.label}: {share:.1%} of the mask lie outside the box about both joints, which "
                "is all that a network sees; it does not learn them")
        parts = {"image": prepared.image.astype(np.float16), "mask": prepared.mask,
                 "spacing": np.array(prepared.spacing)}
        with provenance.whole_file(path) as part:
            part.write_bytes(safetensors.numpy.save(parts))
    try:
        stored = safetensors.torch.load_file(path)                      # maps the file, reads what is touched
        stored = {part: tensor.numpy() for part, tensor in stored.items()}
        return Prepared(stored["image"], stored["mask"], tuple(stored["spacing"].tolist())), key
    except (safetensors.SafetensorError, KeyError) as error:
        say(f"note: {path}: damaged ({type(error).__name__}), removed; preparing the case anew")
    path.unlink()
    return prepare_case(case, settings)
