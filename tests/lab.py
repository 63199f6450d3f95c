"""JupyterLab as `make lab` starts it, and a browser: Debian's Chromium without a graphics card."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

from conftest import ROOT

MAKE = shutil.which("make")
CHROMIUM = shutil.which("chromium") or "chromium"
FLAGS = ("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader")


class Seen(list):
    """Addresses of everything that a page asked for, with web sockets."""

    def watch(self, page):
        page.on("request", lambda request: self.append(request.url))
        page.on("websocket", lambda websocket: self.append(websocket.url))

    def external(self):
        return [url for url in self if urlsplit(url).scheme not in ("data", "blob", "about")
                and urlsplit(url).hostname not in ("127.0.0.1", "localhost")]


def stand_ins(folder, python, *commands):
    """Puts what `make lab` needs into a folder, where Python notes how it is called, fails when that is for
    the viewer, and else does as told. Returns the path of these and few other commands, as a variable."""
    for name in ("Makefile", "pyproject.toml", "workflow/install.sh", "notebooks/00_start_here.ipynb",
                 *(path.name for path in ROOT.glob("requirements*.lock"))):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    noting = f'echo "$*" >> {folder}/calls; case "$*" in *viewer*) exit 2;; esac; {python}'
    scripts = {"bin/" + name: f'exec {shutil.which(name)} "$@"' for name in ("sh", "id", "echo")}
    scripts |= {".venv/bin/python": noting, **{f"bin/{name}": "" for name in commands}}
    for name, script in scripts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    (folder / ".venv" / "installed").touch()
    return {"PATH": str(folder / "bin")}


@contextlib.contextmanager
def make_lab(folder, **variables):
    """JupyterLab without its browser, on a free port of its own; yields the process and its description."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "config").mkdir()
    (folder / "config" / "jupyter_server_config.json").write_text(json.dumps(
        {"ServerApp": {"port": port, "port_retries": 0, "open_browser": False}}))
    own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTER_DATA_DIR": "share",
           "IPYTHONDIR": "ipython"}
    variables |= {name: str(folder / place) for name, place in own.items()}
    variables |= stand_ins(folder, f'exec {sys.executable} "$@"')
    with open(folder / "lab.log", "w") as log:
        process = subprocess.Popen([MAKE, "lab"], cwd=folder, env=os.environ | variables,
                                   stdout=log, stderr=log, start_new_session=True)
    try:
        end = time.monotonic() + 300
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.1)
            with contextlib.suppress(OSError):
                status("GET", port, "/")
                break
        described = list((folder / "runtime").glob("jpserver-*.json"))          # written before it listens
        assert described, (folder / "lab.log").read_text()
        yield process, json.loads(described[0].read_text())
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def status(method, port, path, token=None):
    """The HTTP status of a request; no redirection is followed."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(method, path, "{}" * (method == "POST"),
                           {"Authorization": f"token {token}"} if token else {})
        return connection.getresponse().status
