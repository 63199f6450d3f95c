"""The same work as somebody would do it with MONAI or TorchIO."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from magunet.augment import LOG_GAMMA, ROTATION_DEGREES, SCALING, TRANSLATION
from magunet.base.errors import InputError
from magunet.prepare import HU_WINDOW
from magunet.volume import Volume, read_volume, write_volume

WIDTHS = (32, 64, 128, 256, 512)
"""Of the Attention U-Net: the paper's."""
WINDOW = (48, 256, 256)
"""Of the sliding window, (d, h, w): about the paper's input, and what a network can halve four times."""


def attention_unet() -> torch.nn.Module:
    """MONAI's Attention U-Net as it comes, at the paper's widths, in evaluation mode."""
    from monai.networks.nets import AttentionUnet

    return AttentionUnet(3, in_channels=1, out_channels=1, channels=WIDTHS, strides=(2,) * 4).eval()


def segment(source: Path, target: Path) -> None:
    """From a CT file to a mask file: float32, MONAI's sliding window with its defaults over the scan."""
    from monai.inferers import sliding_window_inference
    from monai.transforms import ScaleIntensityRange

    scan = read_volume(source)
    image = ScaleIntensityRange(*HU_WINDOW, 0, 1, clip=True)(torch.from_numpy(scan.array)[None, None].float())
    with torch.inference_mode():
        logits = sliding_window_inference(image, WINDOW, 1, attention_unet())
    write_volume(scan.with_array((torch.sigmoid(logits)[0, 0] > 0.5).numpy().astype(np.uint8)), target)


def prepare(scan: Volume, mask: Volume, size: int, margin_mm: float, linear: bool) -> dict:
    """Image and mask (1, d, h, w) resized in plane, scaled, cut to the target, as `magunet.prepare` does.

    linear: linearly with averaging, as magunet does, the mask too; else the quicker way that MONAI has, means
    of areas and the mask's nearest voxels.
    """
    from monai.transforms import AsDiscreted, Compose, CropForegroundd, Resized, ScaleIntensityRanged

    keys, shape = ("image", "mask"), (scan.array.shape[0], size, size)
    resized = [Resized(keys, shape, mode=("area", "nearest"))]
    if linear:
        resized = [Resized(keys, shape, mode="trilinear", anti_aliasing=True),
                   AsDiscreted("mask", threshold=0.5)]
    margin = round(margin_mm / scan.spacing[0]), size, size
    case = {"image": torch.from_numpy(scan.array)[None].float(),
            "mask": torch.from_numpy(mask.array)[None].float()}
    return Compose([
        *resized,
        ScaleIntensityRanged("image", *HU_WINDOW, 0, 1, clip=True),
        CropForegroundd(keys, "mask", margin=margin, allow_smaller=True),
    ])(case)


def monai_augmentation(image: torch.Tensor, mask: torch.Tensor) -> Callable[[], object]:
    """Flip, affine and gamma, all of them, by MONAI; tensors (1, d, h, w)."""
    from monai.transforms import Compose, RandAdjustContrastd, RandAffined, RandFlipd

    keys, shift = ("image", "mask"), tuple(TRANSLATION * n for n in image.shape[1:])
    transform = Compose([
        RandFlipd(keys, prob=1, spatial_axis=2),
        RandAffined(keys, prob=1, rotate_range=(math.radians(ROTATION_DEGREES),) * 3, translate_range=shift,
                    scale_range=(SCALING,) * 3, mode=("bilinear", "nearest"), padding_mode="zeros",
                    device=image.device),
        RandAdjustContrastd("image", prob=1, gamma=(math.exp(-LOG_GAMMA), math.exp(LOG_GAMMA))),
    ])
    return lambda: transform({"image": image, "mask": mask})


def torchio_augmentation(image: torch.Tensor, mask: torch.Tensor) -> Callable[[], object]:
    """Flip, affine and gamma, all of them, by TorchIO; tensors (1, d, h, w).

    Raises InputError where TorchIO is not installed.
    """
    try:
        import torchio
    except ImportError:
        raise InputError("TorchIO is not installed; pip install torchio==1.2.1") from None
    transform = torchio.Compose([
        torchio.RandomFlip(axes=2, flip_probability=1),
        torchio.RandomAffine(scales=SCALING, degrees=ROTATION_DEGREES, isotropic=True, default_pad_value=0,
                             translation=tuple(TRANSLATION * n for n in image.shape[1:])),
        torchio.RandomGamma(log_gamma=LOG_GAMMA),
    ])
    subject = torchio.Subject(image=torchio.ScalarImage(tensor=image.cpu()),
                              mask=torchio.LabelMap(tensor=mask.cpu()))
    return lambda: transform(subject)


def metrics(prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, float, float],
                       tolerance: float) -> tuple[float, float, float, float]:
    """Dice, HD95 and ASSD in mm, NSD, of two masks (d, h, w)."""
    from monai.metrics import (
        compute_average_surface_distance,
        compute_dice,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    a, b = (torch.from_numpy(mask.astype(np.float32))[None, None] for mask in (prediction, truth))
    options = {"include_background": True, "spacing": spacing}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)                  # of one part of MONAI about another
        return (float(compute_dice(a, b)), float(compute_hausdorff_distance(a, b, percentile=95, **options)),
                float(compute_average_surface_distance(a, b, symmetric=True, **options)),
                float(compute_surface_dice(a, b, [tolerance], **options)))
