"""What makes a scan look like those of a cohort: its grid and its noise."""

from collections.abc import Callable, Iterator

import numpy as np
from scipy import ndimage

from magunet.base.errors import InputError
from magunet.cohort import Cohort
from magunet.volume import Volume, read_volume, reorient
from sijphantom.cohort import Options
from sijphantom.scanner import Protocol

SOFT_HU = (0, 100)
"""Muscle and organs: noise is read there, where the anatomy itself is even."""
EVEN = 0.35
"""Of the patches in soft tissue, the share that is taken to hold no edges."""
PATCH_MM = 6.0
LEAST_HEIGHT = 110.0
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
    if np.count_nonzero(soft) < 1000:
        raise InputError("hardly any soft tissue from 0 to 100 HU, so the noise cannot be measured; give CTs of the "
                         "trunk in HU")
    variance = np.sort(variance[soft].clip(0))
    return float(np.sqrt(variance[: max(1, int(EVEN * variance.size))].mean()))


def phantom_options(cohort: Cohort, count: int, progress: Callable[[list, str], Iterator]) -> list[Options]:
    """How to make `count` phantoms like the scans of a cohort: each takes matrix, spacing, slices and noise of one.

    The scans come in turn, by name; a phantom's slices are square, as wide as the scan's longer side. Raises
    InputError, naming the file, when a scan cannot be measured or is too short for a phantom's joints.
    """
    options = []
    for case in progress(sorted(cohort.cases.values(), key=lambda case: case.name)[:count], "measured"):
        scan = reorient(read_volume(case.image), "LPS")
        try:
            noise = noise_of(scan)
        except InputError as error:
            raise InputError(f"{case.image}: {error}") from error
        slices, pixel = len(scan.array), scan.spacing[2]
        if (height := slices * scan.spacing[0]) < LEAST_HEIGHT:
            raise InputError(f"{case.image}: is {height:.0f} mm high, and the joints of a phantom need {LEAST_HEIGHT:.0f} mm; "
                             "leave this case out of the cohort")
        matrix = round(max(n * s for n, s in zip(scan.array.shape[1:], scan.spacing[1:])) / pixel)
        ranges = {"pixel_mm": pixel, "slice_mm": scan.spacing[0], "noise_hu": noise}
        protocol = Protocol(**{name: (value, value) for name, value in ranges.items()})
        options.append({"matrix": matrix, "slices": (slices, slices), "protocol": protocol})
    return [options[n % len(options)] for n in range(count)]
