"""The three-plane viewer: what it is sent, and what it draws in a real browser."""

import base64
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import refused

from compendium.figures.planes import PREDICTION_COLOUR, TRUTH_COLOUR
from compendium.view import slices
from compendium.view.slices import slice_dice, slice_viewer
from magunet.volume import Volume, reorient

FRONT_END = Path(slices.__file__).with_suffix(".js")
SPACING = (3.0, 1.0, 1.0)
SENT = ("voxels", "masks", "shape", "spacing", "step", "planes", "windows", "window", "outlines", "dice", "position", "title")


def scan() -> Volume:
    """Air, and one block of bone in the patient's left front upper corner: no two of its views are symmetric."""
    array = np.full((20, 40, 60), -1000, np.int16)
    array[14:18, 5:12, 40:55] = 900
    return Volume(array, SPACING)


def mask(*box: slice) -> Volume:
    array = np.zeros((20, 40, 60), np.uint8)
    array[box] = 1
    return Volume(array, SPACING)


TRUTH, PREDICTION = mask(slice(4, 8), slice(20, 30), slice(5, 15)), mask(slice(6, 10), slice(20, 30), slice(5, 15))
MASKS = {"truth": TRUTH, "prediction": PREDICTION}


# What is sent ------------------------------------------------------------------------------------------

def test_dice_of_slices_against_counting():
    a, b = np.random.default_rng(0).random((2, 6, 5, 4)) < [[[[0.5]]], [[[0.3]]]]
    a[2] = b[2] = b[4] = False
    found = slice_dice(a, b)
    assert found[2] is None and found[4] == 0
    for z in (0, 1, 3, 5):
        assert found[z] == pytest.approx(2 * (a[z] & b[z]).sum() / (a[z].sum() + b[z].sum()))


@pytest.mark.parametrize("code", ["LPS", "RAS", "SLA", "PIR"])
def test_every_orientation_is_sent_alike(code):
    viewer = slice_viewer(reorient(scan(), code), {name: reorient(mask, code) for name, mask in MASKS.items()})
    voxels = np.frombuffer(viewer.voxels, "<i2").reshape(viewer.shape)
    assert np.array_equal(voxels, scan().array) and viewer.spacing == SPACING
    bits = np.frombuffer(viewer.masks, np.uint8).reshape(viewer.shape)
    assert np.array_equal(bits, TRUTH.array + 2 * PREDICTION.array)
    assert viewer.outlines == [["truth", TRUTH_COLOUR], ["prediction", PREDICTION_COLOUR]]


def test_a_prediction_alone_has_its_own_colour_and_no_dice():
    viewer = slice_viewer(scan(), {"prediction": PREDICTION})
    assert viewer.outlines == [["prediction", PREDICTION_COLOUR]] and viewer.dice == []
    z, y, x = viewer.position
    assert PREDICTION.array[z, y, x], "it opens where the mask is"
    assert json.dumps(viewer.dice) == "[]" and slice_viewer(scan(), {}).position == [10, 20, 30]


def test_a_mask_on_another_grid_is_refused():
    other = Volume(TRUTH.array, (3.0, 1.0, 1.1))
    refused(lambda: slice_viewer(scan(), {"truth": other}), "different grids")


def test_large_scans_are_thinned_and_keep_their_size(monkeypatch):
    monkeypatch.setattr(slices, "MOST_VOXELS", scan().array.size // 3)
    viewer = slice_viewer(scan(), MASKS)
    assert viewer.step == 2 and viewer.shape == (20, 20, 30) and viewer.spacing == (3.0, 2.0, 2.0)
    assert np.array_equal(np.frombuffer(viewer.voxels, "<i2").reshape(viewer.shape), scan().array[:, ::2, ::2])
    z, y, x = viewer.position
    assert TRUTH.array[z, 2 * y - 1:2 * y + 2, 2 * x - 1:2 * x + 2].any(), "where the mask is, to a column and a row"
    assert viewer.dice == slice_dice(TRUTH.array, PREDICTION.array), "of all voxels"


def test_values_beyond_int16_are_clipped():
    wild = Volume(np.array([[[1e9, -1e9, 12.6]]], np.float32), (1, 1, 1))
    assert np.frombuffer(slice_viewer(wild, {}).voxels, "<i2").tolist() == [32767, -32768, 13]


# What is drawn -----------------------------------------------------------------------------------------

START = """async ({state, script}) => {
  const {default: widget} = await import('data:text/javascript;base64,' + script);
  const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const calls = {};
  state.voxels = bytes(state.voxels); state.masks = bytes(state.masks);
  window.state = state;
  widget.render({ el: document.getElementById('place'), model: {
    get: (name) => state[name], save_changes() {}, off() {},
    set: (name, value) => { state[name] = value; (calls['change:' + name] ?? []).forEach((call) => call()); },
    on: (name, call) => { (calls[name] ??= []).push(call); } } });
}"""
COLOUR_BOX = """([index, colour]) => {
  const canvas = document.querySelectorAll('canvas')[index], {width: w, height: h} = canvas;
  const data = canvas.getContext('2d').getImageData(0, 0, w, h).data, box = [1, 1, 0, 0];
  for (let i = 0; i < data.length; i += 4) if (colour.every((c, k) => Math.abs(data[i + k] - c) < 40)) {
    const x = (i / 4 % w) / w, y = Math.floor(i / 4 / w) / h;
    box[0] = Math.min(box[0], x); box[1] = Math.min(box[1], y); box[2] = Math.max(box[2], x); box[3] = Math.max(box[3], y);
  }
  return box;
}"""


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if shutil.which("chromium") is None:
        pytest.skip("no browser: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """The viewer in a page of its own, without a kernel; nothing may be fetched and no error be thrown."""
    page, wrong = chromium.new_page(viewport={"width": 1000, "height": 700}), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: request.url.startswith("data:") or wrong.append(request.url))
    viewer = slice_viewer(scan(), MASKS, "block")
    state = {name: getattr(viewer, name) for name in SENT}
    state |= {name: base64.b64encode(state[name]).decode() for name in ("voxels", "masks")}
    page.set_content(f"<style>{FRONT_END.with_suffix('.css').read_text()}</style><div id=place></div>")
    page.evaluate(START, {"state": state, "script": base64.b64encode(FRONT_END.read_bytes()).decode()})
    page.wait_for_function("document.querySelector('canvas').width > 100")
    yield page
    page.close()
    assert not wrong


def settle(page) -> None:
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def colour_box(page, view: str, colour: tuple[int, int, int]) -> list[float]:
    """Left, top, right and bottom of what has this colour, as shares of a view's width and height."""
    return page.evaluate(COLOUR_BOX, [["axial", "coronal", "sagittal"].index(view), list(colour)])


def rgb(colour: str) -> tuple[int, int, int]:
    return tuple(int(colour[i:i + 2], 16) for i in (1, 3, 5))


def test_outlines_lie_where_the_masks_do(page):
    """Columns 5-15 of 60 lie on the patient's right, drawn left; rows 20-30 of 40; slices 4-8 of 20 below the middle."""
    edge = 0.02
    for view, box in {"axial": (5 / 60, 20 / 40, 15 / 60, 30 / 40), "coronal": (5 / 60, 12 / 20, 15 / 60, 16 / 20),
                      "sagittal": (20 / 40, 12 / 20, 30 / 40, 16 / 20)}.items():
        assert colour_box(page, view, rgb(TRUTH_COLOUR)) == pytest.approx(box, abs=edge), view
    assert colour_box(page, "coronal", rgb(PREDICTION_COLOUR))[1] == pytest.approx(10 / 20, abs=edge), "two slices higher"


def test_left_is_left_and_up_is_up(page):
    """The block at the patient's left, front and top: drawn right, at the top of the axial and of the upright views."""
    page.evaluate("state.position = [15, 8, 47]")
    page.locator(".magunet-slices button").first.click()                        # any change draws anew
    settle(page)
    places = {"axial": (47.5 / 60, 8.5 / 40), "coronal": (47.5 / 60, 4.5 / 20), "sagittal": (8.5 / 40, 4.5 / 20)}
    for view, place in places.items():
        grey = brightness(page, view, *place), brightness(page, view, 1 - place[0], 1 - place[1])
        assert grey[0] > 150 > 60 > grey[1], (view, grey)


def brightness(page, view: str, x: float, y: float) -> float:
    """Mean grey around a place of a view, off the crosshair."""
    return page.evaluate("""([index, x, y]) => {
        const canvas = document.querySelectorAll('canvas')[index];
        const data = canvas.getContext('2d').getImageData(x * canvas.width - 6, y * canvas.height - 6, 5, 5).data;
        return data.filter((_, i) => i % 4 === 0).reduce((a, b) => a + b) / 25; }""",
        [["axial", "coronal", "sagittal"].index(view), x, y])


def test_a_click_moves_the_other_planes(page):
    canvas = page.locator(".view canvas").first
    size = canvas.bounding_box()
    canvas.click(position={"x": size["width"] * 45.5 / 60, "y": size["height"] * 10.5 / 40})
    assert page.evaluate("state.position")[1:] == [10, 45]
    page.locator(".view canvas").nth(1).click(position={"x": 5, "y": 5})
    assert page.evaluate("state.position") == [19, 10, 0], "the top of a coronal view is superior"


def test_keys_step_and_stay_within_the_scan(page):
    page.locator(".view canvas").first.click()
    start = page.evaluate("state.position")
    for key in ("ArrowUp", "ArrowUp", "ArrowDown"):
        page.keyboard.press(key)
    assert page.evaluate("state.position") == [start[0] + 1, *start[1:]]
    page.keyboard.press("End")
    page.keyboard.press("PageUp")
    assert page.evaluate("state.position")[0] == 19
    page.keyboard.press("s")
    page.keyboard.press("Home")
    assert page.evaluate("state.position") == [19, start[1], 0], "s chose the sagittal plane"
    settle(page)
    assert page.locator(".view.active .caption").inner_text().split() == ["sagittal", "1", "of", "60"]


def test_window_presets(page):
    page.evaluate("state.position = [15, 30, 5]")
    page.get_by_role("button", name="wide").click()
    settle(page)
    assert page.evaluate("state.window") == "wide"
    page.locator(".view canvas").first.click(position={"x": 3, "y": 3})
    page.keyboard.press("w")
    settle(page)
    assert page.evaluate("state.window") == "bone"
    assert "-200 to 1000 HU" in page.locator(".status").inner_text()


def test_outlines_can_be_hidden(page):
    page.get_by_label("truth").uncheck()
    settle(page)
    assert colour_box(page, "axial", rgb(TRUTH_COLOUR)) == [1, 1, 0, 0]
    page.locator(".view canvas").first.click()
    page.keyboard.press("1")
    assert page.get_by_label("truth").is_checked()


def test_the_strip_shows_dice_and_leads_to_its_slice(page):
    strip = page.locator("canvas.strip")
    size = strip.bounding_box()
    strip.click(position={"x": size["width"] * 6.5 / 20, "y": 20})
    settle(page)
    assert page.evaluate("state.position")[0] == 6
    assert "Dice of this axial slice 1.00" in page.locator(".status").inner_text()
    strip.click(position={"x": size["width"] * 12.5 / 20, "y": 20})
    settle(page)
    assert "none: no joint in it" in page.locator(".status").inner_text()
