"""JupyterLab and a real browser for tests: Debian's Chromium without a graphics card, driven by
Playwright."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from conftest import ROOT

sys.path.insert(0, str(ROOT / "workflow" / "viewer"))
import installer as offline
import packages as parts

CHROMIUM = shutil.which("chromium") or "chromium"
FLAGS = ("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update",
         "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader")
PATIENCE = 600
"""Seconds for anything: drawing a volume on a busy processor takes minutes."""


def missing() -> str:
    """Why no browser test can run here, or an empty text."""
    if shutil.which("chromium") is None:
        return "Chromium is not installed (Debian: apt-get install chromium)"
    if shutil.which("npm") is None:
        return "npm is not installed (Debian: apt-get install npm)"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "the Python package playwright is not installed"
    return ""


def copy_extension(folder: Path) -> Path:
    """A copy of JupyterLab's viewer extension as published, to be put on Jupyter's path; returns the path's
    entry."""
    real, target = offline.extension_folder(), folder / "labextensions" / parts.EXTENSION
    shutil.copytree(real, target, ignore=shutil.ignore_patterns(parts.FOLDER))
    text = (real / "package.json").read_text()
    (target / "package.json").write_text(text.replace(offline.OURS, offline.ORIGINAL))
    return folder


@contextlib.contextmanager
def running_lab(folder: Path, jupyter_path: Path, settings: Path) -> Iterator[str]:
    """Yields the address of a JupyterLab that serves ``folder``, with settings of its own; it is stopped
    afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex()
    environment = os.environ | {"JUPYTER_PATH": str(jupyter_path), "PYTHONPATH": str(ROOT),
                                "OMP_NUM_THREADS": "1",
                                "JUPYTER_CONFIG_DIR": str(settings / "config"),
                                "JUPYTER_DATA_DIR": str(settings / "data")}
    extension = settings / "config/lab/user-settings/@jupyterlab/apputils-extension"
    news = extension / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True, exist_ok=True)
    news.write_text('{"fetchNews": "false"}')                               # nobody is there to be asked
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1", f"--port={port}",
               "--allow-root",
               "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--notebook-dir={folder}",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with open(settings / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(f"{address}/api?token={token}", server)
            yield f"{address}/lab/tree/NOTEBOOK?token={token}"
        finally:
            server.terminate()
            server.wait(60)


def _wait_for(address: str, server: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=10).close()
            return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError("JupyterLab did not start")


class Seen(list):
    """Addresses of everything that a page asked for, with web sockets."""

    def watch(self, page) -> None:
        page.on("request", lambda request: self.append(request.url))
        page.on("websocket", lambda websocket: self.append(websocket.url))

    def external(self) -> list[str]:
        return [url for url in self if urlsplit(url).scheme not in ("data", "blob", "about")
                and urlsplit(url).hostname not in ("127.0.0.1", "localhost")]


@contextlib.contextmanager
def open_notebook(address: str, name: str,
                  size: tuple[int, int] = (800, 800)) -> Iterator[tuple[object, Seen]]:
    """Yields a page that shows the notebook with its kernel running, and what it has asked for so far."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page(viewport=dict(zip(("width", "height"), size)))
        page.set_default_timeout(1000 * PATIENCE)
        seen = Seen()
        seen.watch(page)
        page.goto(address.replace("NOTEBOOK", name))
        page.wait_for_selector(".jp-Notebook-cell")
        page.keyboard.press("Control+b")                        # no file browser beside it
        # the status bar: cells that run before it are not run at all
        page.get_by_text("| Idle").wait_for()
        yield page, seen
        browser.close()


def run_all(page) -> None:
    """Run all cells and wait for the last one's number."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.wait_for_function("""() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
        .every(prompt => /\\[\\d+\\]/.test(prompt.textContent))""")


def viewer_frame(page):
    """The frame that itkwidgets draws in, with its canvas there."""
    while not (frames := [frame for frame in page.frames if "itk-vtk-viewer" in frame.url]):
        page.wait_for_timeout(500)
    frames[-1].wait_for_selector("canvas", state="attached")
    return frames[-1]
