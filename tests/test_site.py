"""`make docs` makes a site that works as files and over HTTP, asks no host for anything, draws its equations,
and has no broken link. The notebooks are the repository's, with outputs that no one computed."""

import base64
import functools
import http.server
import json
import shutil
import subprocess
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import ROOT
from lab import CHROMIUM, FLAGS, Seen

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(not shutil.which("chromium"), reason="Chromium is not installed")]
VERSION = {"version_major": 2, "version_minor": 0}
RESULTS = [{"image/png": base64.b64encode((ROOT / "figures/readme/first_mask.png").read_bytes()).decode()},
           {"text/html": ["<table><tr><td>cell</td></tr></table>"]},
           {"application/vnd.jupyter.widget-view+json": VERSION | {"model_id": "0"},
            "text/plain": ["printed 骶髂关节分割 zygomorphic"]}]


def run(*command):
    return subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)


def make(executed, site):
    """Makes the site where no network is, if this machine can take it away."""
    command, offline = ["sh", "workflow/site.sh", executed, site], ["sh", "workflow/offline.sh"]
    return run(*command) if run(*offline, "true").returncode else run(*offline, *command)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A folder of notebooks that look as if they had been run."""
    tools = run("sh", "workflow/tools.sh", "docs")
    if tools.returncode:
        pytest.skip(tools.stderr.splitlines()[-1])
    folder = tmp_path_factory.mktemp("executed")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for number, cell in enumerate(cells, 1):
            cell["execution_count"] = number
        if path.stem == "03_network":
            state = VERSION | {"state": {"0": {"model_name": "LabelModel"}}}
            notebook["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": state}
            cells[-1]["outputs"] = [{"output_type": "display_data", "metadata": {}, "data": data}
                                    for data in RESULTS]
        (folder / path.name).write_text(json.dumps(notebook), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def site(executed):
    """The site's folder."""
    result = make(executed, executed.parent / "site")
    assert result.returncode == 0, result.stderr
    return executed.parent / "site"


@pytest.fixture
def browser():
    """A browser's page that fails the test if it asks another host for anything, or complains."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = [*FLAGS, "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]     # fails at once
        page = playwright.chromium.launch(executable_path=CHROMIUM, args=flags).new_page()
        requests, complaints = Seen(), []
        requests.watch(page)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        yield page
        page.context.browser.close()
    assert not [url for url in requests.external() if not url.startswith("file:")] + complaints


def test_every_page_is_drawn_and_every_link_leads_somewhere(site, browser):
    ids, links = {}, []
    for path in site.rglob("*.html"):
        browser.goto(path.as_uri())
        assert "$$" not in browser.inner_text("body"), path
        assert browser.evaluate("[...document.images].every(image => image.naturalWidth)"), path
        ids[path.as_uri()] = browser.evaluate("[...document.querySelectorAll('[id]')].map(tag => tag.id)")
        links += browser.evaluate("""[...document.querySelectorAll('[href], [src]')].map(tag =>
            new URL(tag.getAttribute('href') ?? tag.getAttribute('src'), document.URL).href)""")
    assert len(ids) > 30 and f"{site.as_uri()}/index.html" in ids
    for address, _, anchor in (link.partition("#") for link in {*links} if link.startswith("file:")):
        assert Path(unquote(urlsplit(address).path)).is_file(), address
        assert not anchor or unquote(anchor) in ids[address], (address, anchor)


def test_outputs_and_equations_are_drawn(site, browser):
    browser.goto((site / "notebooks/03_network.html").as_uri())
    assert browser.locator(".cell_output img").count() == browser.locator(".cell_output td").count() == 1
    statuses = browser.evaluate("document.fonts.ready.then(fonts => [...fonts].map(font => font.status))")
    assert statuses == ["loaded"]
    letter, fraction = (browser.locator(f"math {name}").first.bounding_box() for name in ("mi", "mfrac"))
    assert letter["height"] > 5 and letter["width"] > 3
    assert fraction["height"] > 1.8 * letter["height"] and fraction["width"] > 4 * letter["width"]


def test_search_leads_to_what_a_notebook_printed(site, browser):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for start in f"http://127.0.0.1:{server.server_port}/", (site / "index.html").as_uri():
            for word in "zygomorphic", "骶髂关节", "关节":
                browser.goto(start)
                browser.get_by_placeholder("Search").first.fill(word)
                browser.keyboard.press("Enter")
                browser.locator("#search-results li a", has_text="03 · The network").click()
                browser.wait_for_url("**/notebooks/03_network.html**")
        server.shutdown()


def test_notebooks_that_were_not_run_are_named(executed, tmp_path):
    folder = shutil.copytree(executed, tmp_path / "executed")
    (folder / "01_data_exploration.ipynb").unlink()
    notebook = json.loads((folder / "02_preprocessing.ipynb").read_text(encoding="utf-8"))
    next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")["outputs"] = [
        {"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}]
    (folder / "02_preprocessing.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    result = make(folder, tmp_path / "site")
    assert result.returncode == 1 and not (tmp_path / "site").exists()
    warnings = [line.split(": WARNING: ") for line in result.stderr.splitlines() if "WARNING" in line]
    assert [(Path(path).stem, text) for path, text in warnings] == [
        ("01_data_exploration", "not run to its end; make docs does that"),
        ("02_preprocessing", "not run to its end; make docs does that")]
