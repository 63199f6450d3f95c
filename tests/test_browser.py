"""Notebook 10 in JupyterLab and a real browser: what it draws, where, and that nothing leaves this machine.

    python tests/test_browser.py figures/readme/viewer.png

stores the README's picture: the notebook itself, with the smoke profile's networks, in the viewer that is installed here.
"""

import io
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import ROOT
from lab import copy_extension, missing, open_notebook, run_all, running_lab, viewer_frame
from PIL import Image

from magunet.errors import InputError
from magunet.view import offline

NOTEBOOK = "10_inspect_in_3d.ipynb"
OBJECT = """
# A body with one block at the patient's left, high up, which is missed, and one at the right, low down, which is extra
from pathlib import Path
from types import SimpleNamespace
blocks = np.zeros((30, 24, 36), np.uint8)
blocks[20:27, 8:16, 22:33], blocks[3:10, 8:16, 3:14] = 1, 2         # x grows to the left, z upwards
scan = Volume(np.where(blocks > 0, 700, 0).astype(np.int16), (3.0, 2.0, 2.0))
stored = Shown(*(reorient(v, "RAI") for v in (scan, *(scan.with_array((blocks == n).astype(np.uint8)) for n in (1, 2)))))
scans, runs, study = {"object": None}, {"MAG-UNet": Path("none")}, SimpleNamespace(val=["object"])

def load(case, network):
    return stored
"""
COLOURS = {"missed": lambda r, g, b: (r > g + 25) & (b > g + 8), "extra": lambda r, g, b: (g > b + 40) & (r > b + 40)}
"""Wine and yellow in any light; a test of an array of pixels."""


def notebook_with_the_object(path, viewer):
    """Notebook 10 with the test object in place of scans and networks, and one viewer asked for."""
    notebook = nbformat.read(ROOT / "notebooks" / NOTEBOOK, as_version=4)
    code = {cell.source.split("\n")[0]: cell for cell in notebook.cells if cell.cell_type == "code"}
    code["own_scan, own_mask = None, None"].source = OBJECT
    code['fit("MAG-UNet", settings, settings.seeds[0], study)'].source = "print(*runs)"
    browse = code["browse(load, list(scans), list(runs))"]
    browse.source = browse.source.replace("list(runs))", f"list(runs), wanted={viewer!r})")
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of a JupyterLab whose extension is a copy with the viewer installed, and the folder that it serves."""
    if reason := missing():
        pytest.skip(reason)
    base = tmp_path_factory.mktemp("lab")
    served = base / "compendium"
    (served / "papermill_params").mkdir(parents=True)
    patch = pytest.MonkeyPatch()
    patch.setenv("JUPYTER_PATH", str(copy_extension(base / "jupyter")))
    try:
        offline.install()
    except InputError as error:
        if "could not fetch" in str(error):
            pytest.skip(f"no package registry within reach: {error}")
        raise
    finally:
        patch.undo()
    with running_lab(served, base / "jupyter", base / "settings") as address:
        yield address, served


def halves(picture, colour):
    """Where a colour stands in a picture (h, w, 3): the share of its pixels in the left half and in the upper, and how many."""
    found = np.argwhere(COLOURS[colour](*np.moveaxis(picture.astype(int), -1, 0)))
    middle = np.divide(picture.shape[:2], 2)
    return (found[:, 1] < middle[1]).mean(), (found[:, 0] < middle[0]).mean(), len(found)


def picture_of(element):
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB"))


def wait_for_colours(page, element):
    """The element's picture, when both colours are in it and it does not change any more."""
    before = None
    for _ in range(400):
        picture = picture_of(element)
        if before is not None and all(halves(picture, colour)[2] > 200 for colour in COLOURS) and np.array_equal(before, picture):
            return picture
        before = picture
        page.wait_for_timeout(1500)
    pytest.fail("the labels did not appear")


@pytest.mark.network
def test_itkwidgets_shows_the_labels_where_they_lie_and_asks_nobody_outside(lab, tmp_path):
    address, served = lab
    notebook_with_the_object(served / "itkwidgets.ipynb", None)
    with open_notebook(address, "itkwidgets.ipynb") as (page, seen):
        run_all(page)                                                   # cells after the viewer run too
        frame = viewer_frame(page)
        element = frame.frame_element()
        element.scroll_into_view_if_needed()
        picture = wait_for_colours(page, element)
        Image.fromarray(picture).save(tmp_path / "itkwidgets.png")
        left, upper, _ = halves(picture, "missed")                      # the patient's left is on the right
        assert left < 0.05 and upper > 0.95
        left, upper, _ = halves(picture, "extra")
        assert left > 0.95 and upper < 0.05
        text = page.locator(".jp-Notebook").inner_text()
        assert text.count("left is left: True | up is up: True") == 4 and "Error" not in text
        assert any("itkVtkViewer.js" in url for url in seen)
        assert seen.external() == []


@pytest.mark.network
def test_niivue_shows_the_same_and_asks_nobody_outside(lab, tmp_path):
    address, served = lab
    notebook_with_the_object(served / "niivue.ipynb", "niivue")
    with open_notebook(address, "niivue.ipynb") as (page, seen):
        run_all(page)
        element = page.locator("canvas").first
        element.scroll_into_view_if_needed()
        picture = wait_for_colours(page, element)
        Image.fromarray(picture).save(tmp_path / "niivue.png")
        assert seen.external() == []


def store_picture(target: Path) -> None:
    """Run notebook 10 as it is and store a picture of the viewer with its drop-downs, below 200 KB."""
    settings = ROOT / "runs" / "browser"
    with running_lab(ROOT, Path("nowhere"), settings) as address, \
            open_notebook(address, f"notebooks/{NOTEBOOK}", (1250, 1000)) as (page, seen):
        run_all(page)
        element = viewer_frame(page).frame_element()
        element.scroll_into_view_if_needed()
        for _ in range(20):
            page.wait_for_timeout(3000)
            picture_of(element)
        page.screenshot(path=target)
        print("asked outside:", seen.external())
    Image.open(target).convert("RGB").quantize(128).save(target, optimize=True)
    print(target, target.stat().st_size)


if __name__ == "__main__":
    store_picture(Path(sys.argv[1]))
