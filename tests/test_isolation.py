"""Nothing here listens or speaks to the outside: JupyterLab as `make lab` starts it and work offline."""

import re
import socket
import subprocess
import sys

import psutil
import pytest
from conftest import ROOT
from lab import MAKE, make_lab, stand_ins, status

from compendium import cli

pytestmark = pytest.mark.skipif(MAKE is None, reason="make is not installed")
ANSWERS = {"GET /api/contents": (403, 200), "GET /api/kernels": (403, 200), "POST /api/kernels": (403, 201),
           "GET /api/terminals": (403, 200), "GET /files/Makefile": (302, 200), "GET /lab": (302, 200)}
"""Status without the token, and with it; 302 leads to the page that asks for it."""


@pytest.mark.parametrize("commands, verb", [(["npm"], "install"), ([], "check")])
def test_make_lab_prepares_the_viewer_where_npm_is_and_starts_in_any_case(commands, verb, tmp_path):
    done = subprocess.run([MAKE, "lab"], cwd=tmp_path, env=stand_ins(tmp_path, "", *commands),
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    viewer, lab = (tmp_path / "calls").read_text().splitlines()
    assert viewer == f"workflow/viewer {verb}" and lab.startswith("-m jupyter lab ")
    assert "notebook 10 takes the next viewer, and says what to do" in done.stderr


def test_make_lab_listens_on_this_machine_only_and_asks_for_the_token(tmp_path):
    with make_lab(tmp_path) as (process, description):
        port, token = description["port"], description["token"]
        assert description["hostname"] == "127.0.0.1" and len(token) >= 32 and not description["password"]
        for words, expected in ANSWERS.items():
            method, path = words.split()
            assert (status(method, port, path), status(method, port, path, token)) == expected, words
        assert status("GET", port, "/api/contents", token[::-1]) == 403
        processes = psutil.Process(process.pid).children(recursive=True)        # with the kernel just started
        connections = [c for process in processes for c in process.net_connections("inet")]
        assert len(processes) >= 2 and port in {c.laddr.port for c in connections}
        addresses = {c.laddr.ip for c in connections} | {c.raddr.ip for c in connections if c.raddr}
        assert addresses == {"127.0.0.1"}


# Where no network is ----------------------------------------------------------------------------------------
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


def test_the_namespace_of_make_test_has_no_network():
    if not sys.platform.startswith("linux"):
        pytest.skip("namespaces are Linux's")
    done = subprocess.run(["sh", ROOT / "workflow" / "offline.sh", sys.executable, "-c", CLOSED],
                          capture_output=True, text=True)
    assert not re.search("there is a network|AssertionError", done.stderr), done.stderr
    if done.returncode:
        pytest.skip(f"no network namespace can be made here: {done.stderr.strip()[-200:]}")


def test_a_prediction_looks_for_no_other_machine(run, tmp_path, monkeypatch):
    calls = []
    for owner, name in ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo")):
        monkeypatch.setattr(owner, name, lambda *words: calls.append(words))
    scan = run.parents[1] / "data" / "boxes" / "imagesTr" / "box_0_0000.nii.gz"
    words = ["predict", str(scan), "--model", str(run), "--out", str(tmp_path), "--force"]
    assert cli.main(words) == 0 and not calls
