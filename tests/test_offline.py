"""`python workflow/viewer`: what is installed is what was recorded, whole or not at all, and goes away
without a trace."""

import base64
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from archives import member, tar
from conftest import ROOT, refused

from compendium.view import inspect

sys.path.insert(0, str(ROOT / "workflow" / "viewer"))
import installer as offline
import packages as parts

MAIN, PAGE, ARCHIVE = "main.js", "page/index.html", "page-1.2.3.tgz"
STATIC = {parts.REMOTE_ENTRY: "load the others", MAIN: 'start("https://far.example/page");',
          "main.js.map": "{}"}
PAGE_TEXT = '<script src="https://far.example/loader.js"></script>'


def archive(files):
    """An npm package with these files, as bytes."""
    return tar(*(member(f"package/{path}", content=text.encode()) for path, text in files.items()))


CONTENT = archive({"dist/index.html": PAGE_TEXT, "dist/io/reader.js": "not needed", "package.json": "{}",
                   "dist/../../escape.js": "must not be written"})


def integrity(content):
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


def snapshot(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*")
            if path.is_file()}


@pytest.fixture
def extension(tmp_path, monkeypatch):
    """A small extension as pip installs it, first on Jupyter's path, and one small package that it needs."""
    folder = tmp_path / "jupyter" / "labextensions" / parts.EXTENSION
    (folder / "static").mkdir(parents=True)
    for name, text in STATIC.items():
        (folder / "static" / name).write_text(text)
    (folder / "package.json").write_text(json.dumps({
        "version": parts.EXTENSION_VERSION,
        "jupyterlab": {"_build": json.loads("{" + offline.ORIGINAL + "}")}}, indent=2))
    changes = (parts.Change(MAIN, '"https://far.example/page"', "HERE + 'page/index.html'"),
               parts.Change(PAGE, "https://far.example/loader.js", "../loader.js"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setattr(parts, "PACKAGES", (
        parts.Package("page", "1.2.3", integrity(CONTENT), "page", leave=("dist/io/",)),))
    monkeypatch.setattr(parts, "STUBS", {"stub.js": "window.stub = {};\n"})
    monkeypatch.setattr(parts, "CHANGES", changes)
    return folder


@pytest.fixture
def npm(monkeypatch):
    """A stand-in for npm: what it packs, what it says where it fails, and the packages it was called for."""
    def run(command, **_):
        run.calls.append([word for word in command if "@" in word])
        (Path(command[command.index("--pack-destination") + 1]) / ARCHIVE).write_bytes(run.contents[ARCHIVE])
        return subprocess.CompletedProcess(command, 1 if run.error else 0, "", run.error)

    run.contents, run.error, run.calls = {ARCHIVE: CONTENT}, "", []
    monkeypatch.setattr(offline.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", run)
    return run


@pytest.fixture
def call(capsys):
    """Runs a command; returns its status, output and errors."""
    return lambda *words: (offline.main([*map(str, words)]), *capsys.readouterr())


def test_an_installation_adds_one_folder_changes_one_line_and_is_removed_to_the_byte(extension, npm, call):
    before, folder = snapshot(extension), extension / parts.FOLDER
    status, out, error = call("check")
    assert (status, out) == (2, "") and error.count("\n") == 1
    assert "programs are not installed; run 'python workflow/viewer install'; until then" in error
    assert inspect.itkwidgets_problem().endswith("are not installed; run 'python workflow/viewer install'")
    status, out, _ = call("install")
    assert status == 0 and out.startswith(f"installed: {folder}\n")
    after = snapshot(extension)
    assert {name for name in before if before[name] != after[name]} == {"package.json"}
    assert after["package.json"] == before["package.json"].replace(b'"static/', f'"{parts.FOLDER}/'.encode())
    added = {name.removeprefix(f"{parts.FOLDER}/"): after[name] for name in after.keys() - before.keys()}
    assert set(added) == {*STATIC, PAGE, "stub.js", "manifest.json"}
    assert added[MAIN] == b"start(HERE + 'page/index.html');"
    assert added[PAGE] == b'<script src="../loader.js"></script>'
    assert call("check")[:2] == (0, f"ready: {extension}\n") and inspect.itkwidgets_problem() == ""
    dates = {path: path.stat().st_mtime_ns for path in extension.rglob("*")}
    assert call("install")[1] == f"already installed: {folder}\n" and npm.calls == [["page@1.2.3"]]
    assert {path: path.stat().st_mtime_ns for path in extension.rglob("*")} == dates
    assert call("uninstall")[1].startswith("removed") and snapshot(extension) == before
    assert call("uninstall")[1] == "nothing to remove\n"


def test_a_bundle_carries_the_packages_to_a_machine_without_npm(extension, npm, tmp_path, monkeypatch, call):
    assert call("bundle", tmp_path / "viewer.tar")[0] == 0
    monkeypatch.setattr(offline.shutil, "which", lambda name: None)
    assert call("install", "--bundle", tmp_path / "viewer.tar")[0] == 0
    assert offline.installed_problems(extension) == [] and len(npm.calls) == 1


@pytest.mark.parametrize("damage, says", [
    (lambda folder: shutil.rmtree(folder), "not installed; run 'python workflow/viewer install'"),
    (lambda folder: (folder / MAIN).write_text("other"), "main.js: was changed"),
    (lambda folder: (folder / PAGE).unlink(), "page/index.html: is missing"),
    (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: cannot be read"),
    (lambda folder: (folder / "manifest.json").write_text('{"recipe": "old", "files": {}}'),
     "by another version of magunet"),
    (lambda folder: offline._switch(folder.parent, offline.OURS, offline.ORIGINAL),
     "does not load the installed viewer")])
def test_what_was_damaged_is_said_and_mended(damage, says, extension, npm):
    offline.install()
    sound = snapshot(extension)
    damage(extension / parts.FOLDER)
    (problem,) = offline.installed_problems(extension)
    assert says in problem and "\n" not in problem
    assert offline.install()[1] and snapshot(extension) == sound


def test_an_interruption_leaves_an_extension_that_works(extension, npm, monkeypatch):
    """At each change of a file's name in turn: JupyterLab is given the old files, or the new ones, and all of
    them."""
    replace = os.replace
    for step in range(6):
        offline.install()
        (extension / parts.FOLDER / MAIN).write_text("other")           # so that the next call installs again
        count = itertools.count()

        def killed(source, target, count=count, step=step):
            if next(count) == step:
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(os, "replace", killed)
        try:
            offline.install()
        except KeyboardInterrupt:
            loaded = json.loads((extension / "package.json").read_text())["jupyterlab"]["_build"]["load"]
            assert (extension / loaded).exists() and (extension / Path(loaded).parent / MAIN).exists(), step
        monkeypatch.setattr(os, "replace", replace)
        offline.install()
        assert offline.installed_problems(extension) == [], step
        assert {path.name for path in extension.iterdir()} == {"package.json", "static", parts.FOLDER}, step


def test_what_is_not_the_known_file_is_refused_and_nothing_changes(extension, npm, tmp_path):
    """A package, from npm and in a bundle, and a file of the extension; its lines and their number."""
    path, before = tmp_path / "viewer.tar", snapshot(extension)
    npm.contents[ARCHIVE] = archive({"dist/index.html": "evil"})
    refused(offline.install, "page 1.2.3 from npm", "sha512 differs", "nothing was installed")
    refused(lambda: offline.write_bundle(path), "sha512 differs")
    assert not path.exists()
    for content, says in ((b"evil", "sha512 differs"), (None, f"does not hold {ARCHIVE}")):
        path.write_bytes(tar(*(member(ARCHIVE, content=one) for one in [content] if one), mode="w"))
        refused(lambda: offline.install(path), "viewer.tar", says)
    path.write_bytes(b"not an archive")
    refused(lambda: offline.install(path), "viewer.tar: does not hold")
    refused(lambda: offline.install(tmp_path / "nowhere.tar"), "nowhere.tar: no such file")
    assert snapshot(extension) == before
    npm.contents[ARCHIVE] = CONTENT
    for text in ("start();", 'start("https://far.example/page", "https://far.example/page");'):
        (extension / "static" / MAIN).write_text(text)
        before = snapshot(extension)
        refused(offline.install, MAIN, "times and not once", "nothing was changed")
        assert snapshot(extension) == before, text


def test_what_keeps_it_from_being_installed_is_one_line(extension, npm, tmp_path, monkeypatch, call):
    def says(*words, verb="install"):
        status, _, error = call(verb)
        lines = [line for line in error.splitlines() if not line.startswith("fetching")]
        assert status == 2 and len(lines) == 1 and all(word in lines[0] for word in words), error

    def late(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    npm.error = "npm error code ENOTFOUND\nnpm error a long story\n"
    says("(npm error code ENOTFOUND)", "--bundle")
    for owner, name, stand_in, *words in (
            (subprocess, "run", late, "the viewer's programs could not be fetched within 15 minutes"),
            (offline.shutil, "which", lambda name: None, "npm", "is not installed", "install --bundle FILE"),
            (offline.os, "access", lambda *_: False, "no permission to write there")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, stand_in)
            says(*words)
    package = extension / "package.json"
    package.write_text(package.read_text().replace(parts.EXTENSION_VERSION, "0.3.0"))
    says("version 0.3.0 of the extension is not known", f"_extension=={parts.EXTENSION_VERSION}")
    for content in ("{", "", "[]", "\x00"):
        package.write_text(content)
        for verb in ("check", "install", "uninstall"):
            says("package.json", "--force-reinstall", verb=verb)
        assert any("package.json" in line for line in offline.problems()), content
    monkeypatch.setattr(offline, "jupyter_path", lambda _: [str(tmp_path / "empty")])
    says(f"{parts.EXTENSION} is not installed; python -m pip install")
