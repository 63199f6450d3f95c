"""Random augmentation of training windows: flip, affine, gamma, each with probability 0.5 (Sec. 2.1.3).

"paper" is that and nothing else; "strong" has ranges twice as wide, and `magunet.appearance` after them.

PyTorch on the tensors' own device; image and mask go through the same geometry. Random numbers are drawn
on the CPU, so that a seed means the same on every device.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from magunet.appearance import vary_appearance

Box = tuple[slice, slice, slice]

AUGMENTATION_PROBABILITY = 0.5
"""Of each of flip, affine and gamma, Sec. 2.1.3."""
ROTATION_DEGREES = 10.0
SCALING = 0.15
TRANSLATION = 0.08
LOG_GAMMA = 0.3
"""Largest rotation about each axis, relative change of size, shift as a fraction of the window, and
logarithm of the exponent. The paper names the operations but no ranges."""
REACH = {"paper": 1.0, "strong": 2.0}
"""What these ranges are multiplied with."""
SLAB = 4
"""Slices that are resampled at a time on the CPU."""


def uniform(generator: torch.Generator, low: float, high: float, count: int = 1) -> Tensor:
    """``count`` numbers in [low, high)."""
    return low + (high - low) * torch.rand(count, generator=generator)


def happens(generator: torch.Generator) -> bool:
    """True with the paper's probability."""
    return bool(torch.rand(1, generator=generator) < AUGMENTATION_PROBABILITY)


def rotation_matrix(angles: Tensor) -> Tensor:
    """3 x 3 rotation of (x, y, z) by three angles in radians about x, y, z, in that order."""
    (sx, sy, sz), (cx, cy, cz) = torch.sin(angles).tolist(), torch.cos(angles).tolist()
    about_x = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def random_affine(generator: torch.Generator, shape: tuple[int, int, int],
                  spacing: tuple[float, float, float], reach: float = 1.0) -> Tensor:
    """A 3 x 4 matrix for ``affine_grid``: rigid in millimetres, whatever the voxels' proportions.

    reach: what the ranges of rotation, size and shift are multiplied with.
    """
    most = math.radians(ROTATION_DEGREES) * reach
    angles = uniform(generator, -most, most, 3)
    scale = 1 + uniform(generator, -SCALING * reach, SCALING * reach)
    shift = 2 * uniform(generator, -TRANSLATION * reach, TRANSLATION * reach, 3)    # the window is 2 units wide
    extent = torch.tensor([n * s for n, s in zip(shape, spacing)])[[2, 1, 0]] / 2       # half sides x, y, z in mm
    matrix = rotation_matrix(angles) / scale
    matrix = matrix * extent[None, :] / extent[:, None]                 # units -> mm -> rotate -> units
    return torch.cat([matrix, shift[:, None]], dim=1)


def sampling_grid(matrix: Tensor, shape: tuple[int, int, int], box: Box) -> Tensor:
    """Where each voxel of a box is seen, x-y-z in [-1, 1] over the window's outer faces: (1, d', h', w', 3).

    As `torch.nn.functional.affine_grid` (align_corners False), by sums in place of its slower matrix product.
    """
    z, y, x = (((2 * torch.arange(n, device=matrix.device)[part] + 1) / n - 1)[:, None] for n, part in zip(shape, box))
    across = x * matrix[:, 0] + matrix[:, 3]                            # (w', 3)
    slices = (z * matrix[:, 2])[:, None] + y * matrix[:, 1]             # (d', h', 3)
    return (slices[:, :, None] + across)[None]


def seen_through(image: Tensor, matrix: Tensor, box: Box) -> Tensor:
    """The voxels of a box, by linear interpolation where an affine map sees them; 0 outside the window.

    image: float (1, 1, d, h, w) -> (1, 1, d', h', w'). On the CPU a few slices at a time, whose grid stays in its cache.
    """
    slab = SLAB if image.device.type == "cpu" else image.shape[2]
    starts = range(box[0].start, box[0].stop, slab)
    grids = (sampling_grid(matrix, image.shape[2:], (slice(z, min(z + slab, box[0].stop)), *box[1:])) for z in starts)
    return torch.cat([F.grid_sample(image, grid, mode="bilinear", align_corners=False) for grid in grids], dim=2)


def where_seen(mask: Tensor, matrix: Tensor) -> Box | None:
    """The box of voxels that see any of the mask through an affine map; None for an empty mask.

    mask: (1, 1, d, h, w). Outside of the box linear interpolation gives 0.
    """
    shape, inside = mask.shape[2:], mask[0, 0] != 0
    held = [inside.any(axis=axes).nonzero() for axes in ((1, 2), (0, 2), (0, 1))]
    if not len(held[0]):
        return None
    ends = [[(2 * float(end) + 1) / n - 1 for end in (at.min() - 1, at.max() + 1)] for at, n in zip(held, shape)]
    corners = torch.cartesian_prod(*(torch.tensor(pair, dtype=torch.float64) for pair in ends[::-1]))        # (8, 3), x-y-z
    exact = matrix.double().cpu()
    seen_from = (corners - exact[:, 3]) @ torch.linalg.inv(exact[:, :3]).T
    index = ((seen_from.flip(1) + 1) * torch.tensor(shape) - 1) / 2                                          # (8, 3), z-y-x
    first, last = index.amin(0).floor().long(), index.amax(0).ceil().long()
    return tuple(slice(max(0, int(a)), min(n, int(b) + 1)) for a, b, n in zip(first, last, shape))


def resample(image: Tensor, mask: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Image and mask seen through one affine map; outside the window is air (0) and no target.

    image: float (1, 1, d, h, w), mask: the same shape of 0 and 1. Linear, the mask cut at one half, and on the CPU
    computed only where any of it is seen; elsewhere looking for that would wait for all that the device has still to do.
    """
    everywhere = tuple(slice(0, n) for n in image.shape[2:])
    box = where_seen(mask, matrix) if mask.device.type == "cpu" else everywhere
    moved, matrix = torch.zeros_like(mask), matrix.to(image)
    if box is not None:
        moved[..., *box] = (seen_through(mask.to(image.dtype), matrix, box) > 0.5).to(mask.dtype)
    return seen_through(image, matrix, everywhere), moved


def augment(image: Tensor, mask: Tensor, spacing: tuple[float, float, float], generator: torch.Generator,
            strength: str = "paper") -> tuple[Tensor, Tensor]:
    """Flip left to right, affine, gamma; each happens or not. Then, if "strong", `vary_appearance`.

    The paper does not say which way it flips. Windows are in LPS order, head up and face forward, so nobody is
    ever seen the other way round.

    image: float (1, 1, d, h, w) in [0, 1]; mask: the same shape of 0 and 1; spacing: mm (z, y, x).
    """
    if happens(generator):
        image, mask = image.flip(-1), mask.flip(-1)
    if happens(generator):
        image, mask = resample(image, mask, random_affine(generator, tuple(image.shape[2:]), spacing, REACH[strength]))
    if happens(generator):
        most = LOG_GAMMA * REACH[strength]
        image = image.clamp(0, 1) ** math.exp(float(uniform(generator, -most, most)))
    return vary_appearance(image, generator) if strength == "strong" else image, mask
