"""The acquisition of a phantom: the scan grid, its protocol, point spread and slice profile.

Lengths are in mm; arrays are (d, h, w).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from magunet.base.errors import require
from sijphantom.fields import Array, Axes

PIXEL_MM = (0.449, 0.801)
"""Smallest and largest pixel of the paper's 512 x 512 slices; Sec. 2.1.1."""
_SUBSLICE = 2.5  # mm, thicker slices are averaged from several thin ones
_SLAB = 1_500_000  # voxels rendered at a time: 6 MB, which stay in the cache


@dataclass(frozen=True)
class Protocol:
    """What an acquisition is drawn from: ranges (minimum, maximum).

    `pixel_mm` None is the range of the paper's cohort (0.449 to 0.801 mm at 512 x 512), scaled with the
    matrix; `margin_mm` reaches beyond the joints, below and above. `noise_hu` is the standard deviation in
    the body; None draws 8 to 32 HU for a soft and 18 to 60 HU for a bone kernel, our choice, less where
    pixels are larger than a scanner's. The upper part of the range is low dose, with streaks.
    """

    pixel_mm: tuple[float, float] | None = None
    slice_mm: tuple[float, float] = (0.5, 5.0)
    margin_mm: tuple[float, float] = (10.0, 110.0)
    noise_hu: tuple[float, float] | None = None

    def pixels(self, matrix: int) -> tuple[float, float]:
        """Minimum and maximum mm of a pixel."""
        return self.pixel_mm or tuple(p * 512 / matrix for p in PIXEL_MM)


@dataclass(frozen=True)
class Acquisition:
    """One scan: `origin` is the centre of the first voxel (z, y, x) in mm, `noise` in HU.

    `aperture` is the share of a voxel's sides over which it averages: less than 1 where slices are thinner
    than their distance, or where a scan was resampled without smoothing. `blur` is the sigma in mm of the
    point spread in plane, `streaks` the share of the noise variance that lies in streaks from side to side,
    `hardening` the strength of beam hardening, `cutoff` the frequency in 1/mm at which the kernel ends.
    """

    matrix: int
    slices: int
    pixel: float
    slice_spacing: float
    origin: tuple[float, float, float]
    kernel: str
    aperture: float
    blur: float
    cutoff: float
    noise: float
    streaks: float
    hardening: float

    @property
    def spacing(self) -> tuple[float, float, float]:
        return self.slice_spacing, self.pixel, self.pixel

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.slices, self.matrix, self.matrix

    @property
    def subslices(self) -> int:
        return int(np.clip(np.ceil(self.aperture * self.slice_spacing / _SUBSLICE), 1, 3))

    def axes(self) -> Axes:
        """Voxel centres (z, y, x) in mm."""
        return tuple(o + s * np.arange(n) for o, s, n in zip(self.origin, self.spacing, self.shape))

    def slabs(self) -> Iterator[slice]:
        """The slices of the scan in pieces that fit into memory."""
        step = max(1, _SLAB // (self.matrix**2 * self.subslices))
        for start in range(0, self.slices, step):
            yield slice(start, min(start + step, self.slices))

    def fine_z(self, part: slice) -> NDArray:
        """Heights of the sub-slices that make up the slices of a slab."""
        inner = (np.arange(self.subslices) + 0.5) / self.subslices - 0.5
        return (self.axes()[0][part, None] + inner * self.aperture * self.slice_spacing).ravel()

    def average(self, fine: Array) -> Array:
        """Slice profile: the mean of the sub-slices (axis -3)."""
        shape = (*fine.shape[:-3], -1, self.subslices, *fine.shape[-2:])
        return fine if self.subslices == 1 else fine.reshape(shape).mean(-3)


def draw_acquisition(rng: np.random.Generator, matrix: int, slices: tuple[int, int], protocol: Protocol,
                     low: NDArray, high: NDArray) -> Acquisition:
    """Draws an acquisition that holds the box of the joints, `low` to `high` (z, y, x) in mm, with margin.

    Raises `InputError` when so few slices are allowed that the widest spacing cannot cover the joints.
    """
    require(2 <= slices[0] <= slices[1],
            f"slices is a range (fewest, most) of numbers from 2 up, not {slices}")
    pixel = rng.uniform(*protocol.pixels(matrix))
    count = int(rng.integers(slices[0], slices[1] + 1))
    closest, farthest = protocol.margin_mm
    below, above = closest + (farthest - closest) * rng.beta(1, 2, 2)  # short scans are more common
    height = float(high[0] - low[0])
    widest = protocol.slice_mm[1]
    require(count * widest >= height + 10, f"{count} slices of {widest:g} mm cannot cover joints "
            f"{height:.0f} mm high; allow at least {np.ceil((height + 10) / widest):.0f}")
    spacing = float(np.clip((height + below + above) / count, *protocol.slice_mm))
    spare = spacing * count - height
    bottom = low[0] - spare * below / (below + above) + spacing / 2
    middle, half = (low + high) / 2, pixel * matrix / 2
    room = half - (high[1:] - low[1:]) / 2 - 12
    require((room >= 0).all(), f"{matrix} pixels of {pixel:.2f} mm cannot hold joints {high[2] - low[2]:.0f} "
            f"mm apart and {high[1] - low[1]:.0f} mm deep; take more or larger pixels")
    y = middle[1] - min(60.0, room[0]) * rng.uniform(0.6, 1) + rng.normal(0, 2)
    x = middle[2] + np.clip(rng.normal(0, 6), -room[1], room[1])
    corner = [float(c - half + pixel / 2) for c in (y, x)]
    kernel, usual, blurs, cutoffs = (("bone", (18, 60), (0.25, 0.4), (0.8, 1.2)) if rng.random() < 0.5 else
                                     ("soft", (8, 32), (0.5, 0.8), (0.4, 0.65)))        # HU, mm, 1/mm
    aperture = 1.0 if rng.random() < 0.5 else float(rng.uniform(0.4, 1))
    low_dose = rng.random() < 0.3
    quiet, loud = protocol.noise_hu or np.divide(usual, np.sqrt(max(1, pixel / PIXEL_MM[1])))
    middle_hu = quiet + 0.6 * (loud - quiet)
    noise = rng.uniform(middle_hu, loud) if low_dose else rng.uniform(quiet, middle_hu)
    resampled = rng.uniform(0, 0.5) * max(0, pixel - PIXEL_MM[1])  # mm, no scanner has larger pixels
    return Acquisition(
        matrix, count, float(pixel), spacing, (float(bottom), *corner), kernel, aperture,
        blur=float(resampled + rng.uniform(*blurs)), cutoff=float(rng.uniform(*cutoffs)), noise=float(noise),
        streaks=float(rng.uniform(*((0.2, 0.5) if low_dose else (0, 0.15)))),
        hardening=float(rng.uniform(0, 1)))


def blur(image: Array, scan: Acquisition) -> Array:
    """In-plane point spread: a Gaussian of `scan.blur` mm."""
    sigma = scan.blur / scan.pixel
    return image if sigma < 0.15 else ndimage.gaussian_filter(image, (0, sigma, sigma), truncate=3)
