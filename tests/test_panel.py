"""Drop-downs above a viewer: each change shows what was chosen; without a browser there is a figure and no
widget."""

import IPython.display
import numpy as np
import pytest
from conftest import refused
from matplotlib.figure import Figure

from compendium.view import inspect
from compendium.view.inspect import browse, slice_viewer
from compendium.view.preview import ScanWithMasks, labels_of
from magunet.volume import Volume

GRID = Volume(np.full((6, 7, 8), -1000, np.int16), (1, 1, 1))


def mask(*slices):
    array = np.zeros(GRID.array.shape, np.uint8)
    array[np.s_[slices] if slices else ...] = 1
    return GRID.with_array(array)


def load(case, network):
    truth = None if case == "my scan" else mask(slice(2, 4))
    return ScanWithMasks(GRID, truth, mask(slice(3, 5)))


def test_without_a_browser_the_first_choice_is_a_figure():
    figure = browse(load, ["case", "my scan"], ["MAG-UNet", "3D U-Net"])
    assert isinstance(figure, Figure) and figure.get_suptitle() == "case, MAG-UNet: error map"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["correct", "missed", "extra"]
    assert [axes.get_title().split(",")[0] for axes in figure.axes] == ["axial", "coronal", "sagittal"]


def test_a_scan_without_a_truth_shows_the_prediction():
    found = load("my scan", "MAG-UNet")
    for wanted in ("truth", "prediction", "error map"):
        name, labels = labels_of(found, wanted)
        assert name == "prediction" and set(np.unique(labels.array)) == {0, 5}
    assert labels_of(ScanWithMasks(GRID, None, None), "truth") == ("no mask", None)
    figure = browse(load, ["my scan"], ["MAG-UNet"])
    assert figure.get_suptitle() == "my scan, MAG-UNet: prediction"


@pytest.mark.parametrize("viewer", inspect.VIEWERS[:-1])
def test_a_choice_is_shown_at_once(viewer, monkeypatch):
    """With a stand-in for the viewer; itkwidgets has displayed itself."""
    calls, displayed = [], []

    def show(scan, labels, preset, viewer):
        calls.append((sorted(set(labels.array.ravel())), preset, viewer))
        return len(calls)

    monkeypatch.setattr(inspect, "best_viewer", lambda _: viewer)
    monkeypatch.setattr(inspect, "show", show)
    monkeypatch.setattr(IPython.display, "display", lambda *things: displayed.extend(things))
    browse(load, ["case", "my scan"], ["MAG-UNet", "3D U-Net"])
    box = next(thing for thing in displayed if hasattr(thing, "children"))
    menus = {menu.description: menu for menu in box.children[0].children}
    assert calls == [([0, 1, 2, 3], "bone", viewer)]
    menus["labels"].value = "truth"
    menus["preset"].value = "joint"
    menus["case"].value = "my scan"
    assert calls[1:] == [([0, 4], "bone", viewer), ([0, 4], "joint", viewer), ([0, 5], "joint", viewer)]
    assert menus["network"].options == ("MAG-UNet", "3D U-Net")
    assert (1 in displayed) == (4 in displayed) == (viewer != "itkwidgets")


def controls(viewer):
    return {control.description: control for control in viewer.children[0].children}


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def test_planes_outline_the_labels_and_open_where_they_are(monkeypatch):
    figures = []
    monkeypatch.setattr(IPython.display, "display", figures.append)
    viewer = inspect.in_planes(GRID, mask(slice(4, 5)), inspect.PRESETS["bone"])
    assert titles(figures[-1])[0] == "axial, slice 5" and controls(viewer)["axial"].value == 5
    outline = figures[-1].axes[1].collections[0].get_paths()[0].vertices
    assert (outline[:, 1].min(), outline[:, 1].max()) == (1, 2)             # mm from the top of 6 slices
    inspect.in_planes(GRID, None, inspect.PRESETS["bone"])
    assert not any(axes.collections for axes in figures[-1].axes)


def test_sliders_and_the_menu_draw_another_slice_and_window(monkeypatch):
    figures = []
    monkeypatch.setattr(IPython.display, "display", figures.append)
    viewer = slice_viewer(GRID, {"truth": mask(slice(1, 3))}, "a title")
    before = controls(viewer)
    assert [(before[name].min, before[name].max)
            for name in ("axial", "coronal", "sagittal")] == [(1, 6), (1, 7), (1, 8)]
    before["coronal"].value = 7
    assert titles(figures[-1])[1] == "coronal, slice 7" and figures[-1].get_suptitle() == "a title"
    before["window"].value = "soft tissue"
    assert figures[-1].axes[0].images[0].get_clim() == (-160, 240)
    refused(lambda: slice_viewer(GRID, {"truth": Volume(GRID.array, (2, 1, 1))}), "different grids")


def test_stepping_through_needs_a_browser_and_else_is_a_figure(monkeypatch):
    assert isinstance(inspect.step_through(GRID, mask(slice(1, 3)), None, "a title"), Figure)
    figures = []
    monkeypatch.setattr(IPython.display, "display", figures.append)
    monkeypatch.setattr(inspect, "in_browser", lambda: True)
    inspect.step_through(GRID, mask(slice(1, 3)), mask(slice(2, 4)), "a title")
    strip, planes = figures
    bars = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in strip.axes[0].patches}
    assert bars == {2: 0, 3: 1, 4: 0} and len(planes.axes) == 3


def test_the_figure_goes_through_the_labels():
    figure = inspect.figure(GRID, mask(slice(3, 4)), inspect.PRESETS["joint"])
    assert figure.axes[0].get_title() == "axial, slice 4"
    assert not inspect.figure(GRID, None, inspect.PRESETS["bone"]).legends
    refused(lambda: inspect.show(GRID, Volume(np.zeros((2, 2, 2), np.uint8), (1, 1, 1))), "different grids")
