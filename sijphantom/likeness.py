"""What makes a phantom look like a given scan: its grid and its noise."""

from typing import Any

import numpy as np
from scipy import ndimage

from magunet.base.errors import require
from magunet.volume import Volume
from sijphantom.scanner import Protocol

SOFT_HU = (0, 100)
"""Muscle and organs: noise is measured there, where the anatomy itself is even."""
EVEN_SHARE = 0.35
"""Of the patches in soft tissue, the share that is taken to hold no edges."""
PATCH_MM = 6.0
"""Side of the square patches whose variance is taken."""
MINIMUM_HEIGHT = 110.0
"""mm of a scan; in a lower one few phantoms find room for their joints."""


def noise_of(scan: Volume) -> float:
    """Standard deviation of the noise in HU, from even patches of soft tissue in an LPS scan in HU.

    Raises InputError when the scan holds next to no soft tissue.
    """
    size = [1, *(max(3, round(PATCH_MM / s)) for s in scan.spacing[1:])]
    image = scan.array.astype(np.float32)
    mean = ndimage.uniform_filter(image, size)
    variance = (ndimage.uniform_filter(image**2, size) - mean**2) * np.prod(size) / (np.prod(size) - 1)
    soft = (mean > SOFT_HU[0]) & (mean < SOFT_HU[1])
    require(np.count_nonzero(soft) >= 1000, "hardly any soft tissue from 0 to 100 HU, so the noise cannot be "
            "measured; give CTs of the trunk in HU")
    variance = np.sort(variance[soft].clip(0))
    return float(np.sqrt(variance[: max(1, int(EVEN_SHARE * variance.size))].mean()))


def options_like(scan: Volume) -> dict[str, Any]:
    """Arguments of `phantom.make_phantom` for the matrix, spacing, slices and noise of an LPS scan in HU.

    A phantom's slices are square, as wide as the scan's longer side. Raises InputError when the scan cannot
    be measured or is too short for a phantom's joints.
    """
    slices, step, pixel, noise = len(scan.array), scan.spacing[0], scan.spacing[2], noise_of(scan)
    require(slices * step >= MINIMUM_HEIGHT, f"is {slices * step:.0f} mm high, and the joints of a phantom "
            f"need {MINIMUM_HEIGHT:.0f} mm; leave this case out of the cohort")
    matrix = round(max(n * s for n, s in zip(scan.array.shape[1:], scan.spacing[1:])) / pixel)
    protocol = Protocol(pixel_mm=(pixel, pixel), slice_mm=(step, step), noise_hu=(noise, noise))
    return {"matrix": matrix, "slices": (slices, slices), "protocol": protocol}
