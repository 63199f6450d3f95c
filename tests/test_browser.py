"""Notebook 10 in JupyterLab and a real browser: what it draws, where, and that nothing leaves this machine.

    python tests/test_browser.py figures/readme/viewer.png

stores the README's picture: the notebook itself, with the smoke profile's networks, and the real CT (`magunet
sample`).
"""

import contextlib
import io
import sys
import tempfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import ROOT
from lab import copy_extension, missing, offline, open_notebook, run_all, running_lab, viewer_frame
from PIL import Image

from magunet.base.errors import InputError

NOTEBOOK = "10_inspect_in_3d.ipynb"
OBJECT = """
# A body with one block at the patient's left, high up, which is missed, and one at the right, low, is extra
from pathlib import Path
from types import SimpleNamespace
blocks = np.zeros((30, 24, 36), np.uint8)
blocks[20:27, 8:16, 22:33], blocks[3:10, 8:16, 3:14] = 1, 2         # x grows to the left, z upwards
scan = Volume(np.where(blocks > 0, 700, 0).astype(np.int16), (3.0, 2.0, 2.0))
masks = [scan.with_array((blocks == n).astype(np.uint8)) for n in (1, 2)]
stored = ScanWithMasks(*(reorient(volume, "RAI") for volume in (scan, *masks)))
scans, runs, study = {"object": None}, {"MAG-UNet": Path("none")}, SimpleNamespace(val=["object"])

def load(case, network):
    return stored
"""
BROWSE = "browse(load, list(scans), list(runs))"
COLOURS = {"missed": lambda r, g, b: (r > g + 25) & (b > g + 8), "extra": lambda r, g,
           b: (g > b + 40) & (r > b + 40)}
"""Wine and yellow in any light; a test of an array of pixels."""


def notebook_with_the_object(path, viewer):
    """Notebook 10 with the test object in place of scans and networks, and one viewer asked for."""
    notebook = nbformat.read(ROOT / "notebooks" / NOTEBOOK, as_version=4)
    code = {cell.source.split("\n")[0]: cell for cell in notebook.cells if cell.cell_type == "code"}
    code["own_scan, own_mask = None, None"].source = OBJECT
    code['fit("MAG-UNet", settings, settings.seeds[0], study)'].source = "print(*runs)"
    browse = code[BROWSE]
    browse.source = browse.source.replace("list(runs))", f"list(runs), viewer={viewer!r})")
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A copy of JupyterLab's extension with the viewer installed, as an entry of Jupyter's path."""
    if reason := missing():
        pytest.skip(reason)
    folder, patch = copy_extension(tmp_path_factory.mktemp("jupyter")), pytest.MonkeyPatch()
    patch.setenv("JUPYTER_PATH", str(folder))
    try:
        offline.install()
    except InputError as error:
        if "could not fetch" in str(error):
            pytest.skip(f"no package registry within reach: {error}")
        raise
    finally:
        patch.undo()
    return folder


@contextlib.contextmanager
def notebook_run(installed, compendium, viewer):
    """Notebook 10 with the test object, all cells run in a JupyterLab of its own; yields the page and what it
    asked for."""
    notebook_with_the_object(compendium / "object.ipynb", viewer)
    with running_lab(compendium, installed, compendium / "settings") as address, \
            open_notebook(address, "object.ipynb") as (page, seen):
        run_all(page)                                                   # cells after the viewer run too
        yield page, seen
        text = page.locator(".jp-Notebook").inner_text()
        assert text.count("left is left: True | up is up: True") == 4 and "Error" not in text
        assert seen.external() == []


def places(picture, colour):
    """Pixels of a colour in a picture (h, w, 3): (n, 2), row and column as shares of its height and width."""
    found = COLOURS[colour](*np.moveaxis(picture.astype(int), -1, 0))
    return (np.argwhere(found) + 0.5) / picture.shape[:2]


def picture_of(element):
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB"))


def wait_for_colours(page, element):
    """The element's picture, when both colours are in it and it does not change any more."""
    before = np.zeros(0)
    for _ in range(400):
        picture = picture_of(element)
        if np.array_equal(before, picture) and all(len(places(picture, colour)) > 200 for colour in COLOURS):
            return picture
        before = picture
        page.wait_for_timeout(1500)
    pytest.fail("the labels did not appear")


def keep_screenshot(picture, name):
    """In runs/screenshots, for people to look at."""
    folder = ROOT / "runs" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / f"{name}.png")


@pytest.mark.network
def test_itkwidgets_shows_the_labels_where_they_lie_and_asks_nobody_outside(installed, compendium):
    with notebook_run(installed, compendium, None) as (page, seen):
        element = viewer_frame(page).frame_element()
        element.scroll_into_view_if_needed()
        picture = wait_for_colours(page, element)
        keep_screenshot(picture, "itkwidgets")
        for colour, right, down in (("missed", True, False),
                                    ("extra", False, True)):   # the patient's left is on the right
            rows, columns = places(picture, colour).T
            assert ((columns > 0.5) == right).mean() > 0.95 and ((rows > 0.5) == down).mean() > 0.95, colour
        assert any("itkVtkViewer.js" in url for url in seen)


@pytest.mark.network
def test_niivue_shows_the_same_and_asks_nobody_outside(installed, compendium):
    with notebook_run(installed, compendium, "niivue") as (page, _):
        element = page.locator("canvas").first
        element.scroll_into_view_if_needed()
        picture = wait_for_colours(page, element)
        keep_screenshot(picture, "niivue")
        missed, extra = (places(picture, colour).mean(axis=0)
                         for colour in COLOURS)    # in a coronal plane, and in the volume
        assert missed[0] < extra[0] - 0.1 and missed[1] > extra[1] + 0.1


def store_picture(target: Path) -> None:
    """Run notebook 10, the real CT first, and store a picture of the viewer below its drop-downs, less than
    200 KB."""
    served = ROOT / "runs" / "browser"                  # a copy, for JupyterLab saves what it has run
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        folder = copy_extension(Path(scratch))
        patch.setenv("JUPYTER_PATH", str(folder))
        offline.install()
        served.mkdir(parents=True, exist_ok=True)
        text = (ROOT / "notebooks" / NOTEBOOK).read_text()
        real_first = r'browse(load, list(scans)[::-1], list(runs), labels=\"truth\")'
        (served / NOTEBOOK).write_text(text.replace(BROWSE, real_first))
        with running_lab(served, folder, Path(scratch)) as address, \
                open_notebook(address, NOTEBOOK, (1100, 900)) as (page, seen):
            run_all(page)
            element = viewer_frame(page).frame_element()
            # each waits until the volume is drawn with its settings so far
            for _ in range(4):
                page.wait_for_timeout(20_000)
                picture_of(element)
            page.locator(".jp-OutputArea-output:has(.widget-dropdown)").first.screenshot(path=target)
            print("asked outside:", seen.external())
    Image.open(target).convert("RGB").quantize(96).save(target, optimize=True)
    print(target, target.stat().st_size, "bytes")


if __name__ == "__main__":
    store_picture(Path(sys.argv[1]))
