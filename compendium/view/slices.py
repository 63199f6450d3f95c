"""Three linked planes of a scan with outlines of truth and prediction, to step through in a notebook without WebGL.

The browser draws from the voxels it was sent (``slices.js``), so that stepping needs no kernel.
"""

from collections.abc import Mapping
from pathlib import Path

import anywidget
import numpy as np
import traitlets

from compendium.figures.planes import PLANES, central_slices
from compendium.view.parts import LABEL_COLOURS
from magunet.base.errors import InputError
from magunet.metrics import overlap
from magunet.volume import Volume, reorient, same_geometry

WINDOWS = {"bone": (-200.0, 1000.0), "soft tissue": (-160.0, 240.0), "wide": (-1000.0, 2000.0)}
"""HU that are drawn black and white."""
MOST_VOXELS = 24_000_000
"""That are sent to the browser, 2 bytes each; a larger scan is drawn with every second or third column and row."""


class SliceViewer(anywidget.AnyWidget):
    """The widget that `slice_viewer` fills. The slices in view are `position`, the window `window`: both ways, live."""

    _esm = Path(__file__).with_name("slices.js")
    _css = Path(__file__).with_name("slices.css")
    voxels = traitlets.Bytes().tag(sync=True)
    masks = traitlets.Bytes().tag(sync=True)
    shape = traitlets.Tuple().tag(sync=True)
    spacing = traitlets.Tuple().tag(sync=True)
    step = traitlets.Int(1).tag(sync=True)
    planes = traitlets.Dict().tag(sync=True)
    windows = traitlets.Dict().tag(sync=True)
    window = traitlets.Unicode("bone").tag(sync=True)
    outlines = traitlets.List().tag(sync=True)
    dice = traitlets.List().tag(sync=True)
    position = traitlets.List().tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)


def slice_viewer(scan: Volume, masks: Mapping[str, Volume], title: str = "") -> SliceViewer:
    """A scan in HU in axial, coronal and sagittal slices, with window presets, outlines, and, where the masks are truth and
    prediction, the Dice of every axial slice.

    masks: names of LABEL_COLOURS and volumes whose non-zero voxels are outlined. Volumes may have any orientation and are
    shown along their own axes, as `compendium.figures.planes.three_planes` does; masks must lie on the scan's grid, else
    InputError. Click to go to a place in all three planes; arrow keys step through the plane last pointed at.
    """
    if not all(same_geometry(scan, mask) for mask in masks.values()):
        raise InputError("mask and scan lie on different grids; resample the mask onto the scan")
    scan = reorient(scan, "LPS")
    array, spacing = scan.array, scan.spacing
    inside = {name: reorient(mask, "LPS").array != 0 for name, mask in masks.items()}
    step = 1
    while array.size / step**2 > MOST_VOXELS:
        step += 1
    thin = np.s_[:, ::step, ::step]
    bits = np.zeros(array.shape, np.uint8)
    for bit, mask in enumerate(inside.values()):
        bits |= mask.astype(np.uint8) << bit
    shape = bits[thin].shape
    centre = central_slices(next((mask for mask in inside.values() if mask.any()), None), array.shape)
    return SliceViewer(
        voxels=np.clip(np.round(array[thin]), -32768, 32767).astype("<i2").tobytes(),
        masks=np.ascontiguousarray(bits[thin]).tobytes(),
        shape=shape,
        spacing=(spacing[0], spacing[1] * step, spacing[2] * step),
        step=step,
        planes={name: list(letters) for name, letters in PLANES.items()},
        windows={name: list(limits) for name, limits in WINDOWS.items()},
        outlines=[[name, LABEL_COLOURS[name]] for name in masks],
        dice=slice_dice(inside["truth"], inside["prediction"]) if {"truth", "prediction"} <= set(masks) else [],
        position=[min(round(i / s), n - 1) for i, s, n in zip(centre, (1, step, step), shape)],
        title=title,
    )


def slice_dice(truth: np.ndarray, prediction: np.ndarray) -> list[float | None]:
    """Dice of each axial slice of two masks (d, h, w); None where neither has a voxel."""
    return [overlap(p, t).dice if p.any() or t.any() else None for p, t in zip(prediction, truth)]
