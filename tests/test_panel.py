"""Drop-downs above a viewer: each change shows what was chosen; without a browser there is a figure and no widget."""

import IPython.display
import numpy as np
import pytest
from conftest import refused
from matplotlib.figure import Figure

from magunet.data.volume import Volume
from magunet.view import inspect, panel
from magunet.view.panel import Shown, browse, labels_of

GRID = Volume(np.full((6, 7, 8), -1000, np.int16), (1, 1, 1))


def mask(*slices):
    array = np.zeros(GRID.array.shape, np.uint8)
    array[np.s_[slices] if slices else ...] = 1
    return GRID.with_array(array)


def load(case, network):
    truth = None if case == "my scan" else mask(slice(2, 4))
    return Shown(GRID, truth, mask(slice(3, 5)))


def test_without_a_browser_the_first_choice_is_a_figure():
    figure = browse(load, ["case", "my scan"], ["MAG-UNet", "3D U-Net"])
    assert isinstance(figure, Figure) and figure.get_suptitle() == "case, MAG-UNet: error map"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["correct", "missed", "extra"]
    assert [axes.get_title().split(",")[0] for axes in figure.axes] == ["axial", "coronal", "sagittal"]


def test_a_scan_without_a_truth_shows_the_prediction():
    found = load("my scan", "MAG-UNet")
    for wanted in ("truth", "prediction", "error map"):
        assert set(np.unique(labels_of(found, wanted).array)) == {0, 5}
    assert labels_of(Shown(GRID, None, None), "truth") is None


@pytest.mark.parametrize("viewer", inspect.VIEWERS[:-1])
def test_a_choice_is_shown_at_once(viewer, monkeypatch):
    """With a stand-in for the viewer."""
    shown, displayed = [], []

    class Stand:
        def look(self, mode):
            shown.append(mode)

        def rotate(self, on):
            shown.append(on)

    monkeypatch.setattr(panel, "best_viewer", lambda wanted: viewer)
    monkeypatch.setattr(panel, "show", lambda scan, labels, preset, wanted: shown.append(
        (sorted(set(labels.array.ravel())), preset, wanted)) or Stand())
    monkeypatch.setattr(IPython.display, "display", displayed.append)
    browse(load, ["case", "my scan"], ["MAG-UNet", "3D U-Net"])
    rows = next(thing for thing in displayed if hasattr(thing, "children")).children[:-1]
    menus = {menu.description: menu for row in rows for menu in row.children}
    assert shown == [([0, 1, 2, 3], "bone", viewer)]
    menus["labels"].value = "truth"
    menus["preset"].value = "joint"
    menus["case"].value = "my scan"
    assert shown[1:] == [([0, 4], "bone", viewer), ([0, 4], "joint", viewer), ([0, 5], "joint", viewer)]
    assert menus["network"].options == ("MAG-UNet", "3D U-Net")
    if viewer == inspect.ITKWIDGETS:
        menus["view"].value, menus["rotate"].value = "axial plane", True
        assert shown[4:] == ["axial plane", True]
        menus["network"].value = "3D U-Net"                             # a new viewer starts with the volume, at rest
        assert menus["view"].value == "volume" and not menus["rotate"].value
    else:
        assert {"view", "rotate"}.isdisjoint(menus)


def test_planes_with_a_slider_draw_the_slice_that_is_asked_for(monkeypatch):
    drawn = []
    monkeypatch.setattr(inspect, "figure", lambda *_, axial: drawn.append(axial))
    widget = inspect.in_planes(GRID, mask(slice(4, 5)), inspect.PRESETS["bone"])
    slider = widget.children[0]
    assert (slider.min, slider.max, slider.value) == (0, 5, 4)
    slider.value = 2
    assert drawn[-1] == 2


def test_the_figure_shows_any_orientation_and_another_slice():
    figure = inspect.figure(GRID, mask(slice(1, 2)), inspect.PRESETS["joint"], axial=3)
    assert figure.axes[0].get_title() == "axial, slice 4"
    assert not inspect.figure(GRID, None, inspect.PRESETS["bone"]).legends
    refused(lambda: inspect.show(GRID, Volume(np.zeros((2, 2, 2), np.uint8), (1, 1, 1))), "different grids")
