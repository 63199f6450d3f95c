"""From a CT on any grid and its mask to what a network is trained on (Fig. 8, Sec. 2.1.2).

    to LPS -> resize in plane, as a square -> space the slices -> cut slices -> clip and scale HU
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy
import safetensors.torch

from magunet import body, region, volume
from magunet.base import nifti, project, provenance
from magunet.base.errors import InputError, require
from magunet.base.profiles import BOX_MM, Settings
from magunet.base.progress import say
from magunet.cohort import Case, read_checked
from magunet.region import Region, cut, joints_centre, put_back, region_about, whole, whole_planes
from magunet.volume import Volume, bounding_box, same_geometry

HU_WINDOW = (-200.0, 1200.0)
"""Intensities are clipped to this window and scaled to [0, 1]; Sec. 2.1.2."""
HALF = 0.5 + 1e-5
"""What a resized mask must exceed; voxels just half inside are outside, however their sum is rounded."""

DIFFERENT_GRIDS = "image and mask lie on different grids; resample the mask onto the image"
"""What is wrong with a case whose voxels do not coincide."""

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]


class Prepared(NamedTuple):
    """What a network sees of a case, (d, size, size), with a spacing in mm (z, y, x).

    image: in [0, 1], float32 or, from the cache, float16. mask: uint8.
    """

    image: np.ndarray
    mask: np.ndarray
    spacing: Spacing


def training_region(mask: Volume, settings: Settings) -> Region:
    """What a network is trained on of a case: planes, of which slices farther than ``margin_mm`` from the
    target are left out; in isotropic voxels all of it where windows have a size, and else the region of
    interest with ``margin_mm`` on every side, by which its boxes move.

    Raises InputError when the mask is empty, or becomes so.
    """
    if settings.voxel_mm and settings.depth:
        return whole(mask, settings.voxel_mm)
    if settings.voxel_mm:
        return region_about(joints_centre(mask), mask, settings.voxel_mm, settings.margin_mm)
    region = whole_planes(mask, settings)
    target = cut(mask, region) > HALF
    require(target.any() or not mask.array.any(),
            f"the target vanishes when resized to {region.shape}; raise size or lower slice_mm")
    first, stop = target_slices(target, region.voxel[0], settings.margin_mm)
    return Region((region.first[0] + first * region.voxel[0], *region.first[1:]), region.voxel,
                  (stop - first, *region.shape[1:]))


def prepare(scan: Volume, mask: Volume, settings: Settings) -> Prepared:
    """The `training_region` of a CT in HU and its mask of 0 and 1.

    Raises InputError as `training_region`, when both lie on different grids, or the scan holds NaN.
    """
    require(same_geometry(scan, mask), DIFFERENT_GRIDS)
    require_scan(scan)
    region = training_region(mask, settings)
    target = (cut(mask, region) > HALF).astype(np.uint8)
    require(target.any() or settings.depth, "the target vanishes in such voxels; lower voxel_mm")
    return Prepared(clip_and_scale(cut(scan, region, HU_WINDOW[0])), target, region.voxel)


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
            prepared = prepare(scan, mask, settings)
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
