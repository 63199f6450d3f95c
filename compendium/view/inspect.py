"""A case in 3D, in the best viewer that works where the notebook runs. In a browser: itkwidgets, if `python
workflow/viewer install` made it work without a network; else niivue. Under papermill, nbval or nbconvert, a
figure: there merely importing itkwidgets loses outputs."""

import os
import sys
import tempfile
import tomllib
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import IPython.display
import ipywidgets
import numpy as np
from jupyter_core.paths import jupyter_path
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from compendium.figures.planes import FIGURE_WIDTH, PLANES, central_slices, plane, planes_figure, three_planes
from compendium.view.preview import CHOICES, LABEL_COLOURS, LABEL_NUMBERS, centre_of, labels_of, preview
from magunet.base.errors import require
from magunet.metrics import overlap
from magunet.volume import Volume, reorient, same_geometry, write_volume

PRESETS = tomllib.loads(Path(__file__).with_name("presets.toml").read_text(encoding="utf-8"))
"""Transfer functions: window and shades of planes and volume, and the volume's opacity by HU."""


def in_browser() -> bool:
    """Whether a person's browser sent the cell that is running. JupyterLab leaves a message's user empty;
    headless clients write who started them or, where that is empty too, join a message's number with "_"."""
    header = (getattr(IPython.get_ipython(), "parent_header", None) or {}).get("header", {})
    return header.get("username") == "" and "_" not in header.get("msg_id", "")


def itkwidgets_problem() -> str:
    """Why itkwidgets cannot draw without a network, or an empty text."""
    paths = map(Path, jupyter_path("labextensions", "imjoy-jupyterlab-extension", "package.json"))
    package = next(filter(Path.is_file, paths), None)
    installed = package and b"magunet-viewer/" in package.read_bytes()
    return "" if installed else ("the viewer's programs are not installed; "
                                 "run 'python workflow/viewer install'")


def viewers() -> dict[str, str]:
    """Every viewer, best first, and why it cannot be used here; an empty reason where it can."""
    browser = "" if in_browser() else "no browser shows this notebook"
    lab = "" if "JPY_SESSION_NAME" in os.environ else "JupyterLab does not show this notebook"
    return {"itkwidgets": browser or lab or itkwidgets_problem(), "niivue": browser, "figure": ""}


def best_viewer(viewer: str | None = None) -> str:
    """The first viewer that works here, or the one asked for, else InputError; headless the figure."""
    reasons = viewers()
    require(viewer in (None, *reasons), f"no viewer {viewer!r}; there are {', '.join(reasons)}")
    if viewer is None or not in_browser():
        return next(name for name, reason in reasons.items() if not reason)
    require(not reasons[viewer], f"{viewer} cannot be used here: {reasons[viewer]}")
    return viewer


def browse(load: Callable[[str, str], tuple], cases: Sequence[str], networks: Sequence[str],
           labels: str = "error map", preset: str = "bone", viewer: str | None = None):
    """A viewer with drop-downs for case, network, labels and preset, starting with ``labels``, ``preset``;
    without a browser the figure of the first choice. ``load``: case and network -> ScanWithMasks. Raises
    InputError for unknown labels, preset or viewer, and for masks on another grid than their scan."""
    require(preset in PRESETS, f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    require(labels in CHOICES, f"no labels {labels!r}; there are {', '.join(CHOICES)}")
    if (viewer := best_viewer(viewer)) == "figure":
        case = load(cases[0], networks[0])
        name, marks = labels_of(case, labels)
        return figure(case.scan, marks, PRESETS[preset], f"{cases[0]}, {networks[0]}: {name}")
    choices = {"case": cases, "network": networks, "labels": CHOICES, "preset": PRESETS}
    menus = {name: ipywidgets.Dropdown(options=list(values), description=name)
             for name, values in choices.items()}
    menus["labels"].value, menus["preset"].value = labels, preset
    place = ipywidgets.Output()
    @place.capture(clear_output=True)
    def draw(_=None) -> None:
        case = load(menus["case"].value, menus["network"].value)
        name, marks = labels_of(case, menus["labels"].value)
        if name != menus["labels"].value:
            print(f"This scan has no {menus['labels'].value}; the viewer shows: {name}")
        show = in_itkwidgets if viewer == "itkwidgets" else in_niivue
        widget = show(*preview(case.scan, marks), PRESETS[menus["preset"].value])
        if viewer == "niivue":                                      # itkwidgets has displayed itself
            IPython.display.display(widget)
    for menu in menus.values():
        menu.observe(draw, "value")
    IPython.display.display(ipywidgets.VBox([ipywidgets.HBox([*menus.values()]), place]))
    draw()                                                              # into what the page shows already


def figure(scan: Volume, labels: Volume | None, preset: dict, title: str = "") -> Figure:
    """Three planes through the middle of the labels, labels in their colours; what a headless run shows."""
    scan = reorient(scan, "LPS")
    array = np.zeros(scan.array.shape, np.uint8) if labels is None else reorient(labels, "LPS").array
    palette = np.array([(0, 0, 0, 0), *(to_rgba(colour, 0.75) for colour in LABEL_COLOURS.values())])
    indices = central_slices(array != 0, array.shape)
    picture, views = planes_figure(scan, indices, {}, title, preset["window"])
    for (name, axes), index in zip(views.items(), indices):
        extent = axes.images[0].get_extent()
        axes.imshow(palette[plane(array, name, index)], extent=extent, interpolation="nearest")
    if handles := [Patch(color=LABEL_COLOURS[name], label=name) for name, number in LABEL_NUMBERS.items()
                   if (array == number).any()]:
        picture.legend(handles=handles, ncols=3, fontsize=8, loc="outside lower center", frameon=False)
    return picture


def step_through(scan: Volume, truth: Volume | None, prediction: Volume | None, title: str = ""):
    """Three planes of the scan itself with a slider each, a menu of windows, and outlines of the masks, from
    the middle of the first; where there are two, the Dice of every axial slice above. Without a browser the
    figure of Fig. 7. Volumes of any orientation; raises InputError for masks on another grid than the scan.
    """
    if not in_browser():
        return three_planes(scan, prediction, truth, title)
    scan, truth, prediction = (volume and reorient(volume, "LPS") for volume in (scan, truth, prediction))
    masks = [mask for mask in (truth, prediction) if mask]
    require(all(same_geometry(scan, mask) for mask in masks),
            "mask and scan lie on different grids; resample the mask onto the scan")
    centre = central_slices(next((m.array for m in masks if m.array.any()), None), scan.array.shape)
    windows = {name: PRESETS[name]["window"] for name in ("bone", "soft tissue")} | {"wide": (-1000, 2000)}
    menu = ipywidgets.Dropdown(options=list(windows), description="window")
    sliders = {name: ipywidgets.IntSlider(index + 1, 1, size, description=name, continuous_update=False)
               for name, index, size in zip(PLANES, centre, scan.array.shape)}

    def draw(window: str, axial: int, coronal: int, sagittal: int) -> None:
        if truth and prediction:
            slices = enumerate(zip(prediction.array, truth.array), 1)
            dice = {i: overlap(*pair).dice for i, pair in slices if np.any(pair)}
            axes = Figure(figsize=(FIGURE_WIDTH, 1.1), layout="constrained").subplots()
            axes.bar(list(dice), list(dice.values()), 0.9, color="0.5")
            axes.axvline(axial, color="black", linewidth=1)
            axes.set(xlim=(0.5, len(scan.array) + 0.5), ylim=(0, 1), xlabel="axial slice", ylabel="Dice")
            axes.tick_params(labelsize=7)
            IPython.display.display(axes.figure)
        indices = axial - 1, coronal - 1, sagittal - 1
        picture = three_planes(scan, prediction, truth, title, window=windows[window], indices=indices)
        IPython.display.display(picture)
    planes = ipywidgets.interactive_output(draw, {"window": menu} | sliders)
    return ipywidgets.VBox([ipywidgets.HBox([menu, *sliders.values()]), planes])


def in_niivue(image: Volume, labels: Volume | None, preset: dict):
    import ipyniivue
    low, high = preset["window"]
    volumes = [{"name": "ct.nii", "data": as_nifti(image), "cal_min": low, "cal_max": high}]
    volumes += [{"name": "labels.nii", "data": as_nifti(labels), "opacity": 0.6}] if labels else []
    widget = ipyniivue.NiiVue(height=600, is_radiological_convention=True, sagittal_nose_left=True,
                              crosshair_width=0.5, multiplanar_show_render=ipyniivue.ShowRender.ALWAYS)
    widget.load_volumes(volumes)
    corner, extent = image.to_world((-0.5, -0.5, -0.5)), np.multiply(image.array.shape, image.spacing)[::-1]
    left, posterior, up = (np.subtract(centre_of(labels, image), corner) / extent).tolist()
    widget.scene.crosshair_pos = [1 - left, 1 - posterior, up]   # niivue counts to the right and to the front
    if labels:
        colours = [bytes(3), *(bytes.fromhex(colour[1:]) for colour in LABEL_COLOURS.values())]
        channels = dict(zip("RGB", map(list, zip(*colours))))
        widget.volumes[1].set_colormap_label(channels | {"labels": ["", *LABEL_COLOURS]})
    return widget


def as_nifti(volume: Volume) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_volume(volume, path := Path(folder, "volume.nii"))
        return path.read_bytes()


def in_itkwidgets(image: Volume, labels: Volume | None, preset: dict):
    itkwidgets, extra = import_itkwidgets(), {}
    if labels is not None and labels.array.any():
        extra = {"label_image": to_itkwasm(labels, "labels")}
        if preset is PRESETS["joint"]:                               # a label needs opaque voxels
            image = image.with_array(np.where(labels.array != 0, 1000, image.array).astype(np.int16))
    viewer = itkwidgets.view(to_itkwasm(image, "CT"), cmap="Grayscale", bg_color=[0.2, 0.2, 0.2], **extra)
    viewer.set_view_mode("Volume")
    viewer.set_image_color_range(preset["shades"])
    viewer.set_image_piecewise_function_points(opacity_points(image, preset))
    viewer.set_image_gradient_opacity(0.0)
    viewer.set_image_volume_sample_distance(0.5)                     # 0 is finest
    for axis, position in zip("xyz", centre_of(labels, image)):
        getattr(viewer, f"set_{axis}_slice")(position)
    viewer.set_units("mm")
    if extra:
        viewer.set_label_image_blend(0.6)
        viewer.set_label_image_label_names([[number, name] for name, number in LABEL_NUMBERS.items()])
    return viewer


def import_itkwidgets():
    """The module, without the file browser that it looks for, and with its hold on the kernel undone: it
    delays cells until a viewer is ready, which loses outputs, hides errors, and can block a notebook."""
    sys.modules.setdefault("imjoy_elfinder", types.ModuleType("imjoy_elfinder"))
    import itkwidgets
    from itkwidgets.viewer import _cell_watcher as watcher
    if watcher and watcher.kernel.shell_handlers["execute_request"] != watcher.execute_request_handler:
        watcher.kernel.shell_handlers["execute_request"] = watcher.execute_request_handler
        watcher.shell.events.unregister("post_run_cell", watcher.post_run_cell)
    return itkwidgets


def to_itkwasm(volume: Volume, name: str):
    """A volume along the patient's axes as itkwasm.Image; voxels and millimetres as they are."""
    from itkwasm import image_from_array
    image = image_from_array(np.ascontiguousarray(volume.array))
    image.name, image.size, image.direction = name, list(image.size), np.eye(3)
    image.origin, image.spacing = np.array(volume.origin).tolist(), np.array(volume.spacing[::-1]).tolist()
    return image


def opacity_points(image: Volume, preset: dict) -> list[list[float]]:
    """A preset's opacity for itkwidgets: HU, scaled to 0 to 1 over the image's own values, and opacity."""
    ends = float(image.array.min()), float(image.array.max()) + 1e-6
    return [[float(np.interp(hu, ends, (0, 1))), share] for hu, share in preset["opacity"]]
