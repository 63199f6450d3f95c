"""`python workflow/viewer`: what is installed is what was recorded, whole or not at all, and goes away
without a trace."""

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import ROOT, refused

from compendium.view import inspect

sys.path.insert(0, str(ROOT / "workflow" / "viewer"))
import installer as offline
import packages as parts

MAIN, PAGE = "main.js", "page/index.html"
STATIC = {parts.REMOTE_ENTRY: "load the others", MAIN: 'start("https://far.example/page");',
          "main.js.map": "{}"}
PAGE_TEXT = '<script src="https://far.example/loader.js"></script>'


def call(capsys, *words):
    """Exit status, output and errors of the command line."""
    status = offline.main(list(words))
    return status, *capsys.readouterr()


def archive(files, name="package.tgz"):
    """An npm package with these files, as bytes."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for path, text in files.items():
            info = tarfile.TarInfo(f"package/{path}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return stream.getvalue()


CONTENT = archive({"dist/index.html": PAGE_TEXT, "dist/io/reader.js": "not needed", "package.json": "{}",
                   "dist/../../escape.js": "must not be written"})


def integrity(content):
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


def snapshot(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file()}


@pytest.fixture
def extension(tmp_path, monkeypatch):
    """A small extension as pip installs it, first on Jupyter's path, and one small package that it needs."""
    folder = tmp_path / "jupyter" / "labextensions" / parts.EXTENSION
    for name, text in STATIC.items():
        (folder / "static").mkdir(parents=True, exist_ok=True)
        (folder / "static" / name).write_text(text)
    content = {"version": parts.EXTENSION_VERSION,
               "jupyterlab": {"_build": json.loads("{" + offline.ORIGINAL + "}")}}
    (folder / "package.json").write_text(json.dumps(content, indent=2))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setattr(parts, "PACKAGES",
                        (parts.Package("page", "1.2.3", integrity(CONTENT), "page", leave=("dist/io/",)),))
    monkeypatch.setattr(parts, "STUBS", {"stub.js": "window.stub = {};\n"})
    monkeypatch.setattr(parts, "CHANGES",
                        (parts.Change(MAIN, '"https://far.example/page"', "HERE + 'page/index.html'"),
                                           parts.Change(PAGE, "https://far.example/loader.js",
                                                        "../loader.js")))
    return folder


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """A stand-in for npm that packs what `contents` holds, and writes down how it was called."""
    contents = {"page-1.2.3.tgz": CONTENT}
    calls = []

    def run(command, **_):
        calls.append(command)
        for name, content in contents.items():
            (Path(command[command.index("--pack-destination") + 1]) / name).write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(offline.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", run)
    run.contents, run.calls = contents, calls
    return run


def test_an_installation_adds_one_folder_and_changes_one_line(extension, npm):
    before = snapshot(extension)
    folder, done = offline.install()
    assert done and folder == extension / parts.FOLDER
    after = snapshot(extension)
    assert {name for name in before if before[name] != after[name]} == {"package.json"}
    assert after["package.json"] == before["package.json"].replace(b'"static/', f'"{parts.FOLDER}/'.encode())
    added = {name.removeprefix(f"{parts.FOLDER}/"): text for name, text in after.items()
             if name not in before}
    assert set(added) == {*STATIC, "page/index.html", "stub.js", "manifest.json"}
    assert added[MAIN] == b"start(HERE + 'page/index.html');"
    assert added[PAGE] == b'<script src="../loader.js"></script>'
    assert offline.installed_problems(extension) == []
    assert [word for word in npm.calls[0] if "@" in word] == ["page@1.2.3"]


def test_a_second_installation_does_nothing(extension, npm):
    offline.install()
    before = {path: path.stat().st_mtime_ns for path in extension.rglob("*")}
    folder, done = offline.install()
    assert not done and folder == extension / parts.FOLDER and len(npm.calls) == 1
    assert {path: path.stat().st_mtime_ns for path in extension.rglob("*")} == before


def test_uninstalling_gives_every_byte_back(extension, npm):
    before = snapshot(extension)
    offline.install()
    assert offline.uninstall()
    assert snapshot(extension) == before
    assert not offline.uninstall()


def test_a_bundle_carries_the_packages_to_a_machine_without_a_network(extension, npm, tmp_path, monkeypatch):
    path = offline.write_bundle(tmp_path / "viewer.tar")
    monkeypatch.setattr(offline.shutil, "which", lambda name: None)
    assert offline.install(path)[1]
    assert offline.installed_problems(extension) == []
    assert len(npm.calls) == 1


@pytest.mark.parametrize("damage, says", [
    (lambda folder: shutil.rmtree(folder), "not installed; run 'python workflow/viewer install'"),
    (lambda folder: (folder / MAIN).write_text("other"), "main.js: was changed"),
    (lambda folder: (folder / PAGE).unlink(), "page/index.html: is missing"),
    (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: cannot be read"),
    (lambda folder: (folder / "manifest.json").write_text('{"recipe": "old", "files": {}}'),
     "by another version of magunet"),
    (lambda folder: (folder.parent / "package.json").write_text(
        (folder.parent / "package.json").read_text().replace(parts.FOLDER, "static")),
     "does not load the installed viewer"),
])
def test_what_was_damaged_is_said_and_mended(damage, says, extension, npm):
    offline.install()
    wanted = snapshot(extension)
    damage(extension / parts.FOLDER)
    found = offline.installed_problems(extension)
    assert len(found) == 1 and says in found[0] and "\n" not in found[0]
    assert offline.install()[1]
    assert snapshot(extension) == wanted


@pytest.mark.parametrize("step", range(6))
def test_an_interruption_leaves_an_extension_that_works(step, extension, npm, monkeypatch):
    """Killed at each change of a file's name in turn: JupyterLab is given the old files, or the new ones, and
    all of them."""
    offline.install()
    (extension / parts.FOLDER / MAIN).write_text("other")             # so that the next call installs again
    count, replace = iter(range(100)), os.replace

    def killed(source, target):
        if next(count) == step:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    try:
        offline.install()
    except KeyboardInterrupt:
        loaded = json.loads((extension / "package.json").read_text())["jupyterlab"]["_build"]["load"]
        assert (extension / loaded).exists() and (extension / Path(loaded).parent / MAIN).exists()
    monkeypatch.setattr(os, "replace", replace)
    offline.install()
    assert offline.installed_problems(extension) == []
    assert {path.name for path in extension.iterdir()} == {"package.json", "static", parts.FOLDER}


def test_a_package_with_another_hash_is_refused_and_nothing_changes(extension, npm, tmp_path):
    npm.contents["page-1.2.3.tgz"] = archive({"dist/index.html": "evil"})
    before = snapshot(extension)
    refused(offline.install, "page 1.2.3 from npm", "sha512 differs", "nothing was installed")
    refused(lambda: offline.write_bundle(tmp_path / "viewer.tar"), "sha512 differs")
    assert snapshot(extension) == before and not (tmp_path / "viewer.tar").exists()


def test_a_bundle_is_verified_like_a_download(extension, npm, tmp_path):
    path = tmp_path / "viewer.tar"
    for files, says in (({"page-1.2.3.tgz": b"evil"}, "sha512 differs"),
                        ({}, "does not hold page-1.2.3.tgz")):
        with tarfile.open(path, "w") as tar:
            for name, content in files.items():
                (tmp_path / name).write_bytes(content)
                tar.add(tmp_path / name, name)
        refused(lambda: offline.install(path), "viewer.tar", says)
    path.write_bytes(b"not an archive")
    refused(lambda: offline.install(path), "viewer.tar: does not hold")
    refused(lambda: offline.install(tmp_path / "nowhere.tar"), "nowhere.tar: no such file")


@pytest.mark.parametrize("text",
                         ["start();", 'start("https://far.example/page", "https://far.example/page");'])
def test_a_file_that_is_not_the_known_one_stops_the_installation(text, extension, npm):
    (extension / "static" / MAIN).write_text(text)
    before = snapshot(extension)
    refused(offline.install, MAIN, "times and not once", "nothing was changed")
    assert snapshot(extension) == before


def test_what_is_missing_is_one_line(extension, npm, tmp_path, monkeypatch, capsys):
    package = extension / "package.json"
    package.write_text(package.read_text().replace(parts.EXTENSION_VERSION, "0.3.0"))
    refused(offline.install, "version 0.3.0 of the extension is not known",
            f"_extension=={parts.EXTENSION_VERSION}")
    package.write_text(package.read_text().replace("0.3.0", parts.EXTENSION_VERSION))
    monkeypatch.setattr(offline.os, "access", lambda *_: False)
    refused(offline.install, "no permission to write there")
    monkeypatch.undo()
    monkeypatch.setattr(offline, "jupyter_path", lambda _: [str(tmp_path / "empty")])
    status, _, error = call(capsys, "install")
    assert (status == 2 and error.count("\n") == 1
            and f"{parts.EXTENSION} is not installed; python -m pip install" in error)


def test_npm_missing_or_without_a_network_is_one_line(extension, monkeypatch, capsys):
    monkeypatch.setattr(offline.shutil, "which", lambda name: None)
    status, _, error = call(capsys, "install")
    assert status == 2 and error.count("\n") == 1
    assert "npm" in error and "is not installed" in error and "install --bundle FILE" in error
    monkeypatch.setattr(offline.shutil, "which", lambda name: f"/usr/bin/{name}")
    failed = subprocess.CompletedProcess([], 1, "", "npm error code ENOTFOUND\nnpm error a long story\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    status, _, error = call(capsys, "install")
    fetching, error = error.splitlines()
    assert (status == 2 and "fetching" in fetching and "(npm error code ENOTFOUND)" in error
            and "--bundle" in error)


def test_a_registry_that_never_answers_ends_in_one_line(extension, monkeypatch, capsys):
    def silent(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(offline.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", silent)
    status, _, error = call(capsys, "install")
    assert (status == 2
            and "the viewer's programs could not be fetched within 15 minutes" in error.splitlines()[-1])


@pytest.mark.parametrize("content", ["{", "", "[]", "\x00"])
def test_a_damaged_extension_is_one_line(content, extension, capsys):
    (extension / "package.json").write_text(content)
    for verb in ("check", "install", "uninstall"):
        status, out, error = call(capsys, verb)
        assert (status == 2 and error.count("\n") == 1 and "package.json" in out + error
                and "--force-reinstall" in out + error)
    assert any("package.json" in line for line in offline.problems())


def test_check_says_what_is_wrong_and_fails_or_what_is_ready(extension, npm, capsys):
    status, out, error = call(capsys, "check")
    assert (status, out) == (2, "") and error.count("\n") == 1
    assert "programs are not installed; run 'python workflow/viewer install'; until then" in error
    assert inspect.itkwidgets_problem().endswith("are not installed; run 'python workflow/viewer install'")
    assert call(capsys, "install")[1].startswith("installed: ")
    assert call(capsys, "install")[1].startswith("already installed: ") and inspect.itkwidgets_problem() == ""
    assert call(capsys, "check")[:2] == (0, f"ready: {extension}\n")
    assert call(capsys, "uninstall")[1].startswith("removed")
    assert call(capsys, "uninstall")[1] == "nothing to remove\n"


@pytest.mark.parametrize("there, verb", [(True, "install"), (False, "check")])
def test_make_lab_prepares_the_viewer_where_npm_is_and_starts_in_any_case(there, verb, tmp_path):
    """With stand-ins for npm and Python, of which every call of magunet fails."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    locks = (path.name for path in ROOT.glob("requirements*.lock"))
    for name in ("Makefile", "pyproject.toml", "workflow/install.sh", *locks):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    commands = {".venv/bin/python": f'echo "$*" >> {tmp_path}/calls; case "$*" in *viewer*) exit 2;; esac'}
    commands |= {f"bin/{name}": f'exec {shutil.which(name)} "$@"' for name in ("sh", "id", "echo")}
    for name, script in (commands | ({"bin/npm": ""} if there else {})).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv" / "installed").touch()
    done = subprocess.run([shutil.which("make"), "lab"], cwd=tmp_path, capture_output=True, text=True,
                          env={"PATH": str(tmp_path / "bin")})
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert (calls[0] == f"workflow/viewer {verb}" and calls[1].startswith("-m jupyter lab ")
            and len(calls) == 2)
    assert "notebook 10 takes the next viewer, and says what to do" in done.stderr


@pytest.mark.network
def test_the_real_packages_fit_the_real_extension(tmp_path, monkeypatch):
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    real = offline.extension_folder()
    folder = tmp_path / "labextensions" / parts.EXTENSION
    shutil.copytree(real, folder, ignore=shutil.ignore_patterns(parts.FOLDER))
    text = (real / "package.json").read_text()
    (folder / "package.json").write_text(text.replace(offline.OURS, offline.ORIGINAL))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    before = snapshot(folder)
    offline.install()
    assert offline.problems() == []
    size = sum(path.stat().st_size for path in (folder / parts.FOLDER).rglob("*") if path.is_file())
    assert 5 * 2**20 < size < 40 * 2**20
    assert offline.uninstall() and snapshot(folder) == before
