"""Previews lie the right way up whatever the scan's orientation; each change of a drop-down shows what was
chosen; and nothing interactive happens without a browser."""

import itertools
import os
import subprocess
import sys
import types

import IPython
import nbformat
import numpy as np
import pytest
from conftest import ROOT, refused
from matplotlib.figure import Figure
from scipy.spatial.transform import Rotation

from compendium.view import inspect
from compendium.view import preview as previews
from compendium.view.preview import HU_RANGE, ScanWithMasks, labels_of, preview
from magunet.volume import Volume, reorient, same_geometry

GRID = Volume(np.full((6, 7, 8), -1000, np.int16), (1, 1, 1))
SHIFTED = Volume(np.zeros(GRID.array.shape, np.uint8), (1, 1, 1), (5, 0, 0))


def object_in_patient():
    """A body with a dense block at the patient's left, top and front, as LPS scan and label 4; and a right
    one, label 5."""
    scan, labels = np.full((20, 40, 44), -1000, np.int16), np.zeros((20, 40, 44), np.uint8)
    scan[2:-2, 4:-4, 4:-4] = 40
    for number, place in ((4, np.s_[12:17, 8:16, 28:36]), (5, np.s_[3:8, 22:32, 8:16])):
        scan[place], labels[place] = 600, number
    return (Volume(array, (3.0, 1.5, 1.5), (-30.0, -20.0, 100.0)) for array in (scan, labels))


def middle(labels, number):
    """LPS mm of the middle of a label."""
    return np.mean([labels.to_world(index) for index in np.argwhere(labels.array == number)], axis=0)


def mask(*slices):
    array = np.zeros(GRID.array.shape, np.uint8)
    array[slices] = 1
    return GRID.with_array(array)


# Previews -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("code, side, degrees", [
    *itertools.product(("LPS", "RAS", "LAI", "PIR", "SAL"), (64, 16), (0,)), ("LPS", 48, 5), ("LPS", 48, 30)])
def test_a_preview_keeps_every_point_at_its_place_along_the_patients_axes(code, side, degrees):
    turn = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
    scan, labels = (Volume(v.array, v.spacing, v.origin, turn) for v in object_in_patient())
    image, marks = preview(reorient(scan, code), reorient(labels, code), side)
    assert same_geometry(image, marks) and max(image.array.shape) <= side
    assert np.allclose(image.direction, np.eye(3))
    assert (image.array.dtype, marks.array.dtype) == (np.int16, np.uint8)
    assert set(np.unique(marks.array)) == {0, 4, 5}
    for number in (4, 5):
        off = np.abs(middle(marks, number) - middle(labels, number)).max()
        assert off <= (1.5 if degrees else max(image.spacing) / 2)
        assert image.array[marks.array == number].mean() > 350                    # dense where the label is
    if degrees:
        assert image.array[0, 0, 0] == HU_RANGE[0]                                # beyond the scan is air
    else:
        assert np.allclose(*(v.to_world((-0.5, -0.5, -0.5)) for v in (scan, image)))      # of the same box


def test_left_is_left_and_up_is_up_for_the_viewers():
    """What itkwidgets and niivue are given: x grows to the left, z upwards; and values are as they were, but
    for metal, which would spoil the transfer function."""
    scan, labels = object_in_patient()
    image, marks = preview(reorient(scan, "RAI"), reorient(labels, "RAI"))
    wasm = inspect.to_itkwasm(image, "CT")
    assert (wasm.size, wasm.spacing, wasm.origin) == ([44, 40, 20], [1.5, 1.5, 3.0], [-30, -20, 100])
    assert np.array_equal(wasm.direction, np.eye(3)) and np.array_equal(wasm.data, scan.array)
    assert (middle(marks, 4) > middle(marks, 5))[[0, 2]].all()                     # further left, and higher
    assert inspect.as_nifti(marks)[344:348] == b"n+1\0"
    centre = np.mean([marks.to_world(index) for index in np.argwhere(marks.array)], axis=0)
    assert np.allclose(previews.centre_of(marks, image), centre)
    scan.array[5, 5, 5] = 30000
    points = inspect.opacity_points(preview(scan)[0], inspect.PRESETS["bone"])
    assert points == [[pytest.approx((hu + 1000) / 3000), share] for hu, share in ((100, 0), (180, 1))]


def test_labels_show_truth_prediction_or_errors():
    grid = Volume(np.zeros((2, 2, 2), np.uint8), (1, 1, 1))
    truth, prediction = (grid.with_array(np.array(v, np.uint8).reshape(2, 2, 2))
                         for v in ([0, 0, 1, 1] * 2, [0, 1, 0, 1] * 2))
    expected = {"truth": [0, 0, 4, 4] * 2, "prediction": [0, 5, 0, 5] * 2, "error map": [0, 3, 2, 1] * 2}
    for choice, values in expected.items():
        name, labels = labels_of(ScanWithMasks(grid, truth, prediction), choice)
        assert name == choice and labels.array.ravel().tolist() == values and labels.array.dtype == np.uint8
        assert labels_of(ScanWithMasks(grid, None, prediction), choice)[0] == "prediction"
    assert previews.LABEL_NUMBERS == {"correct": 1, "missed": 2, "extra": 3, "truth": 4, "prediction": 5}
    assert labels_of(ScanWithMasks(grid, truth, None), "error map")[0] == "truth"
    assert labels_of(ScanWithMasks(grid, None, None), "truth") == ("no mask", None)
    refused(lambda: labels_of(ScanWithMasks(grid, truth, None), "errors"), "truth, prediction, error map")
    refused(lambda: labels_of(ScanWithMasks(mask(), None, SHIFTED), "error map"), "different grids")


# Viewers --------------------------------------------------------------------------------------------------
BROWSER, CLIENT = "0f8b7a52-2d7c-4d34-9a4e-6b1f0c3d2e1a", "3c2b1a-9f8e7d_4711_12"
"""Numbers of messages, as JupyterLab and as jupyter_client writes them."""


@pytest.mark.parametrize("user, message, server, problem, expected", [
    ("root", CLIENT, True, "", "figure"),                               # nbclient, papermill, nbval
    ("", CLIENT, True, "", "figure"),                                   # the same, begun with an empty USER
    ("", BROWSER, True, "", "itkwidgets"),
    ("", BROWSER, True, "not installed", "niivue"),
    ("", BROWSER, False, "", "niivue")])                                # an editor that runs its own kernel
def test_the_best_viewer_that_works_is_taken(user, message, server, problem, expected, monkeypatch):
    shell = types.SimpleNamespace(parent_header={"header": {"username": user, "msg_id": message}})
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.setattr(inspect, "itkwidgets_problem", lambda: problem)
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    if not server:
        monkeypatch.delenv("JPY_SESSION_NAME")
    assert inspect.best_viewer() == expected
    reasons = inspect.viewers()
    assert list(reasons) == ["itkwidgets", "niivue", "figure"]
    assert next(name for name, reason in reasons.items() if not reason) == expected
    if expected == "niivue":
        refused(lambda: inspect.best_viewer("itkwidgets"), "itkwidgets cannot be used here", problem)


def test_itkwidgets_is_imported_without_its_hold_on_the_kernel(monkeypatch):
    """With a stand-in that holds it as itkwidgets does."""
    calls, handlers = [], {"execute_request": "its own"}
    events = types.SimpleNamespace(unregister=lambda *words: calls.append(words))
    watcher = types.SimpleNamespace(
        kernel=types.SimpleNamespace(shell_handlers=handlers), execute_request_handler="the kernel's",
        shell=types.SimpleNamespace(events=events), post_run_cell="its look at every cell")
    for name in ("imjoy_elfinder", "itkwidgets", "itkwidgets.viewer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["itkwidgets.viewer"]._cell_watcher = watcher
    assert inspect.import_itkwidgets() is inspect.import_itkwidgets() is sys.modules["itkwidgets"]
    assert handlers == {"execute_request": "the kernel's"}
    assert calls == [("post_run_cell", "its look at every cell")]


@pytest.mark.slow
def test_a_notebook_with_an_error_fails_under_papermill_and_nbval_though_itkwidgets_is_imported(tmp_path):
    """By force, for no browser is there: it must not stay between kernel and notebook."""
    cells = [nbformat.v4.new_code_cell(source) for source in (
        "from compendium.view import inspect; inspect.import_itkwidgets()", "1 / 0", "print('after')")]
    python = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=python), tmp_path / "a.ipynb")
    for words, says in ((("papermill", "a.ipynb", "out.ipynb", "--no-progress-bar"), "ZeroDivisionError"),
                        (("pytest", "--nbval-lax", "--nbval-current-env", "a.ipynb"), "1 failed")):
        done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": str(ROOT), "USER": ""})
        assert done.returncode == 1 and says in done.stdout + done.stderr, done.stdout + done.stderr
    assert nbformat.read(tmp_path / "out.ipynb", 4).cells[-1].outputs == []


# Drop-downs and sliders -----------------------------------------------------------------------------------
@pytest.fixture
def displayed(monkeypatch):
    """Everything that is displayed."""
    things = []
    monkeypatch.setattr(IPython.display, "display", things.append)
    return things


def load(case, network):
    return ScanWithMasks(GRID, None if case == "my scan" else mask(slice(2, 4)), mask(slice(3, 5)))


def menus_of(box):
    return {menu.description: menu for menu in box.children[0].children}


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def test_without_a_browser_everything_is_a_figure_of_what_the_labels_show():
    """Where a scan has no truth, of the prediction; and what only a browser shows is not even imported."""
    assert inspect.best_viewer() == inspect.best_viewer("itkwidgets") == "figure"
    drawn = inspect.figure(GRID, mask(slice(3, 4)), inspect.PRESETS["joint"])
    assert titles(drawn)[0] == "axial, slice 4"
    assert isinstance(inspect.step_through(GRID, mask(slice(1, 3)), None, "a title"), Figure)
    assert not inspect.figure(GRID, None, inspect.PRESETS["bone"]).legends
    drawn = inspect.browse(load, ["case", "my scan"], ["MAG-UNet", "3D U-Net"])
    assert isinstance(drawn, Figure) and drawn.get_suptitle() == "case, MAG-UNet: error map"
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["correct", "missed", "extra"]
    assert [title.split(",")[0] for title in titles(drawn)] == ["axial", "coronal", "sagittal"]
    assert inspect.browse(load, ["my scan"], ["SegNet"]).get_suptitle() == "my scan, SegNet: prediction"
    for options, says in ((dict(viewer="napari"), "no viewer 'napari'; there are itkwidgets, niivue"),
                          (dict(labels="errors"), "no labels 'errors'; there are truth, prediction"),
                          (dict(preset="lung"), "no preset 'lung'; there are bone, joint, soft tissue"),
                          (dict(load=lambda *_: ScanWithMasks(GRID, SHIFTED, None)), "different grids")):
        refused(lambda options=options: inspect.browse(cases="a", networks="b", **{"load": load} | options),
                says)
    assert not {"itkwidgets", "ipyniivue"} & set(sys.modules)


@pytest.mark.parametrize("viewer", ["itkwidgets", "niivue"])
def test_a_choice_is_shown_at_once(viewer, displayed, monkeypatch):
    """With a stand-in for the viewer; itkwidgets has displayed itself."""
    calls = []

    def show(scan, labels, preset):
        name = next(name for name in inspect.PRESETS if inspect.PRESETS[name] is preset)
        calls.append((sorted(set(labels.array.ravel())), name))
        return len(calls)

    monkeypatch.setattr(inspect, "best_viewer", lambda _: viewer)
    monkeypatch.setattr(inspect, f"in_{viewer}", show)
    inspect.browse(load, ["case", "my scan"], ["MAG-UNet", "3D U-Net"])
    menus = menus_of(next(thing for thing in displayed if hasattr(thing, "children")))
    assert calls == [([0, 1, 2, 3], "bone")]
    for name, value in (("labels", "truth"), ("preset", "joint"), ("case", "my scan")):
        menus[name].value = value
    assert calls[1:] == [([0, 4], "bone"), ([0, 4], "joint"), ([0, 5], "joint")]
    assert menus["network"].options == ("MAG-UNet", "3D U-Net")
    assert (1 in displayed) == (4 in displayed) == (viewer != "itkwidgets")


def test_planes_open_where_the_mask_is_and_follow_sliders_and_menu(displayed, monkeypatch):
    """The Dice of every axial slice stands above them."""
    monkeypatch.setattr(inspect, "in_browser", lambda: True)
    menus = menus_of(inspect.step_through(GRID, mask(slice(4, 5)), None))
    assert titles(displayed[-1])[0] == "axial, slice 5" and menus["axial"].value == 5
    outline = displayed[-1].axes[1].collections[0].get_paths()[0].vertices
    assert (outline[:, 1].min(), outline[:, 1].max()) == (1, 2)             # mm from the top of 6 slices
    sliders = [menus[name] for name in ("axial", "coronal", "sagittal")]
    assert [(slider.min, slider.max) for slider in sliders] == [(1, 6), (1, 7), (1, 8)]
    menus["coronal"].value = 7
    assert titles(displayed[-1])[1] == "coronal, slice 7"
    menus["window"].value = "soft tissue"
    assert displayed[-1].axes[0].images[0].get_clim() == (-160, 240)
    inspect.step_through(GRID, None, None)
    assert not any(axes.collections for axes in displayed[-1].axes)
    refused(lambda: inspect.step_through(GRID, SHIFTED, None), "different grids")
    inspect.step_through(GRID, mask(slice(1, 3)), mask(slice(2, 4)), "a title")
    strip, planes = displayed[-2:]
    bars = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in strip.axes[0].patches}
    assert bars == {2: 0, 3: 1, 4: 0} and len(planes.axes) == 3 and planes.get_suptitle() == "a title"
