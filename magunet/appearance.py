"""Random grey values for training windows: contrast, resolution, blur and noise, each with probability 0.25.

What scanners and their settings change of a scan, and not of its anatomy, beyond what the paper augments with. The operations
and the ranges of contrast, resolution and blur are nnU-Net's (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z); brightness
and noise are narrower, since HU mean the same on every scanner. Images are float (1, 1, d, h, w) in [0, 1], which is the HU
window of preparation. Random numbers are drawn on the CPU, so that a seed means the same on every device.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

PROBABILITY = 0.25
CONTRAST = (0.75, 1.25)
BRIGHTNESS = 0.05
"""Added or subtracted at most: 70 HU."""
COARSENESS = (0.5, 1.0)
"""Resolution along each axis, as a fraction of the window's."""
BLUR_VOXELS = (0.5, 1.0)
"""Sigma of a Gaussian."""
NOISE = 0.05
"""Largest standard deviation: 70 HU."""


def between(generator: torch.Generator, low: float, high: float) -> float:
    """A number in [low, high)."""
    return low + (high - low) * float(torch.rand(1, generator=generator))


def contrasted(image: Tensor, factor: float, more: float) -> Tensor:
    """Spread about the image's mean by ``factor``, and ``more`` added."""
    mean = image.mean()
    return (image - mean) * factor + mean + more


def coarser(image: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """As seen by voxels so large that there are only ``shape`` (d, h, w) of them, on the image's own grid."""
    return F.interpolate(F.interpolate(image, shape, mode="area"), image.shape[2:], mode="trilinear", align_corners=False)


def blurred(image: Tensor, sigma: float) -> Tensor:
    """Smoothed by a Gaussian of ``sigma`` voxels, cut off at three; outside is as the nearest voxel."""
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=image.device) / sigma) ** 2).to(image)
    kernel /= kernel.sum()
    for axis in range(3):
        size, pad = [1, 1, 1], [0] * 6
        size[axis], pad[4 - 2 * axis:6 - 2 * axis] = len(kernel), [radius, radius]
        image = F.conv3d(F.pad(image, pad, mode="replicate"), kernel.view(1, 1, *size))
    return image


def vary_appearance(image: Tensor, generator: torch.Generator) -> Tensor:
    """Contrast, resolution, blur and noise, in this order, as a scan goes from the patient to the file; each happens or not."""
    def happens() -> bool:
        return between(generator, 0, 1) < PROBABILITY

    if happens():
        image = contrasted(image, between(generator, *CONTRAST), between(generator, -BRIGHTNESS, BRIGHTNESS))
    if happens():
        image = coarser(image, tuple(max(1, round(n * between(generator, *COARSENESS))) for n in image.shape[2:]))
    if happens():
        image = blurred(image, between(generator, *BLUR_VOXELS))
    if happens():
        sigma = between(generator, 0, NOISE)
        image = image + sigma * torch.randn(image.shape, generator=generator).to(image)
    return image.clamp(0, 1)
