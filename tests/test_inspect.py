"""Previews lie the right way up whatever the scan's orientation, and nothing interactive happens without a
browser."""

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

from compendium.view import inspect
from compendium.view.preview import HU_RANGE, LABEL_NUMBERS, centre_of, label_map, preview
from magunet.volume import Volume, reorient, same_geometry

HEADLESS = """
%matplotlib inline
from IPython.display import display
import numpy as np
from magunet.volume import Volume
from compendium.view import inspect
scan = Volume(np.full((8, 9, 10), -1000, np.int16), (1, 1, 1))
labels = scan.with_array(np.eye(9, 10, dtype=np.uint8)[None].repeat(8, 0))
shown = inspect.show(scan, labels, viewer="itkwidgets")
import sys
assert "itkwidgets" not in sys.modules and "ipyniivue" not in sys.modules
"""


def object_in_patient(spacing=(3.0, 1.5, 1.5), shape=(20, 40, 44)):
    """A body with a dense block at the patient's left, top and front, as LPS scan and label 4; and a right
    one, label 5."""
    scan, labels = np.full(shape, -1000, np.int16), np.zeros(shape, np.uint8)
    scan[2:-2, 4:-4, 4:-4] = 40
    for number, place in ((4, np.s_[12:17, 8:16, 28:36]), (5, np.s_[3:8, 22:32, 8:16])):
        scan[place], labels[place] = 600, number
    return (Volume(array, spacing, (-30.0, -20.0, 100.0)) for array in (scan, labels))


def middle(labels, number):
    """LPS mm of the middle of a label."""
    return np.mean([labels.to_world(index) for index in np.argwhere(labels.array == number)], axis=0)


@pytest.mark.parametrize("code", ["LPS", "RAS", "LAI", "PIR", "SAL"])
@pytest.mark.parametrize("side", [64, 16])
def test_a_preview_keeps_every_point_at_its_place_in_the_patient(code, side):
    scan, labels = object_in_patient()
    image, marks = preview(reorient(scan, code), reorient(labels, code), side)
    assert same_geometry(image, marks) and max(image.array.shape) <= side
    assert np.allclose(image.direction, np.eye(3))
    assert (image.array.dtype, marks.array.dtype) == (np.int16, np.uint8)
    assert set(np.unique(marks.array)) == {0, 4, 5}
    for number in (4, 5):
        assert np.abs(middle(marks, number) - middle(labels, number)).max() <= max(image.spacing) / 2
        assert image.array[marks.array == number].mean() > 350                    # dense where the label is
    for outer in (scan,
                  image):                                                   # the box of the scan is the same
        assert np.allclose(outer.to_world((-0.5, -0.5, -0.5)), scan.to_world((-0.5, -0.5, -0.5)))


@pytest.mark.parametrize("degrees", [5, 30])
def test_an_oblique_scan_is_laid_along_the_patients_axes(degrees):
    scan, labels = object_in_patient()
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
    scan, labels = (Volume(v.array, v.spacing, v.origin, turn) for v in (scan, labels))
    image, marks = preview(scan, labels, 48)
    assert np.array_equal(image.direction, np.eye(3)) and max(image.array.shape) <= 48
    for number in (4, 5):
        assert np.abs(middle(marks, number) - middle(labels, number)).max() < 1.5
        assert image.array[marks.array == number].mean() > 400
    # what the scan does not reach is air
    assert image.array[0, 0, 0] == HU_RANGE[0]


def test_left_is_left_and_up_is_up_for_the_viewers():
    """What itkwidgets and niivue are given: x grows to the left, z upwards; and values are as they were."""
    scan, labels = object_in_patient()
    image, marks = preview(reorient(scan, "RAI"), reorient(labels, "RAI"))
    wasm = inspect.to_itkwasm(image, "CT")
    assert wasm.size == [44, 40, 20] and wasm.spacing == [1.5, 1.5,
                                                          3.0] and np.array_equal(wasm.direction, np.eye(3))
    assert wasm.origin == [-30, -20, 100] and np.array_equal(wasm.data, scan.array)
    assert (middle(marks, 4) > middle(marks, 5))[[0, 2]].all()                     # further left, and higher
    assert inspect.as_nifti(marks)[344:348] == b"n+1\0"
    x, y, z = centre_of(marks, image)
    assert np.allclose((x, y, z), np.mean([marks.to_world(i) for i in np.argwhere(marks.array)], axis=0))


def test_metal_does_not_spoil_the_transfer_function():
    scan, _ = object_in_patient()
    scan.array[5, 5, 5] = 30000
    image, _ = preview(scan)
    assert image.array.max() == HU_RANGE[1]
    points = inspect.opacity_points(image, inspect.PRESETS["bone"])
    assert points == [[pytest.approx((hu + 1000) / 3000), share] for hu, share in ((100, 0), (180, 1))]


def test_labels_show_truth_prediction_or_errors():
    grid = Volume(np.zeros((2, 2, 2), np.uint8), (1, 1, 1))
    truth, prediction = (grid.with_array(np.array(v, np.uint8).reshape(2, 2, 2))
                         for v in ([0, 0, 1, 1] * 2, [0, 1, 0, 1] * 2))
    expected = {"truth": [0, 0, 4, 4] * 2, "prediction": [0, 5, 0, 5] * 2, "error map": [0, 3, 2, 1] * 2}
    for shown, values in expected.items():
        made = label_map(shown, truth, prediction)
        assert made.array.ravel().tolist() == values and made.array.dtype == np.uint8
    assert LABEL_NUMBERS == {"correct": 1, "missed": 2, "extra": 3, "truth": 4, "prediction": 5}
    assert label_map("truth", None, prediction) is None and label_map("error map", truth, None) is None
    refused(lambda: label_map("errors", truth, prediction), "labels can show truth, prediction, error map")
    shifted = Volume(prediction.array, (1, 1, 1), (5, 0, 0))
    refused(lambda: label_map("error map", truth, shifted), "different grids")


def test_without_a_browser_everything_is_a_figure():
    scan, labels = object_in_patient()
    assert inspect.best_viewer() == inspect.best_viewer("itkwidgets") == "figure"
    assert isinstance(inspect.show(scan, labels, title="a case"), Figure)
    refused(lambda: inspect.show(scan, labels, viewer="napari"),
            "no viewer 'napari'; there are itkwidgets, niivue")
    refused(lambda: inspect.show(scan, labels, preset="lung"),
            "no preset 'lung'; there are bone, joint, soft tissue")
    assert "itkwidgets" not in sys.modules


BROWSER, CLIENT = "0f8b7a52-2d7c-4d34-9a4e-6b1f0c3d2e1a", "3c2b1a-9f8e7d_4711_12"
"""Numbers of messages, as JupyterLab and as jupyter_client writes them."""


@pytest.mark.parametrize("user, message, server, problem, niivue, expected", [
    ("root", CLIENT, True, "", True, "figure"),                             # nbclient, papermill, nbval
    ("", CLIENT, True, "", True,
     "figure"),                                 # the same, started with an empty USER
    ("", BROWSER, True, "", True, "itkwidgets"),
    ("", BROWSER, True, "not installed", True, "niivue"),
    ("", BROWSER, False, "", True,
     "niivue"),                               # an editor that runs its own kernel
    ("", BROWSER, True, "not installed", False, "three planes"),
])
def test_the_best_viewer_that_works_is_taken(user, message, server, problem, niivue, expected, monkeypatch):
    shell = types.SimpleNamespace(parent_header={"header": {"username": user, "msg_id": message}})
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.setattr(inspect, "itkwidgets_problem", lambda: problem)
    monkeypatch.setattr(inspect.importlib.util, "find_spec", lambda name: object() if niivue else None)
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    if not server:
        monkeypatch.delenv("JPY_SESSION_NAME")
    assert inspect.best_viewer() == expected
    reasons = inspect.viewers()
    assert list(reasons) == list(inspect.VIEWERS) and not reasons[expected]
    assert all(reasons[name] for name in inspect.VIEWERS[:inspect.VIEWERS.index(expected)])
    if expected in ("niivue", "three planes"):
        refused(lambda: inspect.best_viewer("itkwidgets"), "itkwidgets cannot be used here", problem)


def notebook(path, *sources):
    python = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources],
                                            metadata=python), path)


FORCED = "from compendium.view import inspect; shown = inspect.import_itkwidgets()"


@pytest.mark.parametrize("first, last, passes", [(HEADLESS, "1 + 1", True), (FORCED, "1 / 0", False)])
def test_a_notebook_with_an_error_fails_under_papermill_and_nbval_after_a_view(first, last, passes, tmp_path):
    """Also where itkwidgets is imported by force: then it must not stay between kernel and notebook."""
    notebook(tmp_path / "a.ipynb", first, "display(shown)", last, "print('after')")
    settings = {"cwd": tmp_path, "capture_output": True, "text": True, "env": os.environ
                | {"PYTHONPATH": str(ROOT), "USER": ""}}
    done = subprocess.run([sys.executable, "-m", "papermill", "a.ipynb", "out.ipynb", "--no-progress-bar"],
                          **settings)
    assert (done.returncode == 0) == passes, done.stderr
    assert passes or "ZeroDivisionError" in done.stderr
    ran = [cell for cell in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells if cell.cell_type
           == "code"]
    assert first != HEADLESS or "image/png" in ran[1].outputs[0].data
    assert [output.text for output in ran[3].outputs] == ["after\n"][:passes]
    done = subprocess.run([sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "a.ipynb"],
                          **settings)
    assert done.returncode == (0 if passes else 1), done.stdout
    assert ("1 failed" in done.stdout) != passes
