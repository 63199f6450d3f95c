"""Notebook 10 in JupyterLab and a real browser: what it draws, where, and that nothing leaves this machine.

    python tests/test_browser.py figures/readme/viewer.png

stores the README's picture: the notebook itself, with the smoke profile's networks, and the real CT (`magunet
sample`).
"""

import contextlib
import importlib.util
import io
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import ROOT
from lab import CHROMIUM, FLAGS, Seen, make_lab
from PIL import Image
from test_offline import offline, parts

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
COLOURS = {"missed": lambda r, g, b: (r > g + 25) & (b > g + 8),
           "extra": lambda r, g, b: (g > b + 40) & (r > b + 40)}
"""Wine and yellow in any light; a test of an array of pixels."""
PATIENCE = 600
"""Seconds for anything: drawing a volume on a busy processor takes minutes."""
pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("npm") and importlib.util.find_spec("playwright")),
    reason="needs Chromium, npm and the Python package playwright")]


@contextlib.contextmanager
def run_notebook(folder, jupyter_path, name, size=(800, 800)):
    """Yields a page with a folder's notebook after all its cells ran, and what it has asked for so far."""
    from playwright.sync_api import sync_playwright

    variables = {"JUPYTER_PATH": str(jupyter_path), "PYTHONPATH": str(ROOT)}
    with make_lab(folder, **variables) as (_, description), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page, seen = browser.new_page(viewport=dict(zip(("width", "height"), size))), Seen()
        page.set_default_timeout(1000 * PATIENCE)
        seen.watch(page)
        page.goto("http://127.0.0.1:{port}/lab/tree/{}?token={token}".format(name, **description))
        page.wait_for_selector(".jp-Notebook-cell")
        page.keyboard.press("Control+b")                        # no file browser beside it
        page.get_by_text("| Idle").wait_for()                   # cells that run before it are not run at all
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.wait_for_function("""() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
            .every(prompt => /\\[\\d+\\]/.test(prompt.textContent))""")
        yield page, seen
        browser.close()


def itkwidgets_in(page):
    """The element that itkwidgets draws in, with its canvas there."""
    while not (frames := [frame for frame in page.frames if "itk-vtk-viewer" in frame.url]):
        page.wait_for_timeout(500)
    frames[-1].wait_for_selector("canvas", state="attached")
    return frames[-1].frame_element()


def places(picture, colour):
    """Pixels of a colour in a picture (h, w, 3): (n, 2), row and column as shares of its height and width."""
    pixels = COLOURS[colour](*np.moveaxis(picture.astype(int), -1, 0))
    return (np.argwhere(pixels) + 0.5) / picture.shape[:2]


def picture_of(element):
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB"))


def coloured_picture(page, element, name):
    """The element's picture, when both colours are in it and it does not change any more; people may look at
    it in runs/screenshots."""
    element.scroll_into_view_if_needed()
    before = np.zeros(0)
    for _ in range(400):
        picture = picture_of(element)
        if np.array_equal(before, picture) and all(len(places(picture, colour)) > 200 for colour in COLOURS):
            folder = ROOT / "runs" / "screenshots"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / f"{name}.png")
            return picture
        before = picture
        page.wait_for_timeout(1500)
    pytest.fail("the labels did not appear")


def install(folder):
    """Installs the viewer into a copy of JupyterLab's real extension, below an entry for Jupyter's path."""
    real, copy = offline.extension_folder(), folder / "labextensions" / parts.EXTENSION
    shutil.copytree(real, copy, ignore=shutil.ignore_patterns(parts.FOLDER))
    package = (real / "package.json").read_text().replace(offline.OURS, offline.ORIGINAL)
    (copy / "package.json").write_text(package)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        offline.install()
        assert offline.problems() == []
    size = sum(path.stat().st_size for path in (copy / parts.FOLDER).rglob("*") if path.is_file())
    assert 5 * 2**20 < size < 40 * 2**20
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    try:
        return install(tmp_path_factory.mktemp("jupyter"))
    except InputError as error:
        if "could not fetch" in str(error):
            pytest.skip(f"no package registry within reach: {error}")
        raise


@contextlib.contextmanager
def notebook_run(installed, compendium, viewer):
    """Notebook 10 with the test object in place of scans and networks, and one viewer asked for, all cells
    run; yields the page and what it asked for."""
    notebook = nbformat.read(ROOT / "notebooks" / NOTEBOOK, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code = {cell.source.split("\n")[0]: cell for cell in notebook.cells}
    code["own_scan, own_mask = None, None"].source = OBJECT
    code['fit("MAG-UNet", settings, settings.seeds[0], study)'].source = "print(*runs)"
    (cell,) = (cell for cell in notebook.cells if BROWSE in cell.source)
    cell.source = cell.source.replace("list(runs))", f"list(runs), viewer={viewer!r})")
    nbformat.write(notebook, compendium / "object.ipynb")
    with run_notebook(compendium, installed, "object.ipynb") as (page, seen):
        yield page, seen
        text = page.locator(".jp-Notebook").inner_text()
        assert text.count("left is left: True | up is up: True") == 4 and "Error" not in text
        assert seen.external() == []


def test_itkwidgets_shows_the_labels_where_they_lie_and_asks_nobody_outside(installed, compendium):
    with notebook_run(installed, compendium, None) as (page, seen):
        picture = coloured_picture(page, itkwidgets_in(page), "itkwidgets")
        for colour, right, low in (("missed", True, False), ("extra", False, True)):
            rows, columns = places(picture, colour).T              # the patient's left is on the right
            assert ((columns > 0.5) == right).mean() > 0.95 and ((rows > 0.5) == low).mean() > 0.95, colour
        assert any("itkVtkViewer.js" in url for url in seen)


def test_niivue_shows_the_same_and_asks_nobody_outside(installed, compendium):
    """In a coronal plane, and in the volume."""
    with notebook_run(installed, compendium, "niivue") as (page, _):
        picture = coloured_picture(page, page.locator("canvas").first, "niivue")
        missed, extra = (places(picture, colour).mean(axis=0) for colour in COLOURS)
        assert missed[0] < extra[0] - 0.1 and missed[1] > extra[1] + 0.1


def store_picture(target):
    """Store a picture of the viewer below its drop-downs, the real CT first, of less than 200 KB."""
    with tempfile.TemporaryDirectory(dir=ROOT / "runs") as folder:      # JupyterLab saves what it has run
        text = (ROOT / "notebooks" / NOTEBOOK).read_text()
        real_first = r'browse(load, list(scans)[::-1], list(runs), labels=\"truth\")'
        Path(folder, NOTEBOOK).write_text(text.replace(BROWSE, real_first))
        with run_notebook(Path(folder), install(Path(folder)), NOTEBOOK, (1100, 900)) as (page, seen):
            for _ in range(4):                          # until the volume is drawn with its settings so far
                page.wait_for_timeout(20_000)
                picture_of(itkwidgets_in(page))
            page.locator(".jp-OutputArea-output:has(.widget-dropdown)").first.screenshot(path=target)
            print("asked outside:", seen.external())
    Image.open(target).convert("RGB").quantize(96).save(target, optimize=True)


if __name__ == "__main__":
    store_picture(sys.argv[1])
