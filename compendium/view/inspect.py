"""A case in 3D, in the best viewer that works where the notebook runs.

In a browser: itkwidgets, if `python workflow/viewer install` made it work without a network; else niivue;
else three planes to step through. Anywhere else, as under papermill, nbval or nbconvert, a figure of three
planes, and itkwidgets is not even imported: merely importing it makes papermill lose outputs, and nbval pass
a notebook that fails.

Who sent the cell decides. Every Jupyter message names its user: JupyterLab leaves the name empty, while the
clients that run notebooks headless (jupyter_client, and so nbclient, papermill and nbval) write the name of
whoever started them. Where that is empty too, their messages' numbers tell them: JupyterLab's are UUIDs,
theirs a session, a process and a count joined by "_".
"""

import importlib.util
import os
import sys
import tempfile
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jupyter_core.paths import jupyter_path
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from compendium.figures.planes import BONE_WINDOW, central_slices, plane, planes_figure, three_planes
from compendium.view.preview import LABEL_COLOURS, LABEL_NUMBERS, add_legend, centre_of, preview
from magunet.base.errors import InputError
from magunet.volume import Volume, reorient, same_geometry, write_volume

ITKWIDGETS = "itkwidgets"
"""Volume rendering with light and shadow; needs what `python workflow/viewer install` adds to JupyterLab."""
NIIVUE = "niivue"
"""Volume rendering and linked planes; needs WebGL in the browser, and nothing else."""
SLIDERS = "three planes"
"""Planes drawn by the kernel; needs a browser only."""
FIGURE = "figure"
"""Needs no browser."""
VIEWERS = (ITKWIDGETS, NIIVUE, SLIDERS, FIGURE)
"""Best first."""
SAMPLE_DISTANCE = 0.5
"""Of rays through the volume in itkwidgets, 0 (finest) to 1."""
LABELLED_HU = 1000
"""That labelled voxels have in itkwidgets with the joint preset."""
HEIGHT = 600
"""Of niivue, pixels; itkwidgets has a height of its own."""


@dataclass(frozen=True)
class Preset:
    """A transfer function: HU drawn black and white in planes and in the volume, and the volume's opacity by
    HU."""

    window: tuple[float, float]
    shades: tuple[float, float]
    opacity: tuple[tuple[float, float], ...]


PRESETS = {
    "bone": Preset(BONE_WINDOW, (-300, 400), ((100, 0), (180, 1))),
    "joint": Preset(BONE_WINDOW, (-300, 400), ((150, 0), (900, 0.15), (1000, 1))),
    "soft tissue": Preset((-160, 240), (-160, 240), ((-60, 0), (60, 0.15), (240, 0.6))),
}
"""The joint preset makes bone so thin that the labels stand out."""
VIEW_MODES = {"volume": "Volume", "axial plane": "ZPlane", "coronal plane": "YPlane", "sagittal plane": "XPlane"}
"""What itkwidgets calls them."""


def in_browser() -> bool:
    """Whether a person's browser sent the cell that is running."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    header = (getattr(shell, "parent_header", None) or {}).get("header", {})
    return header.get("username") == "" and "_" not in header.get("msg_id", "")


def itkwidgets_problem() -> str:
    """Why itkwidgets cannot draw without a network, or an empty text."""
    if missing := [name for name in ("itkwidgets", "imjoy_rpc", "zarr") if importlib.util.find_spec(name) is None]:
        return f"the Python package {missing[0]} is not installed"
    extensions = [Path(folder) / "imjoy-jupyterlab-extension" for folder in jupyter_path("labextensions")]
    package = next((file for folder in extensions if (file := folder / "package.json").is_file()), None)
    if package is None or "magunet-viewer/" not in package.read_text(encoding="utf-8", errors="replace"):
        return "the viewer's programs are not installed; run 'python workflow/viewer install'"
    return ""


def viewers() -> dict[str, str]:
    """Every viewer, best first, and why it cannot be used here; an empty reason where it can."""
    if not in_browser():
        return dict.fromkeys(VIEWERS[:-1], "no browser shows this notebook") | {FIGURE: ""}
    lab = "JPY_SESSION_NAME" in os.environ
    niivue = "" if importlib.util.find_spec("ipyniivue") else "the Python package ipyniivue is not installed"
    return {ITKWIDGETS: itkwidgets_problem() if lab else "JupyterLab does not show this notebook",
            NIIVUE: niivue, SLIDERS: "", FIGURE: ""}


def best_viewer(viewer: str | None = None) -> str:
    """The first of VIEWERS that works here, or the one asked for; without a browser it is always the figure.

    Raises InputError when that viewer is unknown or does not work.
    """
    if viewer is not None and viewer not in VIEWERS:
        raise InputError(f"no viewer {viewer!r}; there are {', '.join(VIEWERS)}")
    reasons = viewers()
    if viewer is None or not in_browser():
        return next(name for name, reason in reasons.items() if not reason)
    if reasons[viewer]:
        raise InputError(f"{viewer} cannot be used here: {reasons[viewer]}")
    return viewer


def show(scan: Volume, labels: Volume | None = None, preset: str = "bone", viewer: str | None = None,
         title: str = ""):
    """Show a CT with labels of `compendium.view.preview.label_map` in the best viewer, or in the one asked
    for.

    Volumes may have any size and orientation; labels lie on the scan's grid. Returns the viewer's own object,
    which itkwidgets displays itself, or a figure. Raises InputError for another grid, and for an unknown
    preset or viewer.
    """
    if preset not in PRESETS:
        raise InputError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    if labels is not None and not same_geometry(scan, labels):
        raise InputError("labels and scan lie on different grids; resample the labels onto the scan")
    viewer = best_viewer(viewer)
    if viewer == FIGURE:
        return figure(scan, labels, PRESETS[preset], title)
    draw = {ITKWIDGETS: in_itkwidgets, NIIVUE: in_niivue, SLIDERS: in_planes}[viewer]
    return draw(*preview(scan, labels), PRESETS[preset])


def figure(scan: Volume, labels: Volume | None, preset: Preset, title: str = "") -> Figure:
    """Three planes through the middle of the labels, labels in their colours; what a headless run shows."""
    scan = reorient(scan, "LPS")
    array = np.zeros(scan.array.shape, np.uint8) if labels is None else reorient(labels, "LPS").array
    palette = np.array([(0, 0, 0, 0), *(to_rgba(colour, 0.75) for colour in LABEL_COLOURS.values())])
    indices = central_slices(array != 0, array.shape)
    picture, views = planes_figure(scan, indices, {}, title, preset.window)
    for (name, axes), index in zip(views.items(), indices):
        axes.imshow(palette[plane(array, name, index)], extent=axes.images[0].get_extent(), interpolation="nearest")
    add_legend(picture, [name for name, number in LABEL_NUMBERS.items() if (array == number).any()])
    return picture


def to_itkwasm(volume: Volume, name: str):
    """A volume along the patient's axes as itkwasm.Image; voxels and millimetres as they are."""
    from itkwasm import Image, ImageType

    kind = ImageType(dimension=3, componentType=volume.array.dtype.name, pixelType="Scalar", components=1)
    return Image(imageType=kind, name=name, origin=[float(v) for v in volume.origin], direction=np.eye(3), metadata={},
                 spacing=[float(s) for s in reversed(volume.spacing)], size=[int(n) for n in reversed(volume.array.shape)],
                 data=np.ascontiguousarray(volume.array))


def import_itkwidgets():
    """The module, with its hold on the kernel undone.

    On import it puts itself between kernel and notebook, to delay cells until a viewer is ready; that loses
    outputs, hides errors, and blocks the notebook for ever where the browser fails to draw. Nothing here
    needs it. It also looks for a file browser of its own, which would bring an old pydantic, and never uses
    it.
    """
    sys.modules.setdefault("imjoy_elfinder", types.ModuleType("imjoy_elfinder"))
    import itkwidgets
    from itkwidgets import viewer

    watcher = viewer._cell_watcher
    if watcher is not None and watcher.kernel.shell_handlers["execute_request"] != watcher.execute_request_handler:
        watcher.kernel.shell_handlers["execute_request"] = watcher.execute_request_handler
        watcher.shell.events.unregister("post_run_cell", watcher.post_run_cell)
    return itkwidgets


@dataclass(frozen=True)
class InItkwidgets:
    """A viewer of itkwidgets below the cell that made it, its preset, and that preset's opacity as it takes
    it."""

    viewer: object
    preset: Preset
    opacity: list[list[float]]

    def look(self, mode: str) -> None:
        """One of `VIEW_MODES`. In a plane everything is opaque, for there the curve would blacken what is
        soft."""
        volume = mode == "volume"
        self.viewer.set_view_mode(VIEW_MODES[mode])
        self.viewer.set_image_color_range(list(self.preset.shades if volume else self.preset.window))
        self.viewer.set_image_piecewise_function_points(self.opacity if volume else [[0, 1], [1, 1]])

    def rotate(self, on: bool) -> None:
        """Turn the volume slowly, or stop."""
        self.viewer.set_rotate(on)


def in_itkwidgets(image: Volume, labels: Volume | None, preset: Preset) -> InItkwidgets:
    """Open a viewer with slice planes through the labels.

    It draws a label only where the scan is opaque too, so the joint preset makes labelled voxels as dense as
    bone.
    """
    itkwidgets = import_itkwidgets()
    marked = labels is not None and labels.array.any()
    if marked and preset is PRESETS["joint"]:
        image = image.with_array(np.where(labels.array != 0, LABELLED_HU, image.array).astype(np.int16))
    viewer = itkwidgets.view(to_itkwasm(image, "CT"), **({"label_image": to_itkwasm(labels, "labels")} if marked else {}),
                             cmap="Grayscale", bg_color=[0.2, 0.2, 0.2])
    widget = InItkwidgets(viewer, preset, opacity_points(image, preset))
    widget.look("volume")
    viewer.set_image_gradient_opacity(0.0)
    viewer.set_image_volume_sample_distance(SAMPLE_DISTANCE)
    for set_slice, position in zip((viewer.set_x_slice, viewer.set_y_slice, viewer.set_z_slice), centre_of(labels, image)):
        set_slice(position)
    viewer.set_units("mm")
    if marked:
        viewer.set_label_image_blend(0.6)
        viewer.set_label_image_label_names([[number, name] for name, number in LABEL_NUMBERS.items()])
    return widget


def opacity_points(image: Volume, preset: Preset) -> list[list[float]]:
    """A preset's opacity as itkwidgets takes it: pairs of HU, scaled to 0 to 1 over the image's own values,
    and opacity."""
    low, high = float(image.array.min()), float(image.array.max())
    return [[float(np.clip((hu - low) / max(high - low, 1), 0, 1)), share] for hu, share in preset.opacity]


def in_niivue(image: Volume, labels: Volume | None, preset: Preset):
    """A niivue widget: three planes and the volume, the patient's right on the left."""
    import ipyniivue

    low, high = preset.window
    volumes = [{"name": "ct.nii", "data": as_nifti(image), "colormap": "gray", "cal_min": low, "cal_max": high}]
    if labels is not None:
        volumes.append({"name": "labels.nii", "data": as_nifti(labels), "opacity": 0.6})
    widget = ipyniivue.NiiVue(height=HEIGHT, is_radiological_convention=True, sagittal_nose_left=True, crosshair_width=0.5,
                              multiplanar_show_render=ipyniivue.ShowRender.ALWAYS)
    widget.load_volumes(volumes)
    extent = np.multiply(image.array.shape, image.spacing)[::-1]
    left, posterior, up = (np.subtract(centre_of(labels, image), image.to_world((-0.5, -0.5, -0.5))) / extent).tolist()
    widget.scene.crosshair_pos = [1 - left, 1 - posterior, up]                 # niivue counts to the right and to the front
    if labels is not None:
        colours = [bytes(3), *(bytes.fromhex(colour[1:]) for colour in LABEL_COLOURS.values())]
        channels = {name: [colour[i] for colour in colours] for i, name in enumerate("RGB")}
        widget.volumes[1].set_colormap_label(channels | {"labels": ["", *LABEL_COLOURS]})
    return widget


def as_nifti(volume: Volume) -> bytes:
    """The volume as an uncompressed NIfTI file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "volume.nii"
        write_volume(volume, path)
        return path.read_bytes()


def in_planes(image: Volume, labels: Volume | None, preset: Preset):
    """Three planes to step through, with the labels' outlines; they have windows of their own."""
    from compendium.view.sliders import slice_viewer

    numbers = () if labels is None else np.unique(labels.array)
    return slice_viewer(image, {name: labels.with_array(labels.array == number)
                                for name, number in LABEL_NUMBERS.items() if number in numbers})


def step_through(scan: Volume, truth: Volume | None, prediction: Volume | None, title: str = ""):
    """Three planes of the scan itself to step through in a browser; elsewhere the figure of Fig. 7."""
    from compendium.view.sliders import slice_viewer

    if not in_browser():
        return three_planes(scan, prediction, truth, title)
    masks = {"truth": truth, "prediction": prediction}
    return slice_viewer(scan, {name: mask for name, mask in masks.items() if mask is not None}, title)
