"""What a trained network's modules do with one window: their maps, for looking at."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from compendium.figures.planes import BONE_WINDOW, PLANES, RIM, TRUTH_COLOUR, draw_slice, letters_and_bar
from magunet.predict import Model, probability
from magunet.prepare import clip_and_scale


def maps(model: Model, window: np.ndarray, modules: Mapping[str, nn.Module]) -> dict[str, list[Tensor]]:
    """First input and output (1, c, d', h', w') of a network's parts when it predicts one prepared window.

    window: float32 (d, h, w) in [0, 1]. modules: any name -> a part. The maps are on the CPU, in float32.
    """
    tensors = {}

    def copy(name: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        both = inputs[0], output                                    # copied: what follows may overwrite them
        tensors[name] = [x.detach().to("cpu", torch.float32, copy=True) for x in both]

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_hook(partial(copy, name)))
        probability(model.network, window, model.device, model.precision)
    return {name: tensors[name] for name in modules}


def map_figure(image: np.ndarray, joints: np.ndarray, pictures: Mapping[str, np.ndarray],
               pixel: tuple[float, float], limits: Sequence[float | None] = (None, None)) -> Figure:
    """An axial slice of a prepared window, and maps of it beside it, all with the outline of the true joints.

    image: (h, w) in [0, 1], drawn in the window of all figures; joints: (h, w) of 0 and 1; pictures: title ->
    map of any size; pixel: the image's, height and width in mm. ``limits`` are those of all maps' colours.
    """
    count = 1 + len(pictures)
    figure, (first, *others) = plt.subplots(1, count, figsize=(3 * count, 3.4), layout="constrained")
    draw_slice(first, image, pixel, clip_and_scale(np.array(BONE_WINDOW)), {TRUTH_COLOUR: joints}, 1)
    letters_and_bar(first, PLANES["axial"])
    first.set_title("CT and true joints")
    extent = first.images[0].get_extent()
    for axes, (title, values) in zip(others, pictures.items()):
        colours = axes.imshow(values, "viridis", vmin=limits[0], vmax=limits[1], extent=extent)
        axes.contour(joints, [0.5], origin="upper", extent=extent, colors="white").set(path_effects=RIM)
        axes.set(title=title, xticks=[], yticks=[])
        figure.colorbar(colours, ax=axes, shrink=0.5)
    return figure
