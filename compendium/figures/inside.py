"""What a trained network's modules do with one window: their maps, for looking at."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from compendium.figures.planes import BONE_WINDOW, TRUTH_COLOUR, letters_and_bar
from magunet.blocks import PAM, rows
from magunet.predict import Model, probability
from magunet.prepare import clip_and_scale


def maps(model: Model, window: np.ndarray, modules: Mapping[str, nn.Module]) -> dict[str, tuple[Tensor, Tensor]]:
    """First input and output of modules of ``model.network`` for one prepared window, on the CPU in float32.

    window: float32 (d, h, w) in [0, 1]. modules: any name -> a part of the network. Returns name -> two tensors
    (1, c, d', h', w'), in evaluation, as for a prediction.
    """
    seen = {}

    def keep(name: str, *tensors: Tensor) -> None:                      # copies, since what follows may overwrite them
        seen[name] = tuple(x.detach().to("cpu", torch.float32, copy=True) for x in tensors)

    hooks = [module.register_forward_hook(lambda _, inputs, output, name=name: keep(name, inputs[0], output))
             for name, module in modules.items()]
    try:
        probability(model.network, window, model.device, model.precision)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def position_attention(pam: PAM, a: Tensor, position: tuple[int, int, int]) -> Tensor:
    """Where the output at ``position`` (z, y, x) of PAM's input a looks: row j of S, Eq. 3.

    a: (1, c, d, h, w) -> (d, h, w), sums to 1.
    """
    with torch.inference_mode():
        a = a.to(pam.B.weight)
        key, query = rows(pam.B(a))[0], rows(pam.C(a))[0]                   # (n, width)
        z, y, x = position
        j = (z * a.shape[3] + y) * a.shape[4] + x
        return torch.softmax(key @ query[j], dim=0).view(a.shape[2:]).float().cpu()


def joint_position(mask: np.ndarray, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The cell of a coarser grid (d', h', w') over the same window that holds most of a mask (d, h, w)."""
    share = torch.nn.functional.adaptive_avg_pool3d(torch.from_numpy(mask.astype(np.float32))[None], shape)[0]
    return tuple(int(i) for i in np.unravel_index(int(share.argmax()), shape))


def map_figure(image: np.ndarray, joints: np.ndarray, shown: Mapping[str, np.ndarray], pixel: tuple[float, float],
               limits: tuple[float, float] | None = None) -> Figure:
    """An axial slice of a prepared window with the outline of the true joints, and maps of the same slice beside it.

    image: (h, w) in [0, 1], drawn in the window of all figures; joints: (h, w) of 0 and 1; shown: title -> map of any
    size; pixel: height and width of the image's in mm. Every map has a scale of its own, or all have ``limits``.
    """
    height, width = np.multiply(image.shape, pixel)
    extent, (darkest, brightest) = (0, width, height, 0), clip_and_scale(np.array(BONE_WINDOW))
    y, x = ((np.arange(n) + 0.5) * size for n, size in zip(image.shape, pixel))
    figure, axes = plt.subplots(1, 1 + len(shown), figsize=(3 * (1 + len(shown)), 3.4), layout="constrained")
    axes[0].imshow(image, cmap="gray", vmin=darkest, vmax=brightest, extent=extent)
    axes[0].contour(x, y, joints, [0.5], colors=TRUTH_COLOUR, linewidths=1)
    letters_and_bar(axes[0], "axial", height, width)
    axes[0].set_title("CT and true joints")
    for ax, (title, values) in zip(axes[1:], shown.items()):
        drawn = ax.imshow(values, cmap="viridis", vmin=limits and limits[0], vmax=limits and limits[1], extent=extent)
        ax.set_title(title)
        if limits is None:
            figure.colorbar(drawn, ax=ax, shrink=0.8)
    if limits:
        figure.colorbar(drawn, ax=axes, shrink=0.8)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    return figure
