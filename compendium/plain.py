"""One switch that turns the fast ways off: ``magunet --plain VERB``, or ``with plain():``.

Each of them has a plain way that computes the same, to the bit or to rounding. Whoever doubts a result computes it again
without them; ``tests/test_plain.py`` does so for all of them.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magunet import augment, distance, prepare, surfaces, target
from magunet.base import device
from magunet.blocks import LGAG, MFF, Branch
from magunet.fast import BatchNorm, MaxPool
from magunet.model import DecoderStep
from sijphantom import cohort, scanner

EVERYTHING = 10**12
"""More slices, voxels or mm than there are."""


@contextmanager
def plain() -> Iterator[None]:
    """Context in which nothing is done the fast way.

    Networks compute in float32 with torch's own layout in memory, attention with its matrix, MFF with ReLU before pooling;
    they join what is to be concatenated and keep their maps; preparation, augmentation, distances, masks and phantoms work
    on whole arrays, in one process. What is finished and stored is not computed again.
    """
    instead: list[tuple[object, str, object]] = [
        (device, "has_bfloat16", lambda _: False),          # so no groups are joined, and nothing is kept from widening
        (torch, "channels_last_3d", torch.contiguous_format),
        (F, "scaled_dot_product_attention", attention),
        *((kind, "forward", keeping_input(kind.forward)) for kind in (BatchNorm, MaxPool, MFF, LGAG, DecoderStep)),
        (Branch, "forward", relu_before_pooling),
        (prepare, "SLAB", EVERYTHING), (prepare, "resize_mask", resize_mask),
        (augment, "SLAB", EVERYTHING), (augment, "where_seen", where_seen),
        (surfaces, "bounding_box", whole),
        (target, "_common_box", whole), (distance, "NEAR", EVERYTHING),
        (scanner, "_SLAB", EVERYTHING), (cohort, "core_count", lambda: 1),
    ]
    with ExitStack() as changed:
        for owner, name, value in instead:
            changed.enter_context(patch.object(owner, name, value))
        yield


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Scaled dot-product attention with its matrix: softmax(query key^T scale) value; each (b, heads, n, width)."""
    return (scale * query @ key.mT).softmax(dim=-1) @ value


def keeping_input(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The method of a module that would overwrite its input, without doing so."""
    def kept(module: nn.Module, *inputs: Tensor) -> Tensor:
        with patch.object(module, "in_place", False):
            return forward(module, *inputs)
    return kept


def relu_before_pooling(branch: Branch, x: Tensor) -> Tensor:
    """`magunet.blocks.Branch` in the paper's order."""
    conv, norm, pool, relu = branch
    return pool(relu(norm(conv(x))))


def resize_mask(mask: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """`magunet.prepare.resize_mask`, of the whole mask."""
    return (prepare.resize(mask, shape) > prepare.HALF).astype(np.uint8)


def where_seen(mask: Tensor, matrix: Tensor) -> augment.Box:
    """All of the window."""
    return whole(mask[0, 0])


def whole(array: np.ndarray | Tensor, *_: object) -> tuple[slice, ...]:
    """The box that is all of an array."""
    return tuple(slice(0, n) for n in array.shape)
