"""The scanner of the phantom: the scan grid, smooth fields on it, blur and noise.

Lengths are in mm; arrays are (d, h, w). Protocol ranges: pixel 0.449 to 0.801 mm at 512 x 512 and 50 to 200
slices are those of the paper's cohort; image noise of 12 to 60 HU covers low-dose pelvic CT with soft and
with bone kernels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from magunet.errors import InputError
from magunet.paper import PIXEL_MM

Array = NDArray[np.float32]
Axes = tuple[NDArray, NDArray, NDArray]  # z, y, x positions in mm

SLICE_SPACING = (0.5, 5.0)  # mm
_SUBSLICE = 1.5  # mm, thicker slices are averaged from several thin ones
_SLAB = 6_000_000  # voxels rendered at a time


@dataclass(frozen=True)
class Scan:
    """One acquisition: `origin` is the centre of the first voxel (z, y, x), `noise` its SD in HU."""

    matrix: int
    slices: int
    pixel: float
    slice_spacing: float
    origin: tuple[float, float, float]
    kernel: str
    blur: float
    noise: float

    @property
    def spacing(self) -> tuple[float, float, float]:
        return self.slice_spacing, self.pixel, self.pixel

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.slices, self.matrix, self.matrix

    @property
    def subslices(self) -> int:
        return int(np.clip(np.ceil(self.slice_spacing / _SUBSLICE), 1, 4))

    def axes(self) -> Axes:
        """Voxel centres (z, y, x) in mm."""
        return tuple(o + s * np.arange(n) for o, s, n in zip(self.origin, self.spacing, self.shape))

    def slabs(self) -> Iterator[tuple[slice, Axes]]:
        """The scan in pieces: slices of the image, and the axes of their sub-slices."""
        z, y, x = self.axes()
        step = max(1, _SLAB // (self.matrix**2 * self.subslices))
        inner = (np.arange(self.subslices) + 0.5) / self.subslices - 0.5
        for start in range(0, self.slices, step):
            part = slice(start, min(start + step, self.slices))
            yield part, ((z[part, None] + inner * self.slice_spacing).ravel(), y, x)

    def average(self, fine: Array) -> Array:
        """Slice profile: the mean of the sub-slices."""
        return fine if self.subslices == 1 else fine.reshape(-1, self.subslices, *fine.shape[1:]).mean(1)


def draw_scan(
    rng: np.random.Generator, matrix: int, slices: tuple[int, int], low: NDArray, high: NDArray
) -> Scan:
    """Draws an acquisition that holds the box of the joints, `low` to `high` (z, y, x) in mm, with margin.

    Raises `InputError` when so few slices are allowed that 5 mm spacing cannot cover the joints.
    """
    if not 0 < slices[0] <= slices[1]:
        raise InputError(f"slices is a range (fewest, most) of positive numbers, not {slices}")
    pixel = rng.uniform(*PIXEL_MM) * 512 / matrix
    count = int(rng.integers(slices[0], slices[1] + 1))
    below, above = rng.uniform(10, 45, 2)
    height = float(high[0] - low[0])
    if count * SLICE_SPACING[1] < height + 10:
        least = int(np.ceil((height + 10) / SLICE_SPACING[1]))
        raise InputError(f"{count} slices cannot cover joints {height:.0f} mm high; allow at least {least}")
    spacing = float(np.clip((height + below + above) / count, *SLICE_SPACING))
    spare = spacing * count - height
    bottom = low[0] - spare * below / (below + above) + spacing / 2
    middle, half = (low + high) / 2, pixel * matrix / 2
    room = half - (high[1:] - low[1:]) / 2 - 12
    y = middle[1] - min(60.0, room[0]) * rng.uniform(0.6, 1) + rng.normal(0, 2)
    x = middle[2] + np.clip(rng.normal(0, 6), -room[1], room[1])
    corner = [c - half + pixel / 2 for c in (y, x)]
    sharp = bool(rng.random() < 0.5)
    return Scan(
        matrix, count, pixel, spacing, (float(bottom), float(corner[0]), float(corner[1])),
        "bone" if sharp else "soft",
        float(rng.uniform(0.25, 0.4) if sharp else rng.uniform(0.5, 0.75)),
        float(rng.uniform(25, 60) if sharp else rng.uniform(12, 32)),
    )  # fmt: skip


class SmoothField:
    """A function of space given at lattice nodes and interpolated by cubic B-splines (separable, hence fast).

    `nodes` (a, b, c) lie `pitch` mm apart, the first at `start` (z, y, x); `at(axes)` is float32 (d, h, w).
    The spline smooths the nodes by 0.6 pitch, and reproduces linear functions.
    """

    def __init__(self, nodes: NDArray, start: NDArray, pitch: float) -> None:
        self.nodes, self.start, self.pitch = np.asarray(nodes, np.float32), start, pitch

    @classmethod
    def lattice(cls, scan: Scan, pitch: float) -> Axes:
        """Node positions (z, y, x) of a lattice that holds the scan."""
        ends = [(a[0], a[-1]) for a in scan.axes()]
        margin = 2 * pitch + scan.slice_spacing
        return tuple(np.arange(a - margin, b + margin + pitch, pitch) for a, b in ends)

    @classmethod
    def noise(cls, rng: np.random.Generator, scan: Scan, scale: float) -> "SmoothField":
        """Random field with unit variance and bumps of about `scale` mm."""
        axes = cls.lattice(scan, scale)
        nodes = rng.standard_normal([len(a) for a in axes], dtype=np.float32)
        return cls(nodes * (315 / 151) ** 1.5, np.array([a[0] for a in axes]), scale)

    @classmethod
    def sampled(cls, nodes: NDArray, axes: Axes) -> "SmoothField":
        return cls(nodes, np.array([a[0] for a in axes]), float(axes[0][1] - axes[0][0]))

    def at(self, axes: Axes) -> Array:
        places = [(axis - start) / self.pitch for axis, start in zip(axes, self.start)]
        weights = [_spline_weights(place, count) for place, count in zip(places, self.nodes.shape)]
        out = np.tensordot(weights[0], self.nodes, 1)
        return (weights[1] @ out) @ weights[2].T


def _spline_weights(position: NDArray, count: int) -> Array:
    """Cubic B-spline weights (points, nodes); beyond the lattice the outermost nodes count."""
    distance = np.abs(np.clip(position, 1, count - 2)[:, None] - np.arange(count))
    inner = 2 / 3 - distance**2 + distance**3 / 2
    return np.where(distance < 1, inner, np.clip(2 - distance, 0, None) ** 3 / 6).astype(np.float32)


def blur(image: Array, scan: Scan) -> Array:
    """In-plane point spread: a Gaussian of `scan.blur` mm."""
    sigma = scan.blur / scan.pixel
    return image if sigma < 0.15 else ndimage.gaussian_filter(image, (0, sigma, sigma), truncate=3)


def noise(rng: np.random.Generator, scan: Scan) -> Array:
    """Correlated noise (d, h, w) in HU: coarse for the soft kernel, fine without low frequencies for bone."""
    grain = 0.8 if scan.kernel == "soft" else 0.35
    sigma = np.array([0.3, grain / scan.pixel, grain / scan.pixel])
    image = np.empty(scan.shape, np.float32)
    step = max(1, _SLAB // scan.matrix**2)
    for start in range(0, scan.slices, step):
        white = rng.standard_normal((min(step, scan.slices - start), *scan.shape[1:]), dtype=np.float32)
        grains = ndimage.gaussian_filter(white, sigma, truncate=3)
        if scan.kernel == "bone":
            grains -= 0.6 * ndimage.gaussian_filter(grains, (0, *(3 * sigma[1:])), truncate=2)
        image[start : start + step] = grains * (scan.noise / grains.std())
    return image


def digitise(image: Array) -> NDArray[np.int16]:
    """Rounds to whole HU in the range of 12-bit CT."""
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16)
