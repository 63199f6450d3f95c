"""Three linked planes of a scan with a slider each, for a notebook in a browser without WebGL."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from compendium.figures.planes import BONE_WINDOW, FIGURE_WIDTH, PLANES, central_slices, planes_figure
from compendium.view.preview import LABEL_COLOURS, add_legend
from magunet.base.errors import InputError
from magunet.metrics import overlap
from magunet.volume import Volume, reorient, same_geometry

WINDOWS = {"bone": BONE_WINDOW, "soft tissue": (-160.0, 240.0), "wide": (-1000.0, 2000.0)}
"""HU that are drawn black and white."""


def slice_viewer(scan: Volume, masks: Mapping[str, Volume], title: str = ""):
    """A widget with a slider for each plane and a menu of windows; opens in the middle of the first mask.

    masks: names of LABEL_COLOURS, and what is outlined, on the scan's grid (else InputError), any
    orientation. Where they are truth and prediction, the Dice of every axial slice is drawn above.
    """
    import ipywidgets
    from IPython.display import display

    if not all(same_geometry(scan, mask) for mask in masks.values()):
        raise InputError("mask and scan lie on different grids; resample the mask onto the scan")
    scan = reorient(scan, "LPS")
    inside = {name: reorient(mask, "LPS").array != 0 for name, mask in masks.items()}
    centre = central_slices(next((mask for mask in inside.values() if mask.any()), None), scan.array.shape)
    outlines = {LABEL_COLOURS[name]: mask for name, mask in inside.items()}
    menu = ipywidgets.Dropdown(options=list(WINDOWS), description="window")
    sliders = {name: ipywidgets.IntSlider(index + 1, 1, size, description=name, continuous_update=False)
               for name, index, size in zip(PLANES, centre, scan.array.shape)}

    def draw(window: str, axial: int, coronal: int, sagittal: int) -> None:
        if {"truth", "prediction"} <= set(inside):
            display(dice_strip(inside["truth"], inside["prediction"], axial))
        indices = axial - 1, coronal - 1, sagittal - 1
        figure, _ = planes_figure(scan, indices, outlines, title, WINDOWS[window])
        add_legend(figure, inside)
        display(figure)

    planes = ipywidgets.interactive_output(draw, {"window": menu} | sliders)
    return ipywidgets.VBox([ipywidgets.HBox([menu, *sliders.values()]), planes])


def dice_strip(truth: np.ndarray, prediction: np.ndarray, axial: int) -> Figure:
    """A bar for the Dice of each axial slice of masks (d, h, w) where one is not empty; marks ``axial``."""
    dice = {i: overlap(p, t).dice for i, (p, t) in enumerate(zip(prediction, truth), 1) if p.any() or t.any()}
    figure = Figure(figsize=(FIGURE_WIDTH, 1.1), layout="constrained")
    axes = figure.subplots()
    axes.bar(list(dice), list(dice.values()), 0.9, color="0.5")
    axes.axvline(axial, color="black", linewidth=1)
    axes.set(xlim=(0.5, len(truth) + 0.5), ylim=(0, 1), xlabel="axial slice", ylabel="Dice")
    axes.tick_params(labelsize=7)
    return figure
