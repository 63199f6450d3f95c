"""What a trained network's modules do with one window: their maps, for looking at."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from compendium.figures.planes import BONE_WINDOW, TRUTH_COLOUR, draw_slice, letters_and_bar
from magunet.blocks import PAM, rows
from magunet.predict import Model, probability
from magunet.prepare import clip_and_scale


def maps(model: Model, window: np.ndarray, modules: Mapping[str, nn.Module],
         ) -> dict[str, tuple[Tensor, Tensor]]:
    """First input and output (1, c, d', h', w') of a network's parts when it predicts one prepared window.

    window: float32 (d, h, w) in [0, 1]. modules: any name -> a part. The maps are on the CPU, in float32.
    """
    tensors = {}

    def copy(name: str, *pair: Tensor) -> None:                         # what follows may overwrite them
        tensors[name] = tuple(x.detach().to("cpu", torch.float32, copy=True) for x in pair)

    hooks = [module.register_forward_hook(lambda _, inputs, output, name=name: copy(name, inputs[0], output))
             for name, module in modules.items()]
    try:
        probability(model.network, window, model.device, model.precision)
    finally:
        for hook in hooks:
            hook.remove()
    return tensors


def position_attention(pam: PAM, a: Tensor, position: tuple[int, int, int]) -> Tensor:
    """Where PAM's output at a position (z, y, x) looks, row j of S in Eq. 3: (1, c, d, h, w) -> (d, h, w)."""
    with torch.inference_mode():
        a = a.to(pam.B.weight)
        key, query = rows(pam.B(a))[0], rows(pam.C(a))[0]               # (n, width)
        j = np.ravel_multi_index(position, a.shape[2:])
        return torch.softmax(key @ query[j], dim=0).view(a.shape[2:]).float().cpu()


def joint_position(mask: np.ndarray, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The cell of a coarser grid (d', h', w') over the same window that holds most of a mask (d, h, w)."""
    share = torch.nn.functional.adaptive_avg_pool3d(torch.from_numpy(mask.astype(np.float32))[None], shape)[0]
    return tuple(int(i) for i in np.unravel_index(int(share.argmax()), shape))


def map_figure(image: np.ndarray, joints: np.ndarray, pictures: Mapping[str, np.ndarray],
               pixel: tuple[float, float], limits: tuple[float, float] | None = None) -> Figure:
    """An axial slice of a prepared window with the outline of the true joints, and maps of it beside it.

    image: (h, w) in [0, 1], drawn in the window of all figures; joints: (h, w) of 0 and 1; pictures: title ->
    map of any size; pixel: the image's, height and width in mm. Each map has its scale, or all ``limits``.
    """
    height, width = np.multiply(image.shape, pixel)
    count = 1 + len(pictures)
    figure, axes = plt.subplots(1, count, figsize=(3 * count, 3.4), layout="constrained")
    draw_slice(axes[0], image, pixel, clip_and_scale(np.array(BONE_WINDOW)), {TRUTH_COLOUR: joints}, 1)
    letters_and_bar(axes[0], "axial", height, width)
    axes[0].set_title("CT and true joints")
    low, high = limits or (None, None)
    for ax, (title, values) in zip(axes[1:], pictures.items()):
        colours = ax.imshow(values, cmap="viridis", vmin=low, vmax=high, extent=(0, width, height, 0))
        ax.set(title=title, xticks=[], yticks=[])
        if limits is None:
            figure.colorbar(colours, ax=ax, shrink=0.8)
    if limits:
        figure.colorbar(colours, ax=axes, shrink=0.8)
    return figure
