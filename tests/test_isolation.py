"""Nothing here listens or speaks to the outside: JupyterLab as `make lab` starts it and work offline."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import nbformat
import psutil
import pytest
import yaml
from boxes import TINY, write_cohort
from conftest import ROOT

LAB = ("Makefile", "pyproject.toml", "workflow/install.sh", "notebooks/00_start_here.ipynb",
       *(path.name for path in ROOT.glob("requirements*.lock")))
ANSWERS = {"GET /api/contents": (403, 200), "GET /api/kernels": (403, 200), "POST /api/kernels": (403, 201),
           "GET /api/terminals": (403, 200), "GET /files/Makefile": (302, 200), "GET /lab": (302, 200)}
"""Status without the token, and with it; 302 leads to the page that asks for it."""


@pytest.fixture
def lab(tmp_path):
    """JupyterLab by `make lab` without its browser, on a free port: its process and its own description."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in LAB:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    no_viewer = 'case "$*" in *magunet*) exit 0;; esac'
    python.write_text(f'#!/bin/sh\n{no_viewer}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / ".venv" / "installed").touch()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = tmp_path / "config" / "jupyter_server_config.json"
    settings.parent.mkdir()
    settings.write_text(json.dumps({"ServerApp": {"port": port, "port_retries": 0, "open_browser": False}}))
    own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTER_DATA_DIR": "share",
           "IPYTHONDIR": "ipython"}
    environment = os.environ | {name: str(tmp_path / folder) for name, folder in own.items()}
    with open(tmp_path / "lab.log", "w") as log:
        made = subprocess.Popen(["make", "lab"], cwd=tmp_path, env=environment, stdout=log, stderr=log,
                                start_new_session=True)
    try:
        end = time.monotonic() + 300
        while not listens(port) and time.monotonic() < end and made.poll() is None:
            time.sleep(0.1)
        found = list((tmp_path / "runtime").glob("jpserver-*.json"))       # written before it listens
        assert found, (tmp_path / "lab.log").read_text()
        yield made, json.loads(found[0].read_text())
    finally:
        os.killpg(made.pid, signal.SIGKILL)
        made.wait()


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def status(method, address, token=None):
    """The HTTP status of a request, redirections not followed."""
    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    headers = {"Authorization": f"token {token}"} if token else {}
    request = urllib.request.Request(address, b"{}" if method == "POST" else None, headers, method=method)
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_make_lab_listens_on_this_machine_only_and_asks_for_the_token(lab):
    made, told = lab
    assert told["hostname"] == "127.0.0.1" and len(told["token"]) >= 32 and not told["password"]
    base = f"http://127.0.0.1:{told['port']}"
    for words, wanted in ANSWERS.items():
        method, path = words.split()
        assert (status(method, base + path), status(method, base + path, told["token"])) == wanted, words
    assert status("GET", f"{base}/api/contents", told["token"][::-1]) == 403
    # with the kernel that was just started
    processes = psutil.Process(made.pid).children(recursive=True)
    connections = [c for process in processes for c in process.net_connections("inet")]
    assert len(processes) >= 2 and told["port"] in {c.laddr.port for c in connections}
    assert {c.laddr.ip for c in connections} | {c.raddr.ip for c in connections if c.raddr} == {"127.0.0.1"}


# Where no network is ----------------------------------------------------------------------------------------

OFFLINE = ["sh", str(ROOT / "workflow" / "offline.sh")]
CLOSED = """
import socket
assert [name for _, name in socket.if_nameindex()] == ["lo"]
for call in (lambda: socket.create_connection(("192.0.2.1", 443), 5),
             lambda: socket.getaddrinfo("example.org", 443)):
    try:
        call()
    except OSError:
        continue
    raise SystemExit("there is a network")
"""


def offline(folder, *words):
    """Run a command in a namespace without interfaces, with this checkout's magunet."""
    return subprocess.run([*OFFLINE, *map(str, words)], cwd=folder, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def without_network():
    if not sys.platform.startswith("linux"):
        pytest.skip("namespaces are Linux's")
    done = offline(ROOT, sys.executable, "-c", CLOSED)
    if "there is a network" in done.stderr:
        raise AssertionError(done.stderr)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"no network namespace can be made here: {reason}")


def test_a_verb_and_notebook_10_with_all_its_viewers_need_no_network(without_network, compendium):
    """The short form of `make offline`, which does so with the whole smoke workflow."""
    write_cohort(compendium / "data" / "boxes")
    settings = TINY.as_dict() | {"profile": "tiny", "cohort": "data/boxes", "epochs": 1}
    (compendium / "papermill_params" / "tiny.yaml").write_text(yaml.safe_dump(settings))
    trained = offline(compendium, sys.executable, "-m", "compendium", "train", "MAG-UNet", "--profile",
                      "tiny")
    assert trained.returncode == 0, trained.stderr
    done = offline(compendium, sys.executable, "-m", "papermill", ROOT / "notebooks/10_inspect_in_3d.ipynb",
                   "out.ipynb", "-f",
                   "papermill_params/tiny.yaml", "-k", "python3", "--no-progress-bar")
    assert done.returncode == 0, done.stderr
    outputs = [output for cell in nbformat.read(compendium / "out.ipynb", 4).cells
               for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert (compendium / "figures" / "tiny" / "error_map.png").exists()


def test_make_test_runs_all_trainings_and_notebooks_in_the_namespace(without_network):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    planned = subprocess.run(["make", "--dry-run", "test"], cwd=ROOT, capture_output=True, text=True).stdout
    assert re.search(r"^sh workflow/offline.sh .* snakemake .* profile=smoke -- grid runs/smoke/sample/\S+ "
                     r"runs/smoke/first_mask/\S+$", planned, re.M)
    assert re.search(r"^sh workflow/offline.sh .* pytest --nbval-lax .* notebooks$", planned, re.M)


def test_make_offline_runs_the_whole_smoke_workflow_in_the_namespace():
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(["make", "--dry-run", "offline"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"sh workflow/offline.sh .* snakemake .*/Snakefile .* --config profile=smoke$",
                     done.stdout, re.M)
