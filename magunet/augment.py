"""Random augmentation of training windows: flip, affine, gamma, each with probability 0.5 (Sec. 2.1.3).

"paper" is that and nothing else. "strong" has ranges twice as wide, then changes contrast, resolution, blur
and noise, each with probability 0.25, as scanners do. These operations and most of their ranges are nnU-Net's
(Isensee et al. 2021, doi:10.1038/s41592-020-01008-z); brightness and noise are narrower, since HU mean the
same on every scanner. Images are float (1, 1, d, h, w) in [0, 1], masks have the same shape, of 0 and 1.
Random numbers are drawn on the CPU: a seed means the same on every device.
"""

import math

import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation
from torch import Tensor

from magunet.base.device import onto

AUGMENTATION_PROBABILITY = 0.5
"""Of flip, affine and gamma, each (Sec. 2.1.3)."""
ROTATION_DEGREES = 10.0
"""Largest rotation about each axis; the paper names its operations but no ranges."""
SCALING = 0.15
"""Largest relative change of size."""
TRANSLATION = 0.08
"""Largest shift along each axis, as a fraction of the window."""
LOG_GAMMA = 0.3
"""Largest logarithm of gamma's exponent."""
REACH = {"paper": 1.0, "strong": 2.0}
"""What these four ranges are multiplied with."""
APPEARANCE_PROBABILITY = 0.25
"""Of contrast, resolution, blur and noise, each."""


def uniform(generator: torch.Generator, low: float, high: float, count: int = 1) -> Tensor:
    """``count`` numbers in [low, high), float32."""
    return low + (high - low) * torch.rand(count, generator=generator)


def number(generator: torch.Generator, low: float, high: float) -> float:
    """A number in [low, high)."""
    return low + (high - low) * float(torch.rand(1, generator=generator))


def happens(generator: torch.Generator, probability: float) -> bool:
    """True with this probability."""
    return bool(torch.rand(1, generator=generator) < probability)


def augment(image: Tensor, mask: Tensor, spacing: tuple[float, float, float], generator: torch.Generator,
            strength: str = "paper") -> tuple[Tensor, Tensor]:
    """Flip left to right, affine, gamma; each happens or not. Then, if "strong", `vary_appearance`.

    The paper does not say which way it flips. Windows are in LPS order, head up and face forward, so nobody
    is ever seen the other way round. spacing: mm (z, y, x).
    """
    if happens(generator, AUGMENTATION_PROBABILITY):
        image, mask = image.flip(-1), mask.flip(-1)
    if happens(generator, AUGMENTATION_PROBABILITY):
        affine = random_affine(generator, image.shape[2:], spacing, REACH[strength])
        image, mask = resample(image, mask, affine)
    if happens(generator, AUGMENTATION_PROBABILITY):
        most = LOG_GAMMA * REACH[strength]
        image = image.clamp(0, 1) ** math.exp(float(uniform(generator, -most, most)))
    return vary_appearance(image, generator) if strength == "strong" else image, mask


def random_affine(generator: torch.Generator, shape: tuple[int, int, int],
                  spacing: tuple[float, float, float], reach: float = 1.0) -> Tensor:
    """A 3 x 4 matrix for `torch.nn.functional.affine_grid`: a similarity in mm at any spacing (z, y, x)."""
    most = math.radians(ROTATION_DEGREES) * reach
    angles = uniform(generator, -most, most, 3)
    scale = 1 + uniform(generator, -SCALING * reach, SCALING * reach)
    shift = 2 * uniform(generator, -TRANSLATION * reach, TRANSLATION * reach, 3)   # the window is 2 wide
    extent = torch.tensor([n * s for n, s in zip(shape, spacing)])[[2, 1, 0]] / 2   # half sides x-y-z, mm
    matrix = torch.from_numpy(Rotation.from_euler("xyz", angles.numpy()).as_matrix()).float() / scale
    matrix = matrix * extent[None, :] / extent[:, None]                              # units -> mm -> units
    return torch.cat([matrix, shift[:, None]], dim=1)


def resample(image: Tensor, mask: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Image and mask through one affine map, linear, the mask cut at one half; outside is air, no target."""
    grid = sampling_grid(onto(matrix.to(image.dtype), image.device), image.shape[2:])
    both = torch.cat([image, mask.to(image.dtype)], dim=1)                          # (1, 2, d, h, w)
    both = F.grid_sample(both, grid, mode="bilinear", align_corners=False)
    return both[:, :1], (both[:, 1:] > 0.5).to(mask.dtype)


def sampling_grid(matrix: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Where each voxel comes from, x-y-z in [-1, 1] over the window's outer faces: (1, d, h, w, 3).

    As `torch.nn.functional.affine_grid` (align_corners False), by sums in place of its slower matrix product.
    """
    z, y, x = (((2 * torch.arange(n, device=matrix.device) + 1) / n - 1)[:, None] for n in shape)
    across = x * matrix[:, 0] + matrix[:, 3]                                        # (w, 3)
    slices = (z * matrix[:, 2])[:, None] + y * matrix[:, 1]                         # (d, h, 3)
    return (slices[:, :, None] + across)[None]


def vary_appearance(image: Tensor, generator: torch.Generator) -> Tensor:
    """Contrast, resolution, blur, noise, as on the way to a file; each happens or not. 0.05 is 70 HU."""
    if happens(generator, APPEARANCE_PROBABILITY):
        image = change_contrast(image, number(generator, 0.75, 1.25), number(generator, -0.05, 0.05))
    if happens(generator, APPEARANCE_PROBABILITY):
        shape = tuple(max(1, round(n * number(generator, 0.5, 1))) for n in image.shape[2:])
        image = coarsen(image, shape)
    if happens(generator, APPEARANCE_PROBABILITY):
        image = blur(image, number(generator, 0.5, 1))
    if happens(generator, APPEARANCE_PROBABILITY):
        sigma = number(generator, 0, 0.05)
        image = image + sigma * onto(torch.randn(image.shape, generator=generator), image.device)
    return image.clamp(0, 1)


def change_contrast(image: Tensor, factor: float, more: float) -> Tensor:
    """Spread about the image's mean by ``factor``, and ``more`` added."""
    return (image - image.mean()) * factor + image.mean() + more


def coarsen(image: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """As voxels show it that are so large that there are only ``shape`` of them, on the image's own grid."""
    small = F.interpolate(image, shape, mode="area")
    return F.interpolate(small, image.shape[2:], mode="trilinear", align_corners=False)


def blur(image: Tensor, sigma: float) -> Tensor:
    """Smoothed by a Gaussian of ``sigma`` voxels, cut off at three; outside is as the nearest voxel."""
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=image.device) / sigma) ** 2).to(image)
    kernel /= kernel.sum()
    for axis in range(3):
        size, pad = [1, 1, 1], [0] * 6
        size[axis], pad[4 - 2 * axis:6 - 2 * axis] = len(kernel), [radius, radius]
        image = F.conv3d(F.pad(image, pad, mode="replicate"), kernel.view(1, 1, *size))
    return image
