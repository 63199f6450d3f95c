"""Drop-downs above a viewer: each change shows what was chosen; without a browser there is a figure and no widget."""

import IPython.display
import numpy as np
import pytest
from conftest import refused
from matplotlib.figure import Figure

from compendium.view import inspect, panel
from compendium.view.panel import Shown, browse, labels_of
from magunet.volume import Volume

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
        name, labels = labels_of(found, wanted)
        assert name == "prediction" and set(np.unique(labels.array)) == {0, 5}
    assert labels_of(Shown(GRID, None, None), "truth") == ("no mask", None)
    figure = browse(load, ["my scan"], ["MAG-UNet"])
    assert figure.get_suptitle() == "my scan, MAG-UNet: prediction"


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


def test_planes_outline_the_labels_and_open_where_they_are():
    viewer = inspect.in_planes(GRID, mask(slice(4, 5)), inspect.PRESETS["bone"])
    assert [name for name, _ in viewer.outlines] == ["correct"] and viewer.position[0] == 4
    assert np.array_equal(np.frombuffer(viewer.masks, np.uint8).reshape(viewer.shape), mask(slice(4, 5)).array)
    assert inspect.in_planes(GRID, None, inspect.PRESETS["bone"]).outlines == []


def test_stepping_through_needs_a_browser_and_else_is_a_figure(monkeypatch):
    assert isinstance(inspect.step_through(GRID, mask(slice(1, 3)), None, "a title"), Figure)
    monkeypatch.setattr(inspect, "in_browser", lambda: True)
    viewer = inspect.step_through(GRID, mask(slice(1, 3)), mask(slice(2, 4)), "a title")
    assert [name for name, _ in viewer.outlines] == ["truth", "prediction"] and viewer.title == "a title"
    assert viewer.dice == [None, 0, 1, 0, None, None]


def test_the_figure_goes_through_the_labels():
    figure = inspect.figure(GRID, mask(slice(3, 4)), inspect.PRESETS["joint"])
    assert figure.axes[0].get_title() == "axial, slice 4"
    assert not inspect.figure(GRID, None, inspect.PRESETS["bone"]).legends
    refused(lambda: inspect.show(GRID, Volume(np.zeros((2, 2, 2), np.uint8), (1, 1, 1))), "different grids")
